"""The agent's end of the link: connect to every server, answer the leader's calls and orders."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog
from google.protobuf.message import DecodeError
from picows import WSFrame, WSListener, WSMsgType, WSTransport

from billet.core.errors import Code, Unreachable
from billet.core.identity import END_OF_TERMS
from billet.core.memory import remember
from billet.core.report import HostImages, InventoryUpdate, Report
from billet.host.agent import Agent
from billet.host.flintlockd import CreateOrder
from billet.link import bid_messages, messages
from billet.link.dial import Dial
from billet.link.hello import put_hello, sign
from billet.link.outbox import MAX_MESSAGE_BYTES, Inbox, Outbox
from billet.link.streams import Pipe, copy_all
from billet.log_throttle import LogThrottle
from billet.ports import CreateOptions, Flintlock, Identity, Reply, Unknown
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()

BACKOFF_S = 0.05  # pause before the next dial, doubled after each failure up to
BACKOFF_MAX_S = 2.0
MARGIN_BYTES = 1 << 20  # for what goes out together with a large reply
CHALLENGE_S = 1.0  # without a challenge within this time, the server is of an earlier version


class AgentLink(WSListener):
    """One connection to a server. The agent uses it as its Uplink while that server leads."""

    def __init__(self, owner: AgentDialler, server: str) -> None:
        self.server = server
        self.nonce: bytes | None = None  # of the server's latest challenge
        self.greeted = False  # the server has sent a message, so it has accepted this agent
        self.waits = ""  # why the leader does not let this agent in yet
        self.told: HostImages | None = None  # to the leader of this term
        self.sent_away = False  # the server has said goodbye, and the reason was logged
        self.seen_orders: dict[int, bool] = {}  # ids of the latest orders: a duplicate is ignored
        self.streams: dict[str, asyncio.Task[None]] = {}  # that this server has opened, by id
        self._owner = owner
        self._inbox = Inbox()
        self._outbox: Outbox | None = None

    @property
    def connected(self) -> bool:
        """Whether the WebSocket handshake was completed. A server that requires TLS closes before that."""
        return self._outbox is not None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Wait for the server's challenge, and say hello. A server of an earlier version sends none."""
        self._outbox = Outbox(transport)
        asyncio.get_running_loop().call_later(CHALLENGE_S, self._unchallenged)

    def _unchallenged(self) -> None:
        if self.nonce is None:
            self.say_hello(b"")

    def say_hello(self, nonce: bytes) -> None:
        """Send a hello that answers this challenge."""
        self.nonce = nonce
        self.put(pb.Up(hello=self._owner.hello(nonce)))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Handle a frame from the server."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.BINARY, WSMsgType.CONTINUATION):
            try:
                if (message := self._inbox.whole(frame)) is None:
                    return
                down = pb.Down.FromString(message)
            except (DecodeError, ValueError):
                log.warning("closing link: malformed message from server", server=self.server)
                transport.disconnect()
                return
            self._owner.received(self, down)

    def put(self, message: pb.Up) -> None:
        """Queue a message; it is sent at the end of this turn of the event loop."""
        assert self._outbox
        self._outbox.put(message)

    def opened(self, stream_id: str, stream: asyncio.Task[None]) -> None:
        """The server has opened a stream; this task carries it until it ends."""
        self.streams[stream_id] = stream
        stream.add_done_callback(lambda _: self.streams.pop(stream_id, None))

    def cancel_streams(self, ids: Iterable[str]) -> None:
        """Cancel the calls of these streams, as far as they have not ended."""
        for stream_id in ids:
            if stream := self.streams.get(stream_id):
                stream.cancel()

    # host.watcher.Uplink.

    def report(self, report: Report) -> None:
        """Send a report, with the host's images if they are others than last told to this leader."""
        if report.at_hand == self.told:
            report = replace(report, at_hand=None)
        self.told = report.at_hand or self.told
        self.put(pb.Up(report=messages.put_report(report)))

    def inventory(self, inventory: InventoryUpdate) -> None:
        """Send what changed on the host."""
        self.put(pb.Up(inventory=messages.put_inventory(inventory)))


class AgentDialler:
    """Keeps the agent connected to every server. The one whose welcome has the newest term leads."""

    def __init__(
        self,
        agent: Agent,
        flintlock: Flintlock,
        servers: Sequence[str],
        dial: Dial,
        version: str,
        identity: Identity | None = None,
    ) -> None:
        """`servers` are link addresses ("host:port"); `version` is this agent's, sent in its hello.

        Without an `identity` it says hello as agents of earlier versions do.
        """
        self._identity = identity
        self._agent = agent
        self._flintlock = flintlock
        self._servers = list(servers)
        self._dial = dial
        self._version = version
        self._kept: set[str] = set()  # servers that are dialled
        self._throttle = LogThrottle()
        self._tasks: set[asyncio.Task[None]] = set()

    def hello(self, nonce: bytes) -> pb.Hello:
        """The first message on every connection. It is signed unless there was no challenge (`nonce` is empty)."""
        hello = put_hello(self._agent.host, self._version, self._agent.instance, self._agent.term)
        hello.flintlockd = self._agent.daemon_id
        if self._identity and nonce:
            sign(hello, self._identity, nonce)
        return hello

    async def run(self) -> None:
        """Stay connected to all servers, for ever."""
        await asyncio.gather(*(self._keep(server) for server in dict.fromkeys(self._servers)))

    async def _keep(self, server: str, configured: bool = True) -> None:
        """Dial a server whenever there is no connection to it. Give up one that is not configured once it is away."""
        self._kept.add(server)
        pause_s, reached = BACKOFF_S, True
        while reached or configured:
            link = await self._connection(server)
            reached = link is not None
            # Jitter: the agents of a fleet must not dial in step. No decision depends on it.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            lasted = link and link.greeted and not link.sent_away
            pause_s = BACKOFF_S if lasted else min(pause_s * 2, BACKOFF_MAX_S)
        self._kept.discard(server)

    async def _connection(self, server: str) -> AgentLink | None:
        """One connection from beginning to end; None when it could not be opened."""
        link = AgentLink(self, server)
        try:
            connection = await self._dial(server, f"/agent?host={self._agent.host.id}", link)
        except OSError as error:
            self._complain(server, str(error))
            return None
        try:
            await connection.wait_disconnected()
        finally:
            if self._agent.uplink is link:
                self._agent.uplink = None
            link.cancel_streams(list(link.streams))  # nobody can cancel them any more, or read what they say
        if not link.connected:
            self._complain(server, self._dial.hung_up)
            return None
        if not link.sent_away:
            log.warning("link closed", server=server)
        return link

    def _complain(self, server: str, why: str) -> None:
        if self._throttle.should_log(server, why, asyncio.get_running_loop().time()):
            log.warning("cannot connect to server, retrying", server=server, error=why)

    # What servers send.

    def received(self, link: AgentLink, down: pb.Down) -> None:
        """Handle a message from a server."""
        if down.HasField("goodbye"):
            link.sent_away = True
            why, now_s = down.goodbye.why, asyncio.get_running_loop().time()
            if self._throttle.should_log(link.server, why, now_s):
                log.error("server refused this agent, retrying", server=link.server, why=why)
            return
        if down.HasField("challenge"):
            link.say_hello(down.challenge.nonce)
        link.greeted = link.greeted or len(down.ListFields()) > down.HasField("challenge")
        if not link.greeted:
            return
        self._throttle.recovered(link.server)
        if down.HasField("welcome"):
            self._spawn(self._welcome(link, down.welcome))
        if down.HasField("standby"):
            self._standby(link, down.standby)
        self._carry_out(link, down)

    def _carry_out(self, link: AgentLink, down: pb.Down) -> None:
        """Answer the leader's calls for bids, and begin its orders and streams."""
        for call in down.calls:
            lots = bid_messages.get_call(call)
            answers = self._agent.bids([auction for _, auction in lots])
            numbered = [(lot, answer) for (lot, _), answer in zip(lots, answers, strict=True)]
            link.put(pb.Up(bids=[bid_messages.put_bids(call.round, numbered)]))
        for order in down.orders:
            if order.id not in link.seen_orders:
                remember(link.seen_orders, order.id, True)
                self._spawn(self._create(link, order) if order.token else self._call(link, order))
        for stream in down.streams:
            link.opened(stream.id, self._spawn(self._stream(stream, link.server)))
        link.cancel_streams(down.cancelled)

    def _standby(self, link: AgentLink, standby: pb.Standby) -> None:
        """Dial the leader if its address is new, or note why the leader lets this agent wait."""
        if standby.why and standby.why != link.waits:
            link.waits = standby.why
            log.warning("the leader does not let this agent in yet", server=link.server, why=link.waits)
        if standby.leader and standby.leader not in self._kept:
            self._spawn(self._keep(standby.leader, configured=False))

    async def _welcome(self, link: AgentLink, welcome: pb.Welcome) -> None:
        """Send the full inventory, from a List that began after the connection was open."""
        if welcome.term >= END_OF_TERMS:
            log.error("ignoring leader of an impossible term", server=link.server, term=welcome.term)
            return
        if not self._agent.accepts(welcome.term):
            log.warning("ignoring leader of an old term", server=link.server, term=welcome.term)
            link.say_hello(link.nonce or b"")  # tells it the newer term
            return
        if link.waits:
            log.info("the leader lets this agent in", server=link.server)
            link.waits = ""
        self._agent.weights = messages.get_weights(welcome)
        link.told = None
        self._agent.uplink = link
        if await self._agent.refresh() and self._agent.uplink is link:
            link.inventory(self._agent.everything())
            self._agent.joined.set()
        link.report(self._agent.report())
        log.info("joined leader", server=link.server, term=welcome.term)

    async def _create(self, link: AgentLink, order: pb.Order) -> None:
        create = CreateOrder(
            order.term,
            order.token,
            order.payload,
            messages.get_resources(order.demand),
            order.timeout_ms / 1e3,
            CreateOptions(order.instance, order.resent, order.verdict_only),
        )
        try:
            outcome = await self._agent.create(create)
        except Exception:  # without an answer the leader would wait until its timeout
            log.exception("create failed unexpectedly", token=order.token)
            outcome = Unknown("internal error in the agent; see its log")
        link.put(pb.Up(answers=[messages.put_outcome(order.id, outcome)]))

    async def _call(self, link: AgentLink, order: pb.Order) -> None:
        try:
            metadata = messages.get_metadata(order.metadata)
            reply = await self._agent.call(order.term, order.method, order.payload, order.timeout_ms / 1e3, metadata)
        except Exception:
            log.exception("call failed unexpectedly", method=order.method)
            reply = Reply(Code.UNAVAILABLE, "internal error in the agent; see its log", b"")
        link.put(pb.Up(answers=[_answer(order.id, reply)]))

    async def _stream(self, opening: pb.OpenStream, server: str) -> None:
        """Open a connection for one stream and copy messages between it and flintlockd, until either has ended it.

        When the connection closes, or this task is cancelled, so is the call to flintlockd.
        """
        pipe = Pipe()
        try:
            await self._dial(server, f"/stream/{opening.id}", pipe)
        except OSError as error:
            log.warning("cannot open stream", server=server, method=opening.method, error=str(error))
            return
        copying = asyncio.ensure_future(copy_all(pipe, opening, self._flintlock))
        pipe.when_closed(copying.cancel)
        try:
            with suppress(Unreachable):
                await pipe.send(await copying)
        except BaseException:
            pipe.abandon()
            raise
        try:
            if pipe.transport:
                await pipe.transport.wait_disconnected()
        finally:
            pipe.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _answer(order: int, reply: Reply) -> pb.Answer:
    """A reply as a message. One that the link cannot carry becomes an error: it must not cost the host its link."""
    if len(reply.payload) > MAX_MESSAGE_BYTES - MARGIN_BYTES:
        text = (
            f"the reply has {len(reply.payload) >> 20} MiB, more than the link carries: list one namespace at a time"
        )
        return pb.Answer(order=order, code=Code.RESOURCE_EXHAUSTED, text=text)
    return pb.Answer(
        order=order,
        code=reply.code,
        text=reply.text,
        payload=reply.payload,
        headers=messages.put_metadata(reply.headers),
        trailers=messages.put_metadata(reply.trailers),
    )
