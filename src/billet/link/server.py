"""The leader's end of the link: reaches all hosts over WebSockets that their agents open (ports.Hosts)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus
from secrets import token_bytes, token_urlsafe

import structlog
from picows import (
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from billet.accepting import BACKLOG, ConnectionLimits, Counter, ListeningSocket, bind
from billet.adapters.tls_errors import throttle_tls_errors
from billet.broadcast import Broadcast
from billet.core.errors import NotSent, Unreachable
from billet.core.metadata import Metadata, ReplyMetadata
from billet.core.model import Auction, Bid, Reason, Refusal
from billet.core.report import Report
from billet.leader.leadership import LinkTerm
from billet.link import bounds, messages
from billet.link.connection import AgentConnection, peer_of
from billet.link.hello import NONCE_BYTES
from billet.link.listening import AGENT_LIMITS, AgentsSocket, throttle_shortage
from billet.link.one_by_one import OneByOne
from billet.link.outbox import MAX_FRAME_BYTES, PING_AFTER_S, PONG_WITHIN_S
from billet.link.roster import Roster
from billet.link.rounds import Rounds
from billet.link.streams import Pipe, receive_all, send_all
from billet.log_throttle import LogThrottle
from billet.ports import CreateOptions, Leader, NotTaken, Outcome, Reply, Unknown
from billet.wire import flintlock
from billet.wire.pb import link_pb2 as pb
from billet.wire.secret import Secret

log = structlog.get_logger()

ANSWER_GRACE_S = 10.0  # added to an order's timeout, so that the agent can look up an unknown outcome
HANDSHAKE_S = 5.0  # for each of TLS, WebSocket's with the token, and the end of TLS
PIPE_WITHIN_S = 5.0  # time for an agent to open a stream's connection
NO_HANDSHAKE = (
    "TLS handshake failed on the link: the agent uses no TLS or does not trust the certificate; give it --link-ca"
)


class LinkServer:
    """All agents' connections. Agents keep one to every server, and it outlasts changes of the leader.

    So a new leader is connected to its hosts already and only has to send its welcome.
    """

    def __init__(
        self,
        token: str,
        bid_wait_s: float,
        bid_wait_max_s: float,
        certificates: bool = False,
        nonce: Callable[[], bytes] = lambda: token_bytes(NONCE_BYTES),
        limits: ConnectionLimits = AGENT_LIMITS,
    ) -> None:
        """`certificates`: agents show certificates, which must name their hosts. `nonce` draws random bytes."""
        self._secret = Secret(token)
        self._roster = Roster(nonce, certificates, lambda host_id: self._rounds.left(host_id))
        self._hosts = self._roster.hosts
        self._pipes: dict[str, Pipe] = {}
        self._rounds = Rounds(self._hosts.get, bid_wait_s, bid_wait_max_s, self._roster.heard, self._roster.stands)
        self._arrived_by_s = 0.0  # until when calls wait for hosts that are not connected; loop time
        self._order_id = 0
        self._sockets: list[ListeningSocket] = []
        self._servers: list[asyncio.Server] = []  # one for each socket
        self._limits = limits
        self._unproven: Counter | None = None
        self._throttle = LogThrottle()
        self.received = OneByOne(self._handle).received

    def connections(self) -> int:
        """The number of agents that are connected."""
        return len(self._roster.all())

    @property
    def arrivals(self) -> Broadcast:
        """Sent whenever a host has connected."""
        return self._roster.arrivals

    @property
    def _term(self) -> LinkTerm | None:
        return self._roster.term

    # The server.

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Accept agents from now on; return the port. Raises OSError when the port is taken."""
        throttle_tls_errors(NO_HANDSHAKE)
        throttle_shortage()
        self._sockets = await bind(host, port, self._limits, AgentsSocket)
        self._unproven = self._sockets[0].counter
        self._servers = [await self._serve(one, tls) for one in self._sockets]
        bound: int = self._sockets[0].getsockname()[1]
        return bound

    async def renew_tls(self, tls: ssl.SSLContext) -> None:
        """New connections get this TLS from now on; those that exist go on.

        A server of picows keeps its context, so another one takes its place at the same sockets.
        """
        sockets = [one.again() for one in self._sockets]
        servers = [await self._serve(one, tls) for one in sockets]
        former, self._sockets, self._servers = (self._sockets, self._servers), sockets, servers
        for socket in former[0]:
            asyncio.get_running_loop().remove_reader(socket.fileno())
        for _ in range(2):  # what was accepted gets its protocol, or `close` would drop it
            await asyncio.sleep(0)
        for server in former[1]:
            server.close()

    async def _serve(self, at: ListeningSocket, tls: ssl.SSLContext | None) -> asyncio.Server:
        return await ws_create_server(
            self.accept,
            sock=at,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            ssl_shutdown_timeout=HANDSHAKE_S if tls else None,
            websocket_handshake_timeout=HANDSHAKE_S,
            backlog=BACKLOG,
            max_frame_size=MAX_FRAME_BYTES,
            enable_auto_ping=True,
            auto_ping_idle_timeout=PING_AFTER_S,
            auto_ping_reply_timeout=PONG_WITHIN_S,
        )

    def begin(self, term: LinkTerm) -> None:
        """This server leads from now on: decide about all agents, and welcome those that join."""
        self._roster.term = term
        self._arrived_by_s = asyncio.get_running_loop().time() + term.arrive_s
        self._roster.decide_all()

    def end(self, why: str) -> None:
        """This server leads no longer: open orders raise Unreachable, and the next leader resolves them."""
        self._roster.last_term = self._roster.term or self._roster.last_term
        self._roster.term = None
        for connection in self._roster.all():
            connection.abandon_orders(why)

    def follow(self, leader: Leader | None) -> None:
        """Another server leads, or none: tell the agents, in case they do not know its address."""
        self._roster.leader = leader.link if leader else ""
        if not self._term:
            for connection in self._roster.all():
                self._roster.tell_leader(connection)

    async def close(self) -> None:
        """Stop listening and close all connections."""
        for connection in self._roster.all():
            connection.say_goodbye("this server is stopping")
        for server in self._servers:
            server.close()

    def accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener:
        """Answer a WebSocket handshake: a listener for an agent or a stream, or an HTTP error."""
        given = request.headers.get("Authorization", "")
        scheme, _, shown = given.partition(" ")
        if self._secret.lines and not (scheme == "Bearer" and self._secret.accepts(shown)):
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

    def opened(self, connection: AgentConnection) -> None:
        """A connection is open: ask for a signed hello."""
        self._roster.challenge(connection)

    def _handle(self, connection: AgentConnection, up: pb.Up) -> None:
        if up.HasField("hello"):
            self._roster.hello(connection, up.hello)
            if connection.claim:
                self._proven(connection.peer)
        host_id = connection.host_id
        if self._hosts.get(host_id) is not connection:
            return
        for bids in up.bids:
            self._rounds.answered(connection, bids)
        for answer in up.answers:
            connection.answered(answer)
        if self._term and up.HasField("inventory"):
            try:
                inventory = messages.get_inventory(up.inventory)
            except ValueError as error:  # to leave rows out would be to say that their microVMs are gone
                self.dismiss(host_id, f"inventory of host {host_id!r} refused: {error}")
                return
            self._term.gate.observed(host_id, inventory)
        if self._term and up.HasField("report") and (report := self._report(host_id, up.report)):
            self._term.fleet.reported(host_id, report, asyncio.get_running_loop().time())
            self._term.gate.reported(host_id, report)

    def _proven(self, peer: tuple[str, int]) -> None:
        """It is known who is at the other end of a connection, which no longer counts for the limits."""
        if self._unproven:
            self._unproven.leave(peer)

    def _report(self, host_id: str, message: pb.Report) -> Report | None:
        """The report of a message; None for one that cannot be true."""
        try:
            return messages.get_report(message)
        except ValueError as error:
            if self._throttle.should_log(host_id, str(error), asyncio.get_running_loop().time()):
                log.warning("report ignored", host=host_id, error=str(error))
            return None

    def gone(self, connection: AgentConnection) -> None:
        """Forget a connection that has closed."""
        self._roster.gone(connection)

    # ports.Hosts.

    def dismiss(self, host_id: str, why: str) -> None:
        """See ports.Hosts."""
        self._roster.dismiss(host_id, why)

    def regreet(self, host_id: str) -> None:
        """See ports.Hosts."""
        self._roster.regreet(host_id)

    async def call_for_bids(
        self, auction: Auction, host_ids: Sequence[str], wait: bool = False
    ) -> list[Bid | Refusal]:
        """See ports.Hosts."""
        return await self._rounds.call_for_bids(auction, host_ids, wait)

    def instance(self, host_id: str) -> str:
        """See ports.Hosts."""
        connection = self._hosts.get(host_id)
        return connection.instance if connection else ""

    def certificate_ends_s(self, host_id: str) -> float:
        """See ports.Hosts."""
        connection = self._hosts.get(host_id)
        return connection.certificate_ends_s if connection else 0.0

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        """See ports.Hosts."""
        order = pb.Order(
            method=flintlock.CREATE, payload=request, token=auction.id,
            demand=messages.put_resources(auction.demand),
            verdict_only=options.verdict_only, resent=options.resent, instance=options.instance,
        )  # fmt: skip
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

    async def call(
        self, host_id: str, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()
    ) -> Reply:
        """See ports.Hosts."""
        order = pb.Order(method=method, payload=request, metadata=messages.put_metadata(metadata))
        answer = await self._order(host_id, order, timeout_s)
        if answer.code == Unreachable.code:
            raise Unreachable(f"host {host_id}: {answer.text}")
        headers, trailers = messages.get_metadata(answer.headers), messages.get_metadata(answer.trailers)
        return Reply(bounds.status(answer.code), answer.text, answer.payload, headers, trailers)

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
        self,
        host_id: str,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata = (),
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Hosts."""
        connection = await self._connection(host_id)
        pipe_id = token_urlsafe(16)
        pipe = self._pipes[pipe_id] = Pipe(lambda: connection.put(pb.Down(cancelled=[pipe_id])))
        opening = pb.OpenStream(id=pipe_id, method=method, timeout_ms=int((timeout_s or 0) * 1e3))
        opening.metadata.extend(messages.put_metadata(metadata))
        connection.put(pb.Down(streams=[opening]))
        connection.streams.add(pipe)
        sending: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(PIPE_WITHIN_S):
                await pipe.opened.wait()
            self._proven(peer_of(pipe.transport))
            sending = asyncio.create_task(send_all(pipe, requests))
            async for message in receive_all(pipe, told or ReplyMetadata()):
                yield message
        except TimeoutError:
            raise Unreachable(f"host {host_id} did not open the stream within {PIPE_WITHIN_S:.0f} s") from None
        finally:
            del self._pipes[pipe_id]
            connection.streams.discard(pipe)
            if sending:
                sending.cancel()
            pipe.close() if pipe.ended else pipe.abandon()
