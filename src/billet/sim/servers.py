"""The servers of a simulated cluster: the real front, office and link, joined as node.py joins them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import partial
from random import Random

from picows import WSListener

from billet.adapters.link_server import LinkServer, Reign
from billet.api.fleet import Nothing
from billet.api.front import Front
from billet.api.service import FlintlockService
from billet.api.stale import StaleReads
from billet.control.auctioneer import Auctioneer, Rules
from billet.control.auditor import Auditor
from billet.control.ledger import Ledger, elected
from billet.control.office import Office
from billet.control.reconciler import Reconciler
from billet.control.reign import next_reign, until_over
from billet.control.story import Story
from billet.core.errors import BilletError, Code, HostVerdict, LeaderLost, StoreError
from billet.core.scoring import Weights
from billet.ports import Answer, Leader
from billet.sim.evidence import Leads, Recorded, Stopped
from billet.sim.loop import Process
from billet.sim.network import STORE, Network, request
from billet.sim.store import Etcd, SimStore
from billet.sim.world import SimClock, World
from billet.wire import flintlock
from billet.wire.headers import FORWARDED, token_of

UNANSWERED = {Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL}  # see adapters/forward.py
SETTLE_AFTER_S = 30.0  # longer than any order that is held up plus the slowest flintlockd
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
        self.process: Process = world.loop.process("none")
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

    def start(self, fuse: Callable[[Process], None]) -> None:
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
            return (await self._front.unary(method, request, timeout_s, metadata)).payload
        finally:
            self._calls -= 1

    # node.Server, line by line, with what it builds replaced by what is simulated.

    async def _run(self, process: Process) -> None:
        self._store = SimStore(self._world, self._etcd, process, self._reaches_store)
        link = self._link = LinkServer("", BID_WAIT_S, BID_WAIT_MAX_S)
        self._front = Front(lambda sent, metadata: token_of(sent, metadata, self._new_id), HOLD_S)

        def accept(path: str) -> WSListener | None:
            listener = link._accept(request(path))
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
        self._front.trouble(f"no server leads: {error.text}")

    async def _lead(self) -> None:
        with suppress(StoreError):
            await self._store.depose(self.me)
        while ledger := await next_reign(self):
            office = self._open_office(ledger)
            service = FlintlockService(office, Nothing(), self.id)
            self._ledger, self._service = ledger, service
            self._link.begin(
                Reign(
                    ledger.term.number,
                    self._rules.weights,
                    office.auditor,
                    office.rules.arrive_s,
                    ledger.end,
                )
            )
            self._face()
            self._leads(ledger.term.number, ledger)
            try:
                await until_over(self._store, ledger, office.reconciler)
            finally:
                self._ledger = self._service = None
                self._front.stale = self._front.own_stale = StaleReads(service, self._clock_s(), self._clock_s)
                self._front.trouble(f"no server leads: {ledger.why}")
                self._face()
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

    def _open_office(self, ledger: Ledger) -> Office:
        reconciler = Reconciler(ledger, self.clock, SETTLE_AFTER_S, KEEP_LOST_S, self._delete, self._fence_after_s)
        auditor = Auditor(ledger.state, self.clock, reconciler, lambda outcome: None)
        auctioneer = Auctioneer(ledger, self._link, reconciler.ready, self._rules, self.clock, self._record, auditor)
        return Office(ledger, auctioneer, reconciler, self._link, self._rules, auditor)

    async def _delete(self, host_id: str, uid: str) -> bool:
        reply = await self._link.call(host_id, flintlock.DELETE, flintlock.with_uid(uid), self._rules.call_timeout_s)
        return reply.code == Code.OK

    def _face(self) -> None:
        self._front.turn(self._service or self._forward, leads=self._service is not None)

    async def _follow(self) -> None:
        bury: asyncio.Task[None] | None = None
        async for leader in self._store.leaders():
            if bury:
                bury.cancel()
            self._forward, bury = None, None
            if leader and leader != self.me:
                self._forward = SimForward(self._net, self.id, self.peers[leader.id])
                bury = asyncio.create_task(self._bury(leader, self._forward))
            self._link.follow(leader)
            self._face()

    async def _bury(self, leader: Leader, forward: SimForward) -> None:
        await forward.dead()
        with suppress(StoreError):
            await self._store.depose(leader)

    def _record(self, story: Story) -> None:
        record = story.record
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
