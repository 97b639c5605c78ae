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

from billet.adapters.log_throttle import LogThrottle, address_of, handshakes_fail_in_one_line
from billet.core.errors import NotSent, Unreachable
from billet.core.model import Auction, Bid, Host, Reason, Refusal
from billet.core.scoring import Weights
from billet.link import messages as wire
from billet.link.outbox import MAX_FRAME_BYTES, PING_AFTER_S, PONG_WITHIN_S, Outbox
from billet.link.rounds import Rounds
from billet.link.streams import Pipe, receive_all, send_all
from billet.ports import CreateOptions, HostsListener, Leader, NotTaken, Outcome, Reply, Unknown
from billet.wire import flintlock
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()

ANSWER_GRACE_S = 10.0  # beyond an order's own time, for the agent to look up what became of it
PIPE_WITHIN_S = 5.0  # how long an agent may take to open a stream's connection
NO_HANDSHAKE = "somebody dials the agents' link without TLS, or does not trust its certificate; agents need --link-ca"


@dataclass(frozen=True, slots=True)
class LinkTerm:
    """What the link needs to know of the term in which it works."""

    number: int
    weights: Weights
    listener: HostsListener
    arrive_s: float  # how long calls wait for a host that has not come to this server yet
    outdated: Callable[[str], None]  # told, with why, that hosts obey a later term only


class AgentConnection(WSListener):
    """One agent's connection, from its hello to its end."""

    def __init__(self, server: LinkServer) -> None:
        self.host: Host | None = None
        self.host_id = ""
        self.instance = ""
        self.late = False
        self.orders: dict[int, asyncio.Future[pb.Answer]] = {}
        self._server = server
        self._outbox: Outbox | None = None
        self._transport: WSTransport | None = None

    @property
    def address(self) -> str:
        """Where the agent is."""
        return address_of(self._transport.underlying_transport if self._transport else None)

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
        self.give_up(f"the link to host {self.host_id} broke")

    def give_up(self, why: str) -> None:
        """Wait no longer for what was ordered."""
        for future in self.orders.values():
            if not future.done():
                future.set_exception(Unreachable(why))
        self.orders.clear()

    def put(self, message: pb.Down) -> None:
        """Send a message, soon."""
        self.put_bytes(message.SerializeToString())

    def put_bytes(self, serialised: bytes) -> None:
        """Send a message that is bytes already, soon."""
        assert self._outbox
        self._outbox.put_bytes(serialised)

    def say_goodbye(self, why: str) -> None:
        """End the connection, saying why."""
        self.put(pb.Down(goodbye=pb.Goodbye(why=why)))
        if self._outbox and self._transport:
            self._outbox.flush()
            self._transport.disconnect()


class LinkServer:
    """All agents' connections. They last from reign to reign, and agents keep one to every server.

    So a new leader has its hosts at once: it only has to say welcome.
    """

    def __init__(self, token: str, bid_wait_s: float, bid_wait_max_s: float) -> None:
        self._token = token
        self._hosts: dict[str, AgentConnection] = {}
        self._pipes: dict[str, Pipe] = {}
        self._rounds = Rounds(self._hosts.get, bid_wait_s, bid_wait_max_s)
        self._term: LinkTerm | None = None
        self.seen_term = 0  # the greatest that any host has obeyed, as far as this server has heard
        self._leader = ""  # the link address of another server that leads
        self._arrived_by_s = 0.0  # of the loop's clock
        self._came = asyncio.Event()  # set, and replaced by a new one, whenever a host says hello
        self._order_id = 0
        self._server: asyncio.Server | None = None
        self._throttle = LogThrottle()

    # The server.

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Begin to accept agents; returns the port. OSError when it is taken."""
        handshakes_fail_in_one_line(NO_HANDSHAKE)
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

    def begin(self, term: LinkTerm) -> None:
        """This server leads: agents are welcome."""
        self._term = term
        self._arrived_by_s = asyncio.get_running_loop().time() + term.arrive_s
        for connection in list(self._hosts.values()):
            self._greet(connection)

    def end(self, why: str) -> None:
        """This server leads no longer: what it has ordered is another's to settle."""
        self._term = None
        for connection in list(self._hosts.values()):
            connection.give_up(why)

    def follow(self, leader: Leader | None) -> None:
        """Tell the agents who leads, in case they do not know that server."""
        self._leader = leader.link if leader else ""
        for connection in list(self._hosts.values()):
            if not self._term:
                self._greet(connection)

    async def close(self) -> None:
        """Stop listening and hang up."""
        for connection in list(self._hosts.values()):
            connection.say_goodbye("this server is stopping")
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
        if up.HasField("hello"):
            self._hello(connection, up.hello)
        host_id = connection.host_id
        if self._hosts.get(host_id) is not connection:
            return
        for bids in up.bids:
            self._rounds.answered(connection, bids)
        for answer in up.answers:
            future = connection.orders.pop(answer.order, None)
            if future and not future.done():
                future.set_result(answer)
        if self._term and up.HasField("inventory"):
            self._term.listener.observed(host_id, wire.get_inventory(up.inventory))
        if self._term and up.HasField("report"):
            self._term.listener.reported(host_id, wire.get_report(up.report))

    def _hello(self, connection: AgentConnection, hello: pb.Hello) -> None:
        host = wire.get_hello(hello)
        other = self._hosts.get(host.id)
        if other and other.instance != hello.instance:
            self._send_away(connection, host.id, other.address)
            return
        if other:
            self.gone(other)
        connection.host, connection.host_id, connection.instance = host, host.id, hello.instance
        self._hosts[host.id] = connection
        self.seen_term = max(self.seen_term, hello.term)
        if self._term and hello.term > self._term.number:
            self._term.outdated("a host has seen a later term: another server leads, or the store was put back")
        else:
            self._greet(connection)
        came, self._came = self._came, asyncio.Event()
        came.set()
        log.info("a host is connected", host=host.id)

    def _send_away(self, connection: AgentConnection, host_id: str, other: str) -> None:
        """Its place is taken: by an agent of the same name, or by one before it that broke down unnoticed so far."""
        if self._throttle.due(host_id, other, asyncio.get_running_loop().time()):
            log.warning("two agents with the same --id", host=host_id, connected=other, refused=connection.address)
        connection.say_goodbye(
            f"another agent is connected as host {host_id!r}, from {other}: give each host its own --id. "
            f"If that one is gone, this one is let in within {PING_AFTER_S + PONG_WITHIN_S:.0f} s"
        )

    def _greet(self, connection: AgentConnection) -> None:
        """Welcome when this server leads; who does, when not."""
        term = self._term
        if term is None or connection.host is None or self.seen_term > term.number:
            connection.put(pb.Down(standby=pb.Standby(leader=self._leader)))
            return
        connection.put(pb.Down(welcome=wire.put_welcome(term.number, term.weights)))
        term.listener.joined(connection.host)

    def gone(self, connection: AgentConnection) -> None:
        """A connection has ended."""
        if self._hosts.get(connection.host_id) is connection:
            del self._hosts[connection.host_id]
            log.info("a host is away", host=connection.host_id)
            self._rounds.left(connection.host_id)
            if self._term:
                self._term.listener.left(connection.host_id)

    # ports.Hosts.

    async def call_for_bids(self, auction: Auction, host_ids: Sequence[str]) -> list[Bid | Refusal]:
        """See ports.Hosts."""
        return await self._rounds.call_for_bids(auction, host_ids)

    def instance(self, host_id: str) -> str:
        """See ports.Hosts."""
        connection = self._hosts.get(host_id)
        return connection.instance if connection else ""

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        """See ports.Hosts."""
        order = pb.Order(
            method=flintlock.CREATE,
            payload=request,
            token=auction.id,
            demand=wire.put_resources(auction.demand),
            verdict_only=options.verdict_only,
            again=options.again,
            instance=options.instance,
        )
        try:
            answer = await self._order(host_id, order, timeout_s)
        except NotSent as error:
            # What an earlier leader has sent is not called back by our not sending it.
            return Unknown(error.text) if options.again else NotTaken(Refusal(host_id, Reason.AWAY))
        except Unreachable as error:
            return Unknown(error.text)
        return wire.get_outcome(host_id, answer)

    async def get(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """See ports.Hosts."""
        return await self.call(host_id, flintlock.GET, flintlock.with_uid(uid), timeout_s)

    async def call(self, host_id: str, method: str, request: bytes, timeout_s: float) -> Reply:
        """See ports.Hosts."""
        answer = await self._order(host_id, pb.Order(method=method, payload=request), timeout_s)
        if answer.code == Unreachable.code:
            raise Unreachable(f"host {host_id}: {answer.text}")
        return Reply(answer.code, answer.text, answer.payload)

    async def _order(self, host_id: str, order: pb.Order, timeout_s: float) -> pb.Answer:
        """Send an order and wait for its answer. Raises NotSent, or Unreachable when it may have been carried out."""
        term = self._term
        connection = await self._connection(host_id)
        if self._term is not term:
            raise NotSent(f"the term has ended before the order was sent to host {host_id}")
        if order.instance and not order.again and order.instance != connection.instance:
            raise NotSent(f"the agent of host {host_id} has been started again")
        self._order_id += 1
        order.id, order.timeout_ms = self._order_id, max(1, int(timeout_s * 1e3))
        order.term = self._term.number if self._term else 0  # hosts let anyone read
        future: asyncio.Future[pb.Answer] = asyncio.get_running_loop().create_future()
        connection.orders[order.id] = future
        connection.put(pb.Down(orders=[order]))
        try:
            async with asyncio.timeout(timeout_s + ANSWER_GRACE_S):
                return await future
        except TimeoutError:
            raise Unreachable(f"host {host_id} did not answer within {timeout_s + ANSWER_GRACE_S:.0f} s") from None
        finally:
            connection.orders.pop(order.id, None)

    async def _connection(self, host_id: str) -> AgentConnection:
        """A host's connection. Early in a reign, hosts that are still on their way to this server are waited for."""
        loop = asyncio.get_running_loop()
        while (connection := self._hosts.get(host_id)) is None:
            try:
                async with asyncio.timeout(self._arrived_by_s - loop.time() if self._term else 0):
                    await self._came.wait()
            except TimeoutError:
                raise NotSent(f"host {host_id} is not connected") from None
        return connection

    async def stream(
        self, host_id: str, method: str, requests: AsyncIterator[bytes], timeout_s: float | None
    ) -> AsyncIterator[bytes]:
        """See ports.Hosts."""
        connection = await self._connection(host_id)
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
            raise Unreachable(f"host {host_id} did not open the stream within {PIPE_WITHIN_S:.0f} s") from None
        finally:
            del self._pipes[pipe_id]
            if sending:
                sending.cancel()
            pipe.close()
