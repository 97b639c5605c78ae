"""The servers of a simulated cluster: the real front, office and link, joined as node.py joins them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from random import Random

from picows import WSListener

from billet.api.fleet_service import Nothing
from billet.api.flintlock_service import FlintlockService
from billet.api.leader_proxy import LeaderProxy
from billet.api.stale_reads import StaleReads
from billet.core.errors import BilletError, Code, HostVerdict, LeaderLost, StoreError
from billet.core.scoring import Weights
from billet.leader.accuracy import AccuracyTracker
from billet.leader.auctioneer import Auctioneer, Rules
from billet.leader.election_loop import next_term, until_over
from billet.leader.leadership import Leadership
from billet.leader.ledger import Ledger, elected
from billet.leader.reconciler import Reconciler
from billet.leader.recorder import AuctionRecorder
from billet.link.server import LinkServer, LinkTerm
from billet.ports import Answer, Leader
from billet.sim.history import Leads, Recorded, Stopped
from billet.sim.loop import SimProcess
from billet.sim.network import STORE, Network, request
from billet.sim.store import Etcd, SimStore
from billet.sim.world import SimClock, World
from billet.wire import flintlock
from billet.wire.headers import FORWARDED, token_of

UNANSWERED = {Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL}  # see adapters/forward.py
RESOLVE_AFTER_S = 30.0  # longer than any order that is held up plus the slowest flintlockd
KEEP_LOST_S = 86_400.0
BID_WAIT_S, BID_WAIT_MAX_S = 0.05, 2.0
HOLD_S = 10.0
GRACE_S = 30.0
LOOK_S = 0.1


class Ids:
    """Ids of auctions, for all servers."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """A new one."""
        return f"01SAVCT{next(self._count):019d}"


class SimForward:
    """ports.Backend: the way from one server to another that leads."""

    def __init__(self, net: Network, here: str, there: SimServer) -> None:
        self._net, self._here, self._there = net, here, there

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        there = self._there
        passed_on = {**metadata, FORWARDED: "1"}
        work = partial(there.serve, method, request, timeout_s, passed_on)
        said = await self._net.call(self._here, there.id, there.process, work, timeout_s)
        if said.code == Code.OK:
            return Answer(said.payload)
        if said.code in UNANSWERED and not said.answered:
            raise LeaderLost("the leader does not answer; try again")
        raise HostVerdict(said.code, said.text)

    def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None, metadata: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """See ports.Backend. No client of the simulation asks for one."""
        raise NotImplementedError

    async def dead(self) -> None:
        """See adapters/forward.py: its machine says that nobody listens there any more."""
        while self._there.up or not self._net.passes(self._there.id, self._here):  # noqa: ASYNC110  # as that does
            await asyncio.sleep(LOOK_S)


class SimServer:
    """One machine that runs `billet server`."""

    def __init__(
        self, world: World, net: Network, etcd: Etcd, number: int, rules: Rules, fence_after_s: float, new_id: Ids
    ) -> None:
        self.id = f"s{number}"
        self.me = Leader(self.id, f"{self.id}:9090", f"{self.id}:9095")
        self.clock = SimClock(world)
        self.process: SimProcess = world.loop.process("none")
        self.peers: dict[str, SimServer] = {}  # all servers, by id
        self._world, self._net, self._etcd = world, net, etcd
        self._rules, self._fence_after_s, self._new_id = rules, fence_after_s, new_id
        self._starts = 0

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._starts > 0 and self.process.alive

    @property
    def leads(self) -> bool:
        """Whether it takes itself for the leader."""
        return self._starts > 0 and self._service is not None

    def start(self, fuse: Callable[[SimProcess], None]) -> None:
        """A new process, which knows nothing."""
        self._starts += 1
        self.stopping, self._term, self._calls = False, 0, 0
        self._service: FlintlockService | None = None
        self._ledger: Ledger | None = None
        self._forward: SimForward | None = None
        process = self.process = self._world.loop.process(f"{self.id}.{self._starts}")
        process.at_death.append(lambda: self._net.died(process, silently=False))
        process.at_death.append(self._led_no_more)
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

    async def serve(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> bytes:
        """What clients and other servers reach. Raises BilletError."""
        if self.stopping:
            raise LeaderLost("this server is stopping")
        self._calls += 1
        try:
            return (await self._proxy.unary(method, request, timeout_s, metadata)).payload
        finally:
            self._calls -= 1

    # node.Server, line by line, with what it builds replaced by what is simulated.

    async def _run(self, process: SimProcess) -> None:
        self._store = SimStore(self._world, self._etcd, process, self._reaches_store)
        link = self._link = LinkServer("", BID_WAIT_S, BID_WAIT_MAX_S)
        self._proxy = LeaderProxy(lambda sent, metadata: token_of(sent, metadata, self._new_id), HOLD_S)

        def accept(path: str) -> WSListener | None:
            listener = link.accept(request(path))
            return listener if isinstance(listener, WSListener) else None

        self._net.listening[self.me.link] = (process, accept)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead())
            group.create_task(self._follow())

    async def elected(self) -> Ledger:
        """See control.reign.Candidate."""
        return await elected(self._store, self.me, self._link.seen_term)

    def trouble(self, error: StoreError) -> None:
        """See control.reign.Candidate."""
        self._proxy.trouble(f"no server leads: {error.text}")

    async def _lead(self) -> None:
        with suppress(StoreError):
            await self._store.depose(self.me)
        while ledger := await next_term(self):
            leadership = self._open_leadership(ledger)
            service = FlintlockService(leadership, Nothing(), self.id)
            self._ledger, self._service = ledger, service
            self._link.begin(
                LinkTerm(
                    ledger.term.number,
                    self._rules.weights,
                    leadership.accuracy,
                    leadership.rules.arrive_s,
                    ledger.end,
                )
            )
            self._route()
            self._leads(ledger.term.number, ledger)
            try:
                await until_over(self._store, ledger, leadership.reconciler)
            finally:
                self._ledger = self._service = None
                self._proxy.stale = self._proxy.own_stale = StaleReads(service, self._clock_s(), self._clock_s)
                self._proxy.trouble(f"no server leads: {ledger.why}")
                self._route()
                self._led_no_more()
                self._link.end("the term has ended")
                with suppress(BilletError):
                    await self._store.resign(ledger.term)

    async def finish(self) -> None:
        """SIGTERM."""
        self._world.tell(self.process.name, "is asked to stop")
        self.stopping = True
        service, ledger = self._service, self._ledger
        with suppress(StoreError):
            if ledger and await self._store.contested(ledger.term):
                ledger.end("this server is stopping")
        until_s = self._world.now_s + GRACE_S
        while self._calls and self._world.now_s < until_s:  # noqa: ASYNC110  # in virtual time it costs nothing
            await asyncio.sleep(LOOK_S)
        if service:
            await service.drain()
        await self._link.close()
        await self._store.close()
        self._world.tell(self.process.name, "ends")
        self.process.kill()

    def _open_leadership(self, ledger: Ledger) -> Leadership:
        reconciler = Reconciler(ledger, self.clock, RESOLVE_AFTER_S, KEEP_LOST_S, self._delete, self._fence_after_s)
        accuracy = AccuracyTracker(ledger.state, self.clock, reconciler, lambda outcome: None)
        auctioneer = Auctioneer(ledger, self._link, reconciler.ready, self._rules, self.clock, self._record, accuracy)
        return Leadership(ledger, auctioneer, reconciler, self._link, self._rules, accuracy)

    async def _delete(self, host_id: str, uid: str) -> bool:
        reply = await self._link.call(host_id, flintlock.DELETE, flintlock.with_uid(uid), self._rules.call_timeout_s)
        return reply.code == Code.OK

    def _route(self) -> None:
        self._proxy.route(self._service or self._forward, leads=self._service is not None)

    async def _follow(self) -> None:
        watching: asyncio.Task[None] | None = None
        async for leader in self._store.leaders():
            if watching:
                watching.cancel()
            self._forward, watching = None, None
            if leader and leader != self.me:
                self._forward = SimForward(self._net, self.id, self.peers[leader.id])
                watching = asyncio.create_task(self._watch_leader(leader, self._forward))
            self._link.follow(leader)
            self._route()

    async def _watch_leader(self, leader: Leader, forward: SimForward) -> None:
        await forward.dead()
        with suppress(StoreError):
            await self._store.depose(leader)

    def _record(self, recorder: AuctionRecorder) -> None:
        record = recorder.record
        self._world.tell(self.process.name, f"auction {record.auction.id[-6:]}: {record.outcome} {record.host}")
        self._world.note(Recorded(self._world.now_s, record))

    # What the world sees.

    def _clock_s(self) -> float:
        return self._world.now_s

    def _reaches_store(self, there: bool) -> bool:
        return self._net.passes(self.id, STORE) if there else self._net.passes(STORE, self.id)

    def _leads(self, term: int, ledger: Ledger) -> None:
        self._term = term
        self._etcd.ledgers[term] = ledger
        self._world.tell(self.process.name, f"leads, term {term}, {len(ledger.state.placements)} placements")
        self._world.note(Leads(self._world.now_s, term, self.id, True))

    def _led_no_more(self) -> None:
        if self._term:
            self._world.tell(self.process.name, f"leads no more, term {self._term}")
            self._world.note(Leads(self._world.now_s, self._term, self.id, False))
            self._term = 0


def draw_rules(chance: Random, ties: bool) -> Rules:
    """The settings of one seed."""
    weights = Weights(0.0, 0.0, 5.0) if ties else Weights(chance.uniform(0, 0.5), chance.uniform(0, 0.1), 5.0)
    return Rules(weights, chance.choice((0, 2, 32)), chance.choice((0, 2, 4)), 8.0, 4.0)
