"""The agent's end of the link: it dials, says hello, and answers what the leader asks."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from billet.adapters.log_throttle import LogThrottle
from billet.core.errors import BilletError, Code, HostVerdict, Unreachable
from billet.core.memory import remember
from billet.host.agent import Agent
from billet.host.flintlockd import CreateOrder
from billet.link import messages as wire
from billet.link.outbox import MAX_FRAME_BYTES, PING_AFTER_S, PONG_WITHIN_S, Outbox
from billet.link.streams import Pipe
from billet.ports import CreateOptions, Flintlock, InventoryUpdate, Reply, Report, Unknown
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()

BACKOFF_S = 0.05  # pause before dialling again, doubled up to
BACKOFF_MAX_S = 2.0
HUNG_UP = "it hangs up at once"
WITH_TLS = (
    "its link seems to have no TLS: give the server --link-tls-cert and --link-tls-key, or agents --link-insecure"
)
WITHOUT_TLS = "its link most likely has TLS: give --link-ca, the CA of its certificate, in place of --link-insecure"


class AgentLink(WSListener):
    """One connection to a server; the agent's Uplink while it lasts."""

    def __init__(self, owner: AgentDialler, server: str) -> None:
        self.server = server
        self.greeted = False  # the server has said something: it let us in
        self.sent_away = False  # it has said goodbye, and why was logged
        self.taken: dict[int, bool] = {}  # ids of the latest orders: a second copy of one is no second order
        self._owner = owner
        self._outbox: Outbox | None = None

    @property
    def connected(self) -> bool:
        """Whether there ever was a connection: a server that wants TLS hangs up before."""
        return self._outbox is not None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Say hello."""
        self._outbox = Outbox(transport)
        self._outbox.put(pb.Up(hello=self._owner.hello()))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Something came from the server."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type == WSMsgType.BINARY:
            try:
                down = pb.Down.FromString(frame.get_payload_as_bytes())
            except DecodeError:
                log.warning("the server sent what cannot be read; hanging up")
                transport.disconnect()
                return
            self._owner.received(self, down)

    def put(self, message: pb.Up) -> None:
        """Send a message, soon."""
        assert self._outbox
        self._outbox.put(message)

    # control.agent.Uplink.

    def report(self, report: Report) -> None:
        """Broadcast a report."""
        self.put(pb.Up(report=wire.put_report(report)))

    def inventory(self, inventory: InventoryUpdate) -> None:
        """Tell what changed."""
        self.put(pb.Up(inventory=wire.put_inventory(inventory)))


class AgentDialler:
    """Keeps the agent connected to every server; the one that says welcome with the newest term leads."""

    def __init__(
        self,
        agent: Agent,
        flintlock: Flintlock,
        servers: Sequence[str],
        token: str,
        tls: ssl.SSLContext | None,
        version: str,
    ) -> None:
        self._agent = agent
        self._flintlock = flintlock
        self._servers = list(servers)
        self._tls = tls
        self._headers = {"Authorization": f"Bearer {token}"}
        self._version = version
        self._kept: set[str] = set()  # servers that are dialled
        self._throttle = LogThrottle()
        self._tasks: set[asyncio.Task[None]] = set()

    def hello(self) -> pb.Hello:
        """What is said first."""
        return wire.put_hello(self._agent.host, self._version, self._agent.instance, self._agent.term)

    async def run(self) -> None:
        """Stay connected to all servers, for ever."""
        await asyncio.gather(*(self._keep(server) for server in dict.fromkeys(self._servers)))

    async def _keep(self, server: str, given: bool = True) -> None:
        """Dial this server again and again; one that was not `given` only as long as it answers."""
        self._kept.add(server)
        pause_s, reached = BACKOFF_S, True
        while reached or given:
            link = await self._connection(server)
            reached = link is not None
            # Chance keeps a whole fleet from dialling in step; it decides nothing.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = BACKOFF_S if link and link.greeted else min(pause_s * 2, BACKOFF_MAX_S)
        self._kept.discard(server)

    async def _connection(self, server: str) -> AgentLink | None:
        """One connection from beginning to end; None when there was none."""
        link = AgentLink(self, server)
        try:
            transport, _ = await self._dial(f"/agent?host={self._agent.host.id}", server, link)
        except (OSError, WSError, TimeoutError) as error:
            hung_up = self._tls and isinstance(error, ConnectionResetError | ConnectionAbortedError)
            self._complain(server, f"{HUNG_UP}; {WITH_TLS}" if hung_up else explain(error))
            return None
        try:
            await transport.wait_disconnected()
        finally:
            if self._agent.uplink is link:
                self._agent.uplink = None
        if not link.connected:
            self._complain(server, HUNG_UP if self._tls else f"{HUNG_UP}; {WITHOUT_TLS}")
            return None
        if not link.sent_away:
            log.warning("the link broke", server=server)
        return link

    def _complain(self, server: str, why: str) -> None:
        if self._throttle.due(server, why, asyncio.get_running_loop().time()):
            log.warning("cannot reach a server; trying again", server=server, error=why)

    async def _dial(self, path: str, server: str, listener: WSListener) -> tuple[WSTransport, WSListener]:
        scheme = "wss" if self._tls else "ws"
        return await ws_connect(
            lambda: listener,
            f"{scheme}://{server}{path}",
            ssl_context=self._tls,
            extra_headers=self._headers,
            max_frame_size=MAX_FRAME_BYTES,
            enable_auto_ping=True,
            auto_ping_idle_timeout=PING_AFTER_S,
            auto_ping_reply_timeout=PONG_WITHIN_S,
        )

    # What the leader says.

    def received(self, link: AgentLink, down: pb.Down) -> None:
        """A frame from the server."""
        if down.HasField("goodbye"):
            link.sent_away = True
            why, now_s = down.goodbye.why, asyncio.get_running_loop().time()
            if self._throttle.due(link.server, why, now_s):
                log.error("the server hangs up; trying again", server=link.server, why=why)
            return
        link.greeted = True
        self._throttle.forget(link.server)
        if down.HasField("welcome"):
            self._spawn(self._welcome(link, down.welcome))
        if down.standby.leader and down.standby.leader not in self._kept:
            self._spawn(self._keep(down.standby.leader, given=False))
        for call in down.calls:
            lots = wire.get_call(call)
            answers = self._agent.bids([auction for _, auction in lots])
            numbered = [(lot, answer) for (lot, _), answer in zip(lots, answers, strict=True)]
            link.put(pb.Up(bids=[wire.put_bids(call.round, numbered)]))
        for order in down.orders:
            if order.id not in link.taken:
                remember(link.taken, order.id, True)
                self._spawn(self._create(link, order) if order.token else self._call(link, order))
        for stream in down.streams:
            self._spawn(self._stream(stream, link.server))

    async def _welcome(self, link: AgentLink, welcome: pb.Welcome) -> None:
        """Announce everything, from a List that was begun after the connection was there."""
        if not self._agent.accepts(welcome.term):
            log.warning("welcomed by a leader of an old term", server=link.server, term=welcome.term)
            link.put(pb.Up(hello=self.hello()))  # so that it learns of the newer one
            return
        self._agent.weights = wire.get_weights(welcome)
        self._agent.uplink = link
        if await self._agent.refresh() and self._agent.uplink is link:
            link.inventory(self._agent.everything())
            self._agent.joined.set()
        link.report(self._agent.report())
        log.info("connected", server=link.server, term=welcome.term)

    async def _create(self, link: AgentLink, order: pb.Order) -> None:
        create = CreateOrder(
            order.term,
            order.token,
            order.payload,
            wire.get_resources(order.demand),
            order.timeout_ms / 1e3,
            CreateOptions(order.instance, order.again, order.verdict_only),
        )
        try:
            outcome = await self._agent.create(create)
        except Exception:  # the leader must not wait for an answer that never comes
            log.exception("a create failed unexpectedly", token=order.token)
            outcome = Unknown("the agent failed; its log has the details")
        link.put(pb.Up(answers=[wire.put_outcome(order.id, outcome)]))

    async def _call(self, link: AgentLink, order: pb.Order) -> None:
        try:
            reply = await self._agent.call(order.term, order.method, order.payload, order.timeout_ms / 1e3)
        except Exception:
            log.exception("a call failed unexpectedly", method=order.method)
            reply = Reply(Code.UNAVAILABLE, "the agent failed; its log has the details", b"")
        link.put(pb.Up(answers=[_answer(order.id, reply)]))

    async def _stream(self, opening: pb.OpenStream, server: str) -> None:
        """Open the stream's own connection and be the pipe between it and flintlockd."""
        pipe = Pipe()
        try:
            await self._dial(f"/stream/{opening.id}", server, pipe)
        except (OSError, WSError, TimeoutError) as error:
            log.warning("cannot open a stream", error=explain(error))
            return
        last = pb.Piece(end=True)
        try:
            timeout_s = opening.timeout_ms / 1e3 if opening.timeout_ms else None
            async for message in self._flintlock.stream(opening.method, _data(pipe), timeout_s):
                await pipe.send(pb.Piece(data=message))
        except HostVerdict as verdict:
            last = pb.Piece(end=True, code=verdict.status, text=verdict.text)
        except BilletError as error:
            last = pb.Piece(end=True, code=Code.UNAVAILABLE, text=error.text)
        try:
            await pipe.send(last)
            if pipe.transport:
                await pipe.transport.wait_disconnected()
        except Unreachable:
            pass
        finally:
            pipe.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _data(pipe: Pipe) -> AsyncIterator[bytes]:
    async for piece in pipe.pieces():
        if not piece.end:
            yield piece.data


def _answer(order: int, reply: Reply) -> pb.Answer:
    return pb.Answer(order=order, code=reply.code, text=reply.text, payload=reply.payload)


def explain(error: BaseException) -> str:
    """One line for a failed dial, with what would help where that is plain."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not signed by --link-ca ({error.verify_message})"
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError) and "WRONG_VERSION_NUMBER" in text:
        return (
            "the server's link has no TLS: give it --link-tls-cert and --link-tls-key, or the agent --link-insecure"
        )
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there; check --server, and that `billet server` runs"
    if isinstance(error, socket.gaierror):
        return "its name has no address; check --server"
    if "401" in text:
        return "the server refused the link token: give the agent the server's --link-token"
    return text
