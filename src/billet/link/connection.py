"""The leader's end of one agent's connection: frames in and out, and the orders that wait for an answer."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from billet.adapters.tls_errors import address_of
from billet.core.errors import Unreachable
from billet.core.identity import Claim
from billet.core.model import Host
from billet.link import bounds
from billet.link.outbox import Inbox, Outbox
from billet.link.streams import Pipe
from billet.wire.pb import link_pb2 as pb
from billet.wire.tls import peer_expiry_s, peer_names

log = structlog.get_logger()

HELLO_WITHIN_S = 10.0  # from the handshake
HELLO_BYTES = 2 << 20  # of a message before the agent is known; its labels may have 1 MiB


class Owner(Protocol):
    """The server that keeps the connections."""

    def opened(self, connection: AgentConnection) -> None:
        """A connection is open; its agent's hello follows."""

    def received(self, connection: AgentConnection, up: pb.Up) -> None:
        """Handle a message from an agent."""

    def gone(self, connection: AgentConnection) -> None:
        """Forget a connection that has closed."""


class AgentConnection(WSListener):
    """One agent's connection. `claim` is set by its hello."""

    def __init__(self, owner: Owner) -> None:
        self.claim: Claim | None = None
        self.late = False  # see rounds.Bidder
        self.doubted = False  # another machine has shown the same key; whether this agent lives is asked
        self.nonce = b""  # of the latest challenge
        self.certificate_ends_s = 0.0  # until when its certificate is valid, in seconds since 1970; 0 without one
        self._owner = owner
        self._orders: dict[int, asyncio.Future[pb.Answer]] = {}  # sent and not answered yet, by id
        self.streams: set[Pipe] = set()  # open ones, each on a connection of its own
        self._inbox = Inbox()
        self._outbox: Outbox | None = None
        self._transport: WSTransport | None = None
        self._no_hello: asyncio.TimerHandle | None = None

    @property
    def host_id(self) -> str:
        """The host's name; "" before the hello."""
        return self.claim.host.id if self.claim else ""

    @property
    def host(self) -> Host:
        """The host as its agent has described it. Only after the hello."""
        assert self.claim
        return self.claim.host

    @property
    def instance(self) -> str:
        """The unique name of the agent's process; "" before the hello."""
        return self.claim.instance if self.claim else ""

    @property
    def address(self) -> str:
        """The agent's address, "host:port"."""
        return address_of(self._transport.underlying_transport if self._transport else None)

    @property
    def peer(self) -> tuple[str, int]:
        """The agent's address and port."""
        return peer_of(self._transport)

    @property
    def certified_names(self) -> frozenset[str]:
        """The names in the agent's certificate; none without one."""
        return peer_names(self._transport.underlying_transport if self._transport else None)

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The handshake is complete."""
        self._transport = transport
        self.certificate_ends_s = peer_expiry_s(transport.underlying_transport)
        self._outbox = Outbox(transport)
        self._no_hello = asyncio.get_running_loop().call_later(HELLO_WITHIN_S, self._give_up_waiting)
        self._owner.opened(self)

    def _give_up_waiting(self) -> None:
        if not self.claim:
            self.say_goodbye(f"no hello within {HELLO_WITHIN_S:.0f} s")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle a frame from the agent."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.BINARY, WSMsgType.CONTINUATION):
            try:
                if (message := self._inbox.whole(frame, 0 if self.claim else HELLO_BYTES)) is not None:
                    self._owner.received(self, pb.Up.FromString(message))
            except (DecodeError, ValueError) as error:
                log.warning("closing link: malformed message from agent", host=self.host_id, error=str(error))
                transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is closed."""
        if self._no_hello:
            self._no_hello.cancel()
        self._owner.gone(self)
        self.abandon_orders(f"the link to host {self.host_id} closed")
        for pipe in list(self.streams):
            pipe.abandon()

    def challenge(self, nonce: bytes) -> None:
        """Ask the agent for a hello that is signed for this nonce."""
        self.nonce = nonce
        self.put(pb.Down(challenge=pb.Challenge(nonce=nonce)))

    def put(self, message: pb.Down) -> None:
        """Queue a message; it is sent at the end of this turn of the event loop."""
        self.put_bytes(message.SerializeToString())

    def put_bytes(self, serialised: bytes) -> None:
        """Queue a serialised message."""
        assert self._outbox
        self._outbox.put_bytes(serialised)

    def say_goodbye(self, why: str) -> None:
        """Tell the agent why, and close the connection."""
        self.put(pb.Down(goodbye=pb.Goodbye(why=why)))
        if self._outbox and self._transport:
            self._outbox.flush()
            self._transport.disconnect()

    # Orders.

    async def order(self, order: pb.Order, timeout_s: float) -> pb.Answer:
        """Send an order and wait for its answer. Raises Unreachable when the order may have been carried out."""
        future: asyncio.Future[pb.Answer] = asyncio.get_running_loop().create_future()
        self._orders[order.id] = future
        self.put(pb.Down(orders=[order]))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise Unreachable(f"host {self.host_id} did not answer within {timeout_s:.0f} s") from None
        finally:
            self._orders.pop(order.id, None)

    def answered(self, answer: pb.Answer) -> None:
        """Hand an answer to the order that waits for it, if it still waits."""
        future = self._orders.pop(answer.order, None)
        if future and not future.done():
            answer.text = bounds.error(answer.text)
            future.set_result(answer)

    def abandon_orders(self, why: str) -> None:
        """Stop waiting for answers: every open order raises Unreachable."""
        for future in self._orders.values():
            if not future.done():
                future.set_exception(Unreachable(why))
        self._orders.clear()


def peer_of(transport: WSTransport | None) -> tuple[str, int]:
    """The address and port at the other end of a connection."""
    peer = transport.underlying_transport.get_extra_info("peername") if transport else None
    return peer[:2] if isinstance(peer, tuple) else ("", 0)
