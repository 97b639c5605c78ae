"""The servers of a simulated cluster: the real ledger, reconciler, auctioneer, service and link, as node.py joins them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from random import Random

from picows import WSListener

from billet.adapters.link_server import LinkServer, Reign
from billet.api.service import FlintlockService
from billet.control.auctioneer import Auctioneer, Rules
from billet.control.ledger import Ledger
from billet.control.office import Office
from billet.control.reconciler import Reconciler
from billet.control.story import Story
from billet.core.errors import Away, BilletError, StoreError
from billet.core.scoring import Weights
from billet.core.state import load
from billet.ports import Leader
from billet.sim.evidence import Leads, Recorded, Stopped
from billet.sim.loop import Process
from billet.sim.network import STORE, Network, request
from billet.sim.store import Etcd, SimStore
from billet.sim.world import SimClock, World
from billet.wire import flintlock

SETTLE_AFTER_S = 30.0  # longer than any order that is held up plus the slowest flintlockd
KEEP_LOST_S = 30.0
BID_WAIT_S, BID_WAIT_MAX_S = 0.05, 2.0
FOLLOW_S = 0.5


class Ids:
    """Ids of auctions, for all servers."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def __call__(self) -> str:
        """A new one."""
        return f"01SAVCT{next(self._count):019d}"


class SimServer:
    """One machine that runs `billet server`."""

    def __init__(self, world: World, net: Network, etcd: Etcd, number: int, rules: Rules, new_id: Ids) -> None:
        self.id = f"s{number}"
        self.me = Leader(self.id, f"{self.id}:9090", f"{self.id}:9095")
        self.clock = SimClock(world)
        self.process: Process = world.loop.process("none")
        self.service: FlintlockService | None = None
        self.leader: Leader | None = None
        self._world, self._net, self._etcd = world, net, etcd
        self._rules, self._new_id = rules, new_id
        self._starts = 0
        self._term = 0

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self._starts > 0 and self.process.alive

    def start(self, fuse: Callable[[Process], None]) -> None:
        """A new process, which knows nothing."""
        self._starts += 1
        self.service, self.leader, self._term = None, None, 0
        process = self.process = self._world.loop.process(f"{self.id}.{self._starts}")
        process.at_death.append(lambda: self._net.died(process, silently=False))
        process.at_death.append(self._led_no_more)
        self._world.note(Stopped(self._world.now_s, self.id, False))
        self._world.tell(process.name, "starts")
        process.spawn(self._begin(process))
        fuse(process)

    async def _begin(self, process: Process) -> None:
        store = self._store = SimStore(self._world, self._etcd, process, self._reaches_store)
        link = self._link = LinkServer("", BID_WAIT_S, BID_WAIT_MAX_S)

        def accept(path: str) -> WSListener | None:
            listener = link._accept(request(path))
            return listener if isinstance(listener, WSListener) else None

        self._net.listening[self.me.link] = (process, accept)
        link.end("this server does not lead", lambda: self.leader)
        process.spawn(self._follow(store))
        process.spawn(self._lead(store, link))

    def stop_and_go(self, stop: bool) -> None:
        """SIGSTOP and SIGCONT."""
        if stop == self.process.stopped:
            return
        self._world.note(Stopped(self._world.now_s, self.id, stop))
        if stop:
            self.process.stop()
        else:
            self.process.go_on()

    def _reaches_store(self, there: bool) -> bool:
        return self._net.passes(self.id, STORE) if there else self._net.passes(STORE, self.id)

    # node.Server's own lines.

    async def _lead(self, store: SimStore, link: LinkServer) -> None:
        while True:
            try:
                term = await store.campaign(self.me)
                snapshot = await store.load()
            except StoreError:
                await asyncio.sleep(1.0)
                continue
            ledger = Ledger(load(snapshot.changes), store, term)
            office = self._open_office(ledger, link)
            self.service = FlintlockService(office, self._new_id, lambda key: [])
            link.begin(Reign(term.number, self._rules.weights, office.reconciler, flintlock.CREATE))
            self._leads(term.number, ledger)
            try:
                await self._reign(store, ledger, office)
            finally:
                self.service = None
                self._led_no_more()
                link.end("this server no longer leads", lambda: self.leader)
                with suppress(BilletError):
                    await store.resign(term)

    def _open_office(self, ledger: Ledger, link: LinkServer) -> Office:
        reconciler = Reconciler(ledger, self.clock, SETTLE_AFTER_S, KEEP_LOST_S)
        auctioneer = Auctioneer(ledger, link, reconciler.ready, self._rules, self.clock, self._record)
        return Office(ledger, auctioneer, reconciler, link, self._rules)

    async def _reign(self, store: SimStore, ledger: Ledger, office: Office) -> None:
        work = [
            asyncio.create_task(office.reconciler.run()),
            asyncio.create_task(store.ended(ledger.term)),
            asyncio.create_task(ledger.over.wait()),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            ledger.end("the term has ended")
            for task in work:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
        finally:
            ledger.end("the server is stopping")
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    async def _follow(self, store: SimStore) -> None:
        while True:
            with suppress(StoreError):
                self.leader = await store.leader()
            await asyncio.sleep(FOLLOW_S)

    def _record(self, story: Story) -> None:
        record = story.record
        self._world.tell(self.process.name, f"auction {record.auction.id[-6:]}: {record.outcome} {record.host}")
        self._world.note(Recorded(self._world.now_s, record))

    # What the world sees.

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

    # Clients' calls.

    async def serve(
        self, servers: dict[str, SimServer], method: str, payload: bytes, timeout_s: float, forwarded: bool
    ) -> bytes:
        """Answer a call here, or pass it on to the leader. Raises BilletError."""
        if self.service:
            return (await self.service.unary(method, payload, timeout_s, {})).payload
        other = servers.get(self.leader.id) if self.leader else None
        if other is None or other is self or forwarded:
            raise Away("no server leads at the moment; try again")
        code, text, reply = await self._net.call(
            self.id,
            other.id,
            other.process,
            lambda: other.serve(servers, method, payload, timeout_s, True),
            timeout_s,
        )
        if code:
            error = BilletError(text)
            error.code = code  # type: ignore[assignment]  # a host's own verdict may have any
            raise error
        return reply


def draw_rules(chance: Random, ties: bool) -> Rules:
    """The settings of one seed."""
    weights = Weights(0.0, 0.0, 5.0) if ties else Weights(chance.uniform(0, 0.5), chance.uniform(0, 0.1), 5.0)
    return Rules(weights, chance.choice((0, 2, 32)), chance.choice((0, 2, 4)), 8.0, 4.0)
