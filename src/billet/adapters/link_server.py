"""The leader's end of the agents' link: Hosts over WebSockets that the agents open."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from secrets import token_urlsafe

import structlog
from google.protobuf.message import DecodeError
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from billet.adapters.outbox import MAX_FRAME_BYTES, PING_AFTER_S, PONG_WITHIN_S, Outbox
from billet.adapters.pipes import Pipe, receive_all, send_all
from billet.adapters.rounds import Rounds
from billet.core.errors import Away
from billet.core.model import Auction, Bid, Reason, Refusal
from billet.core.scoring import Weights
from billet.ports import HostsListener, Leader, NotTaken, Outcome, Reply, Unknown
from billet.wire import link as wire
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()

ANSWER_GRACE_S = 10.0  # beyond an order's own time, for the agent to look up what became of it
PIPE_WITHIN_S = 5.0  # how long an agent may take to open a stream's connection


@dataclass(frozen=True, slots=True)
class Reign:
    """What the link needs to know of the term in which it works."""

    term: int
    weights: Weights
    listener: HostsListener
    method_create: str


class AgentConnection(WSListener):
    """One agent's connection, from its hello to its end."""

    def __init__(self, server: LinkServer) -> None:
        self.host_id = ""
        self.instance = ""
        self.late = False
        self.orders: dict[int, asyncio.Future[pb.Answer]] = {}
        self._server = server
        self._outbox: Outbox | None = None
        self._transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """An agent is there; its hello follows."""
        self._transport = transport
        self._outbox = Outbox(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Something came from the agent."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            try:
                self._server.received(self, pb.Up.FromString(frame.get_payload_as_bytes()))
            except (DecodeError, ValueError) as error:
                log.warning("an agent sent what cannot be read; hanging up", host=self.host_id, error=str(error))
                transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The agent is gone."""
        self._server.gone(self)
        for future in self.orders.values():
            if not future.done():
                future.set_exception(Away(f"the link to host {self.host_id} broke"))
        self.orders.clear()

    def put(self, message: pb.Down) -> None:
        """Send a message, soon."""
        self.put_bytes(message.SerializeToString())

    def put_bytes(self, serialised: bytes) -> None:
        """Send a message that is bytes already, soon."""
        assert self._outbox
        self._outbox.put_bytes(serialised)

    def say_goodbye(self, why: str, leader: str = "", final: bool = False) -> None:
        """End the connection, saying why."""
        self.put(pb.Down(goodbye=pb.Goodbye(why=why, leader=leader, final=final)))
        if self._outbox and self._transport:
            self._outbox.flush()
            self._transport.disconnect()


class LinkServer:
    """All agents' connections. Between reigns it sends agents on to the leader."""

    def __init__(self, token: str, bid_wait_s: float, bid_wait_max_s: float) -> None:
        self._token = token
        self._hosts: dict[str, AgentConnection] = {}
        self._pipes: dict[str, Pipe] = {}
        self._rounds = Rounds(self._hosts.get, bid_wait_s, bid_wait_max_s)
        self._reign: Reign | None = None
        self._leader: Callable[[], Leader | None] = lambda: None
        self._order_id = 0
        self._server: asyncio.Server | None = None

    # The server.

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Begin to accept agents; returns the port. OSError when it is taken."""
        self._server = await ws_create_server(
            self._accept,
            host,
            port,
            ssl=tls,
            max_frame_size=MAX_FRAME_BYTES,
            enable_auto_ping=True,
            auto_ping_idle_timeout=PING_AFTER_S,
            auto_ping_reply_timeout=PONG_WITHIN_S,
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    def begin(self, reign: Reign) -> None:
        """This server leads: agents are welcome."""
        self._reign = reign

    def end(self, why: str, leader: Callable[[], Leader | None]) -> None:
        """This server does not lead (any more): send the agents on."""
        self._reign = None
        self._leader = leader
        for connection in list(self._hosts.values()):
            connection.say_goodbye(why)

    async def close(self) -> None:
        """Stop listening and hang up."""
        self.end("this server is stopping", lambda: None)
        if self._server:
            self._server.close()

    def _accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        given = request.headers.get("Authorization", "")
        if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            text = b"wrong link token: give the agent the server's --link-token\n"
            return WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_error_response(HTTPStatus.UNAUTHORIZED, text), None
            )
        path = request.path.decode() if isinstance(request.path, bytes) else str(request.path)
        if path.startswith("/stream/"):
            pipe = self._pipes.get(path.removeprefix("/stream/"))
            return pipe or WSUpgradeResponseWithListener(
                WSUpgradeResponse.create_error_response(HTTPStatus.GONE, b"no such stream\n"), None
            )
        return AgentConnection(self)

    # What agents say.

    def received(self, connection: AgentConnection, up: pb.Up) -> None:
        """A frame from an agent."""
        reign = self._reign
        if reign is None:
            leader = self._leader()
            connection.say_goodbye("this server does not lead", leader.link if leader else "")
            return
        if up.HasField("hello"):
            self._hello(connection, up.hello, reign)
        host_id = connection.host_id
        if self._hosts.get(host_id) is not connection:
            return
        for bids in up.bids:
            self._rounds.answered(connection, bids)
        if up.HasField("inventory"):
            reign.listener.observed(host_id, wire.get_inventory(up.inventory))
        for answer in up.answers:
            future = connection.orders.pop(answer.order, None)
            if future and not future.done():
                future.set_result(answer)
        if up.HasField("report"):
            reign.listener.reported(host_id, wire.get_report(up.report))

    def _hello(self, connection: AgentConnection, hello: pb.Hello, reign: Reign) -> None:
        host = wire.get_hello(hello)
        other = self._hosts.get(host.id)
        if other and other.instance != hello.instance:
            why = f"another agent is connected as host {host.id!r}: give each host its own --id"
            connection.say_goodbye(why)
            return
        if other:
            self.gone(other)
        connection.host_id, connection.instance = host.id, hello.instance
        self._hosts[host.id] = connection
        weights = reign.weights
        connection.put(
            pb.Down(
                welcome=pb.Welcome(
                    term=reign.term,
                    pressure_weight=weights.pressure,
                    delay_weight=weights.delay,
                    delay_half_s=weights.delay_half_s,
                )
            )
        )
        reign.listener.joined(host)

    def gone(self, connection: AgentConnection) -> None:
        """A connection has ended."""
        if self._hosts.get(connection.host_id) is connection:
            del self._hosts[connection.host_id]
            self._rounds.left(connection.host_id)
            if self._reign:
                self._reign.listener.left(connection.host_id)

    # ports.Hosts.

    async def call_for_bids(self, auction: Auction, host_ids: Sequence[str]) -> list[Bid | Refusal]:
        """See ports.Hosts."""
        return await self._rounds.call_for_bids(auction, host_ids)

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, verdict_only: bool = False
    ) -> Outcome:
        """See ports.Hosts."""
        order = pb.Order(
            payload=request,
            token=auction.id,
            demand=wire.put_resources(auction.demand),
            verdict_only=verdict_only,
        )
        if self._reign:
            order.method = self._reign.method_create
        try:
            answer = await self._order(host_id, order, timeout_s)
        except NotSentError:
            return NotTaken(Refusal(host_id, Reason.AWAY))
        except Away as error:
            return Unknown(error.text)
        return wire.get_outcome(host_id, answer)

    async def call(self, host_id: str, method: str, request: bytes, timeout_s: float) -> Reply:
        """See ports.Hosts."""
        answer = await self._order(host_id, pb.Order(method=method, payload=request), timeout_s)
        if answer.code == Away.code:
            raise Away(f"host {host_id}: {answer.text}")
        return Reply(answer.code, answer.text, answer.payload)

    async def _order(self, host_id: str, order: pb.Order, timeout_s: float) -> pb.Answer:
        """Send an order and wait for its answer. Raises NotSentError, or Away when it may have been carried out."""
        connection = self._hosts.get(host_id)
        if connection is None or self._reign is None:
            raise NotSentError(f"host {host_id} is not connected")
        self._order_id += 1
        order.id, order.term, order.timeout_ms = self._order_id, self._reign.term, max(1, int(timeout_s * 1e3))
        future: asyncio.Future[pb.Answer] = asyncio.get_running_loop().create_future()
        connection.orders[order.id] = future
        connection.put(pb.Down(orders=[order]))
        try:
            async with asyncio.timeout(timeout_s + ANSWER_GRACE_S):
                return await future
        except TimeoutError:
            raise Away(f"host {host_id} did not answer within {timeout_s + ANSWER_GRACE_S:.0f} s") from None
        finally:
            connection.orders.pop(order.id, None)

    async def stream(
        self, host_id: str, method: str, requests: AsyncIterator[bytes], timeout_s: float | None
    ) -> AsyncIterator[bytes]:
        """See ports.Hosts."""
        connection = self._hosts.get(host_id)
        if connection is None:
            raise NotSentError(f"host {host_id} is not connected")
        pipe_id, pipe = token_urlsafe(16), Pipe()
        self._pipes[pipe_id] = pipe
        opening = pb.OpenStream(id=pipe_id, method=method, timeout_ms=int((timeout_s or 0) * 1e3))
        connection.put(pb.Down(streams=[opening]))
        sending: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(PIPE_WITHIN_S):
                await pipe.opened.wait()
            sending = asyncio.create_task(send_all(pipe, requests))
            async for message in receive_all(pipe):
                yield message
        except TimeoutError:
            raise Away(f"host {host_id} did not open the stream within {PIPE_WITHIN_S:.0f} s") from None
        finally:
            del self._pipes[pipe_id]
            if sending:
                sending.cancel()
            pipe.close()


class NotSentError(Away):
    """The order was surely not sent."""
