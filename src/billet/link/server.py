"""The leader's end of the link: reaches all hosts over WebSockets that their agents open (ports.Hosts)."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from secrets import token_urlsafe

import structlog
from picows import (
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from billet.adapters.log_throttle import LogThrottle, throttle_tls_errors
from billet.broadcast import Broadcast
from billet.core.errors import NotSent, Unreachable
from billet.core.model import Auction, Bid, Reason, Refusal
from billet.leader.leadership import LinkTerm
from billet.link import messages
from billet.link.connection import AgentConnection
from billet.link.listening import BACKLOG, bind, throttle_shortage
from billet.link.outbox import MAX_FRAME_BYTES, PING_AFTER_S, PONG_WITHIN_S
from billet.link.rounds import Rounds
from billet.link.streams import Pipe, receive_all, send_all
from billet.ports import CreateOptions, Leader, NotTaken, Outcome, Reply, Unknown
from billet.wire import flintlock
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()

ANSWER_GRACE_S = 10.0  # added to an order's timeout, so that the agent can look up an unknown outcome
PIPE_WITHIN_S = 5.0  # time for an agent to open a stream's connection
NO_HANDSHAKE = (
    "TLS handshake failed on the link: the agent uses no TLS or does not trust the certificate; give it --link-ca"
)


class LinkServer:
    """All agents' connections. Agents keep one to every server, and it outlasts changes of the leader.

    So a new leader is connected to its hosts already and only has to send its welcome.
    """

    def __init__(self, token: str, bid_wait_s: float, bid_wait_max_s: float) -> None:
        self._token = token
        self._hosts: dict[str, AgentConnection] = {}
        self._pipes: dict[str, Pipe] = {}
        self._rounds = Rounds(self._hosts.get, bid_wait_s, bid_wait_max_s)
        self._term: LinkTerm | None = None
        self.seen_term = 0  # the greatest term that any host has reported to this server
        self._leader = ""  # link address of the leading server, when that is another one
        self._arrived_by_s = 0.0  # until when calls wait for hosts that are not connected; loop time
        self.arrivals = Broadcast()  # sent whenever a host has said hello
        self._order_id = 0
        self._servers: list[asyncio.Server] = []
        self._throttle = LogThrottle()

    # The server.

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Accept agents from now on; return the port. Raises OSError when the port is taken."""
        throttle_tls_errors(NO_HANDSHAKE)
        throttle_shortage()
        sockets = await bind(host, port)
        self._servers = [
            await ws_create_server(
                self.accept,
                sock=sock,
                ssl=tls,
                backlog=BACKLOG,
                max_frame_size=MAX_FRAME_BYTES,
                enable_auto_ping=True,
                auto_ping_idle_timeout=PING_AFTER_S,
                auto_ping_reply_timeout=PONG_WITHIN_S,
            )
            for sock in sockets
        ]
        bound: int = sockets[0].getsockname()[1]
        return bound

    def begin(self, term: LinkTerm) -> None:
        """This server leads from now on: welcome all agents."""
        self._term = term
        self._arrived_by_s = asyncio.get_running_loop().time() + term.arrive_s
        for connection in list(self._hosts.values()):
            self._greet(connection)

    def end(self, why: str) -> None:
        """This server leads no longer: open orders raise Unreachable, and the next leader resolves them."""
        self._term = None
        for connection in list(self._hosts.values()):
            connection.abandon_orders(why)

    def follow(self, leader: Leader | None) -> None:
        """Another server leads, or none: tell the agents, in case they do not know its address."""
        self._leader = leader.link if leader else ""
        for connection in list(self._hosts.values()):
            if not self._term:
                self._greet(connection)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        for connection in list(self._hosts.values()):
            connection.say_goodbye("this server is stopping")
        for server in self._servers:
            server.close()

    def accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        """Answer a WebSocket handshake: a listener for an agent or a stream, or an HTTP error."""
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

    # What agents send.

    def received(self, connection: AgentConnection, up: pb.Up) -> None:
        """Handle a message from an agent."""
        if up.HasField("hello"):
            self._hello(connection, up.hello)
        host_id = connection.host_id
        if self._hosts.get(host_id) is not connection:
            return
        for bids in up.bids:
            self._rounds.answered(connection, bids)
        for answer in up.answers:
            connection.answered(answer)
        if self._term and up.HasField("inventory"):
            self._term.listener.observed(host_id, messages.get_inventory(up.inventory))
        if self._term and up.HasField("report"):
            self._term.listener.reported(host_id, messages.get_report(up.report))

    def _hello(self, connection: AgentConnection, hello: pb.Hello) -> None:
        host = messages.get_hello(hello)
        other = self._hosts.get(host.id)
        if other and other.instance != hello.instance:
            self._refuse_duplicate(connection, host.id, other.address)
            return
        if other:
            self.gone(other)
        connection.host, connection.host_id, connection.instance = host, host.id, hello.instance
        self._hosts[host.id] = connection
        self.seen_term = max(self.seen_term, hello.term)
        if self._term and hello.term > self._term.number:
            self._term.outdated("a host has seen a later term: another server leads, or the store was restored")
        else:
            self._greet(connection)
        self.arrivals.send()
        log.info("host connected", host=host.id)

    def _refuse_duplicate(self, connection: AgentConnection, host_id: str, other: str) -> None:
        """Refuse an agent whose name is taken: by another agent, or by its own dead connection for some seconds."""
        if self._throttle.should_log(host_id, other, asyncio.get_running_loop().time()):
            log.warning("agent refused: --id in use", host=host_id, connected=other, refused=connection.address)
        connection.say_goodbye(
            f"another agent is connected as host {host_id!r}, from {other}: give each host its own --id. "
            f"If that agent has died, this one is accepted within {PING_AFTER_S + PONG_WITHIN_S:.0f} s"
        )

    def _greet(self, connection: AgentConnection) -> None:
        """Send a welcome when this server leads, else the leader's address."""
        term = self._term
        if term is None or connection.host is None or self.seen_term > term.number:
            connection.put(pb.Down(standby=pb.Standby(leader=self._leader)))
            return
        connection.put(pb.Down(welcome=messages.put_welcome(term.number, term.weights)))
        term.listener.joined(connection.host)

    def gone(self, connection: AgentConnection) -> None:
        """Forget a connection that has closed."""
        if self._hosts.get(connection.host_id) is connection:
            del self._hosts[connection.host_id]
            log.info("host disconnected", host=connection.host_id)
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

    def address(self, host_id: str) -> str:
        """The address of a host's agent, "host:port"; "" when it is not connected."""
        connection = self._hosts.get(host_id)
        return connection.address if connection else ""

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        """See ports.Hosts."""
        order = pb.Order(
            method=flintlock.CREATE,
            payload=request,
            token=auction.id,
            demand=messages.put_resources(auction.demand),
            verdict_only=options.verdict_only,
            resent=options.resent,
            instance=options.instance,
        )
        try:
            answer = await self._order(host_id, order, timeout_s)
        except NotSent as error:
            # An order that an earlier leader sent may still be carried out.
            return Unknown(error.text) if options.resent else NotTaken(Refusal(host_id, Reason.AWAY))
        except Unreachable as error:
            return Unknown(error.text)
        return messages.get_outcome(host_id, answer)

    async def get(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """See ports.Hosts."""
        return await self.call(host_id, flintlock.GET, flintlock.with_uid(uid), timeout_s)

    async def delete(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        """See ports.Hosts."""
        return await self.call(host_id, flintlock.DELETE, flintlock.with_uid(uid), timeout_s)

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
            raise NotSent(f"the term ended before the order was sent to host {host_id}")
        if order.instance and not order.resent and order.instance != connection.instance:
            raise NotSent(f"the agent of host {host_id} was restarted")
        self._order_id += 1
        order.id, order.timeout_ms = self._order_id, max(1, int(timeout_s * 1e3))
        order.term = self._term.number if self._term else 0  # 0: hosts answer reads of any term
        return await connection.order(order, timeout_s + ANSWER_GRACE_S)

    async def _connection(self, host_id: str) -> AgentConnection:
        """A host's connection. Early in a term, wait for a host that is not connected yet. Raises NotSent."""
        loop = asyncio.get_running_loop()
        while (connection := self._hosts.get(host_id)) is None:
            try:
                async with asyncio.timeout(self._arrived_by_s - loop.time() if self._term else 0):
                    await self.arrivals.wait()
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
