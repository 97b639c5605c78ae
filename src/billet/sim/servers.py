"""The servers of a simulated cluster: the class that `billet server` runs, given simulated parts."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from random import Random

from picows import WSListener

from billet.api.flintlock_service import FlintlockService
from billet.api.leader_proxy import LeaderProxy
from billet.api.recorded import NoRecordedAuctions
from billet.api.stale_reads import StaleReads
from billet.core.accuracy import Outcome
from billet.core.errors import Code, HostVerdict, LeaderLost
from billet.core.fair_queue import DEFAULT_BOUNDS, Bounds
from billet.core.metadata import ReplyMetadata
from billet.core.quotas import Quota, Quotas
from billet.core.scoring import Weights
from billet.leader.accuracy import KEPT
from billet.leader.archive import NoArchive
from billet.leader.leadership import LeaderSettings, Leadership, open_leadership
from billet.leader.ledger import Ledger
from billet.leader.recorder import AuctionRecorder
from billet.leader.rules import Rules
from billet.leader.server import Factories, Server, Service
from billet.link.hello import NONCE_BYTES
from billet.link.server import LinkServer
from billet.ports import Answer, Leader
from billet.sim.etcd import Etcd
from billet.sim.history import Leads, Recorded, Stopped, Waits
from billet.sim.loop import SimProcess
from billet.sim.network import STORE, Network, request
from billet.sim.store import SimStore
from billet.sim.world import SimClock, World
from billet.wire import auction_records
from billet.wire.headers import FORWARDED, TOKEN, token_of

UNANSWERED = {Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL}  # see adapters/forward.py
RESOLVE_AFTER_S = 30.0  # longer than any delayed order plus the slowest flintlockd
BID_WAIT_S, BID_WAIT_MAX_S = 0.05, 2.0
HOLD_S = 10.0
GRACE_S = 30.0
LOOK_S = 0.1
NAMESPACE = "ns"  # of all microVMs of a run
NARROW = 0.12  # share of the runs in which few creates are carried out at a time


class Ids:
    """Auction ids, unique over all servers of a run."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """A new id."""
        return f"01SAVCT{next(self._count):019d}"


class SimForward:
    """leader.server.Forward: a server's connection to the server that leads."""

    def __init__(self, net: Network, here: str, there: SimServer) -> None:
        self.leader = there.me
        self._net, self._here, self._there = net, here, there

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        there = self._there
        forwarded = {**metadata, FORWARDED: "1"}
        work = partial(there.serve, method, request, timeout_s, forwarded)
        said = await self._net.call(self._here, there.id, there.process, work, timeout_s)
        if said.code == Code.OK:
            return Answer(said.payload, said.trailers)
        if said.code in UNANSWERED and not said.answered:
            raise LeaderLost("the leader does not answer; try again")
        raise HostVerdict(said.code, said.text)

    def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend. No simulated client opens a stream."""
        raise NotImplementedError

    async def dead(self) -> None:
        """Return when the leader's machine refuses connections, as in adapters/forward.py."""
        while self._there.up or not self._net.passes(self._there.id, self._here):  # noqa: ASYNC110  # as that does
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """Nothing is kept open between calls."""


class SimService(FlintlockService):
    """Flintlock's service; it notes for the checkers who waits for a create."""

    def __init__(self, world: World, process: str, leadership: Leadership, server: str) -> None:
        super().__init__(leadership, NoRecordedAuctions(), server)
        self._world, self._process = world, process

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See Backend."""
        token = metadata.get(TOKEN, "")
        if not token:
            return await super().unary(method, request, timeout_s, metadata)
        self._world.note(Waits(self._world.now_s, self._process, token, True))
        try:
            return await super().unary(method, request, timeout_s, metadata)
        finally:
            self._world.note(Waits(self._world.now_s, self._process, token, False))


class SimListeners:
    """leader.server.Listeners: the port on which simulated clients reach a server."""

    def __init__(self, world: World, proxy: LeaderProxy) -> None:
        self._world = world
        self._proxy = proxy
        self._open = True
        self._calls = 0  # in flight

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """A unary call from a client or another server. Raises BilletError."""
        if not self._open:
            raise LeaderLost("this server is stopping")
        self._calls += 1
        try:
            return await self._proxy.unary(method, request, timeout_s, metadata)
        finally:
            self._calls -= 1

    async def serving(self, yes: bool) -> None:
        """See Listeners. Simulated clients do not check a server's health."""

    async def stop(self, grace_s: float) -> None:
        """See Listeners."""
        self._open = False
        until_s = self._world.now_s + grace_s
        while self._calls and self._world.now_s < until_s:  # noqa: ASYNC110  # in virtual time it costs nothing
            await asyncio.sleep(LOOK_S)


class SimArchive(NoArchive):
    """leader.archive.Archive on a server's disk: what it recorded is there after a restart.

    No simulated client asks for ends and events."""

    def __init__(self, note: Callable[[AuctionRecorder], None]) -> None:
        self._note = note
        self._outcomes: dict[str, deque[bytes]] = defaultdict(lambda: deque(maxlen=KEPT))

    def add_auction(self, recorder: AuctionRecorder) -> None:
        """See Archive."""
        self._note(recorder)

    def add_outcome(self, outcome: Outcome) -> None:
        """See Archive."""
        self._outcomes[outcome.host].append(auction_records.encode_outcome(outcome))

    def outcomes(self, host_id: str, limit: int) -> Sequence[Outcome]:
        """See Archive."""
        return auction_records.decode_outcomes(list(self._outcomes[host_id])[-limit:])


class SimServer:
    """One machine that runs `billet server`."""

    def __init__(
        self, world: World, net: Network, etcd: Etcd, number: int, settings: LeaderSettings, new_id: Ids
    ) -> None:
        self.id = f"s{number}"
        self.me = Leader(self.id, f"{self.id}:9090", f"{self.id}:9095")
        self.clock = SimClock(world)
        self.process: SimProcess = world.loop.process("none")
        self.peers: dict[str, SimServer] = {}  # all servers, by id
        self._world, self._net, self._etcd = world, net, etcd
        self._settings, self._new_id = settings, new_id
        self._archive = SimArchive(self._record)
        self._starts = 0
        self._term = 0  # the term in which it leads, 0 = it does not
        self._server: Server | None = None
        self._listeners: SimListeners | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._starts > 0 and self.process.alive

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop and has not ended."""
        return self._server is not None and self._server.stopping

    @property
    def leads(self) -> bool:
        """Whether it acts as the leader."""
        return self._server is not None and self._server.leadership is not None

    def has_bound(self, host_id: str) -> bool:
        """Whether it leads, and its ledger has bound this host's name to a key."""
        leadership = self._server.leadership if self._server else None
        host = leadership.ledger.state.hosts.get(host_id) if leadership else None
        return bool(host and host.key)

    def start(self, fuse: Callable[[SimProcess], None]) -> None:
        """Start a new process, with nothing in memory."""
        self._starts += 1
        process = self.process = self._world.loop.process(f"{self.id}.{self._starts}")
        process.at_death.append(lambda: self._net.died(process, silently=False))
        process.at_death.append(self._leads_no_more)
        self._world.note(Stopped(self._world.now_s, self.id, False))
        self._world.tell(process.name, "starts")
        process.spawn(self._run(process))
        fuse(process)

    def stand_still(self, stop: bool) -> None:
        """SIGSTOP and SIGCONT."""
        if stop == self.process.stopped:
            return
        self._world.note(Stopped(self._world.now_s, self.id, stop))
        if stop:
            self.process.stop()
        else:
            self.process.go_on()

    async def serve(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """A call from a client or another server. Raises BilletError."""
        if self._listeners is None:
            raise LeaderLost("this server is starting")
        return await self._listeners.call(method, request, timeout_s, metadata)

    async def finish(self) -> None:
        """SIGTERM: as node.run_server ends."""
        self._world.tell(self.process.name, "is asked to stop")
        if self._server and self._running:
            await self._server.finish(GRACE_S)
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            await self._server.close()
        self._world.tell(self.process.name, "ends")
        self.process.kill()

    async def _run(self, process: SimProcess) -> None:
        """Build a server from simulated parts, as node.Node builds one from real ones, and run it."""
        store = SimStore(self._world, self._etcd, process, self._reaches_store)
        chance = self._world.chance(f"challenges of {process.name}")
        link = LinkServer("", BID_WAIT_S, BID_WAIT_MAX_S, nonce=lambda: chance.randbytes(NONCE_BYTES))
        proxy = LeaderProxy(lambda sent, metadata: token_of(sent, metadata, self._new_id), HOLD_S)
        listeners = self._listeners = SimListeners(self._world, proxy)

        def accept(path: str) -> WSListener | None:
            listener = link.accept(request(path))
            return listener if isinstance(listener, WSListener) else None

        def lead(ledger: Ledger) -> Leadership:
            self._leads(ledger)
            return open_leadership(ledger, link, self.clock, self._settings, self._archive)

        def stale_reads(service: Service, ended_s: float) -> StaleReads:
            self._leads_no_more()
            return StaleReads(service, ended_s, self.clock.monotonic_s)

        factories = Factories(
            leadership=lead,
            service=lambda leadership: SimService(self._world, process.name, leadership, self.id),
            stale_reads=stale_reads,
            forward=lambda leader: SimForward(self._net, self.id, self.peers[leader.id]),
        )
        server = self._server = Server(self.me, store, link, proxy, listeners, self.clock, factories)
        self._net.listening[self.me.link] = (process, accept)
        self._running = asyncio.create_task(server.run())
        await self._running

    # What the checkers see.

    def _reaches_store(self, there: bool) -> bool:
        return self._net.passes(self.id, STORE) if there else self._net.passes(STORE, self.id)

    def _record(self, recorder: AuctionRecorder) -> None:
        record = recorder.record
        self._world.tell(self.process.name, f"auction {record.auction.id[-6:]}: {record.outcome} {record.host}")
        self._world.note(Recorded(self._world.now_s, record, self.id))

    def _leads(self, ledger: Ledger) -> None:
        self._term = term = ledger.term.number
        self._etcd.ledgers[term] = ledger
        self._world.tell(self.process.name, f"leads, term {term}, {len(ledger.state.placements)} placements")
        self._world.note(Leads(self._world.now_s, term, self.id, True))

    def _leads_no_more(self) -> None:
        if self._term:
            self._world.tell(self.process.name, f"leads no more, term {self._term}")
            self._world.note(Leads(self._world.now_s, self._term, self.id, False))
            self._term = 0


def draw_settings(world: World, chance: Random) -> LeaderSettings:
    """The leader's settings for one seed."""
    weights = Weights(0.0, 0.0) if world.ties else Weights(chance.uniform(0, 0.5), chance.uniform(0, 2))
    ask_hosts, ask_random = chance.choice((0, 2, 32)), chance.choice((0, 2, 4))
    fence_after_s = chance.choice((0.0, 1.0, 2.5))
    # A stream of its own: runs without a quota or a shadow policy are the same as if there were none.
    more = world.chance("quotas and shadow policy")
    quotas: Quotas = {NAMESPACE: Quota(vcpu=more.randint(4, 24), vms=more.randint(3, 12))}
    rules = Rules(
        weights, ask_hosts, ask_random, world.chance("standing bids only").random() >= 0.75, 8.0, 4.0,
        shadow=weights._replace(policy="pack") if more.random() < 0.3 else None,
        quotas=quotas if more.random() < 0.25 else {}, creates=_draw_bounds(world.chance("few slots")),
    )  # fmt: skip
    return LeaderSettings(rules, RESOLVE_AFTER_S, fence_after_s)


def _draw_bounds(chance: Random) -> Bounds:
    """The bounds on creates: in some runs so narrow that creates wait and are refused."""
    if chance.random() >= NARROW:
        return DEFAULT_BOUNDS
    return Bounds(
        chance.choice((1, 2)),
        chance.choice((1, 2, 0)),
        0,
        wait_s=chance.uniform(0.5, 5.0),
        slow_s=chance.uniform(0.2, 2),
    )
