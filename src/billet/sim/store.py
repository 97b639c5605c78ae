"""A server's client of the simulated etcd. Implements ports.Store.

The simulated etcd keeps everything it wrote. A request may be delayed, refused or lost, its answer may be lost, and
it may arrive after the client has given up. The client follows the rules of store/etcd.py: it trusts a lease for less
time than the lease lasts, and numbers each transaction within its term.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from billet.core.access import Credential
from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError, StoreUnreachable
from billet.core.state import Change
from billet.ports import Leader, Snapshot, Term
from billet.sim.etcd import LEASE_TTL_S, Etcd
from billet.sim.history import TermRaised
from billet.sim.loop import SimProcess
from billet.sim.world import World
from billet.store.groupcommit import GroupCommit, Writes

BELIEVED_S = LEASE_TTL_S * 0.9  # how long the leader trusts its lease, from before the request
CALL_S = 0.5  # timeout of one request
COMMIT_S = 5.0  # how long a commit is retried before its outcome is unknown
PAUSE_S = 0.05
LATE_S = 8.0  # the longest delay of a request in a store that hangs
LATE_ANSWER_S = 0.4  # of an answer that is almost too late

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class SimCandidacy:
    """A candidate as its client sees it."""

    revision: int
    alive_until_s: float
    over: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0  # of the last transaction


class SimStore:
    """ports.Store for one start of one server."""

    def __init__(self, world: World, etcd: Etcd, process: SimProcess, reaches: Callable[[bool], bool]) -> None:
        """`reaches(there)`: whether the network delivers a message now, to the store (True) or back (False)."""
        self._world = world
        self._loop = world.loop
        self._etcd = etcd
        self._process = process
        self._reaches = reaches
        self._chance = world.chance(f"store of {process.name}")
        self._mine: dict[int, SimCandidacy] = {}
        self._group = GroupCommit(self._write)

    async def open(self) -> None:
        """See ports.Store."""

    async def close(self) -> None:
        """See ports.Store."""
        for revision in list(self._mine):
            await self._withdraw(revision)

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        """See ports.Store."""
        while True:
            asked_s = self._world.now_s
            candidacy = SimCandidacy(await self._steady(lambda: self._etcd.register(me)), asked_s + BELIEVED_S)
            self._mine[candidacy.revision] = candidacy
            self._process.spawn(self._keep(candidacy))
            if await self._until_first(candidacy):
                if candidacy.revision <= above:  # a real store would count on from there
                    self._world.note(TermRaised(self._world.now_s, me.id, above))
                return Term(candidacy.revision, me)
            await self._withdraw(candidacy.revision)

    async def resign(self, term: Term) -> None:
        """See ports.Store."""
        await self._group.close()
        await self._withdraw(term.number)

    async def ended(self, term: Term) -> None:
        """See ports.Store."""
        candidacy = self._mine.get(term.number)
        if candidacy:
            await candidacy.over.wait()

    async def leader(self) -> Leader | None:
        """See ports.Store."""
        first = await self._ask(self._etcd.first)
        return first.leader if first else None

    async def contested(self, term: Term) -> bool:
        """See ports.Store."""
        return await self._ask(self._etcd.contested)

    async def leaders(self) -> AsyncIterator[Leader | None]:
        """See ports.Store."""
        known_s = self._world.now_s
        yielded: list[Leader | None] = []
        while True:
            moved = self._etcd.moved.next
            try:
                now = await self.leader()
                known_s = self._world.now_s
            except StoreUnreachable:
                await asyncio.sleep(PAUSE_S)
                if self._world.now_s - known_s < LEASE_TTL_S:
                    continue
                now = None
            if [now] != yielded:
                yielded = [now]
                yield now
            with suppress(TimeoutError):
                async with asyncio.timeout(LEASE_TTL_S / 3):
                    await moved.wait()

    async def depose(self, leader: Leader) -> None:
        """See ports.Store."""
        first = await self._steady(self._etcd.first)
        if first and first.leader == leader:
            await self._steady(lambda: self._etcd.withdraw(first.revision))

    async def load(self) -> Snapshot:
        """See ports.Store."""
        return await self._steady(self._etcd.read)

    async def credentials(self) -> list[Credential]:
        """See ports.Store. No simulated client has any."""
        return []

    async def commit(self, term: Term, changes: Sequence[Change], within_s: float = 0.0) -> int:
        """See ports.Store."""
        self._etcd.look_at_ledger(term.number)
        return await self._group.commit(term.number, changes, within_s)

    # Election.

    async def _until_first(self, candidacy: SimCandidacy) -> bool:
        """Wait until this candidate is the first. False if it is no longer a candidate."""
        while not candidacy.over.is_set():
            moved = self._etcd.moved.next
            with suppress(StoreError):
                rank = await self._ask(lambda: self._etcd.rank(candidacy.revision))
                if not rank:
                    return rank == 0
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * LEASE_TTL_S):
                    await moved.wait()
        return False

    async def _keep(self, candidacy: SimCandidacy) -> None:
        """Renew the lease until it has expired, or may have."""
        while not candidacy.over.is_set() and self._world.now_s < candidacy.alive_until_s:
            asked_s, pause_s = self._world.now_s, PAUSE_S
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(candidacy.alive_until_s - asked_s):
                    if not await self._ask(lambda: self._etcd.keep_alive(candidacy.revision)):
                        break
                candidacy.alive_until_s = asked_s + BELIEVED_S
                pause_s = LEASE_TTL_S / 3
            left_s = candidacy.alive_until_s - self._world.now_s
            await asyncio.sleep(max(0.0, min(pause_s, left_s)))
        candidacy.over.set()

    async def _withdraw(self, revision: int) -> None:
        candidacy = self._mine.pop(revision, None)
        if candidacy:
            candidacy.over.set()
            with suppress(StoreError):
                await self._ask(lambda: self._etcd.withdraw(revision))

    # Writing.

    async def _write(self, term: int, writes: Writes) -> int:
        """Write one transaction, and retry until its outcome is known or the time is up."""
        candidacy = self._mine.get(term)
        if candidacy is None or candidacy.over.is_set():
            raise StaleTerm(f"term {term} has ended")
        if self._world.happens(self._chance, self._world.faults.store_refuses):
            raise StoreError("etcdserver: mvcc: database space exceeded")
        candidacy.number += 1
        number, doubt, deadline_s = candidacy.number, False, self._world.now_s + self._commit_s()
        while True:
            try:
                return await self._ask(lambda: self._etcd.transact(term, number, writes))
            except StoreUnreachable as error:
                doubt = True
                if self._world.now_s > deadline_s or candidacy.over.is_set():
                    raise CommitOutcomeUnknown(f"commit sent, answer lost: {error.text}") from None
                await asyncio.sleep(PAUSE_S)
            except StaleTerm:
                if doubt:
                    raise CommitOutcomeUnknown(
                        f"term {term} has ended; the outcome of its last commit is unknown"
                    ) from None
                raise

    def _commit_s(self) -> float:
        return 0.0 if self._world.faults.store_impatient else COMMIT_S

    # Requests.

    async def _steady(self, work: Callable[[], T]) -> T:
        """Repeat a request until it is answered."""
        while True:
            with suppress(StoreUnreachable):
                return await self._ask(work)
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, work: Callable[[], T]) -> T:
        """Send one request, and wait for the answer. Raises StoreUnreachable after CALL_S."""
        answer: asyncio.Future[T] = self._loop.create_future()
        if not self._process.acts():
            return await answer  # the process has died
        delay_s = self._delay_s()
        if self._world.happens(self._chance, self._world.faults.store_unanswered):
            delay_s = self._chance.uniform(0.0, LATE_S)
        self._loop.call_later(delay_s, self._arrive, work, answer, context=self._loop.world)
        timer = self._loop.call_later(CALL_S, _resolve, answer, None, StoreUnreachable("the store does not answer"))
        try:
            return await answer
        finally:
            timer.cancel()

    def _arrive(self, work: Callable[[], T], answer: asyncio.Future[T]) -> None:
        if not self._reaches(True):
            return
        result: T | None = None
        error: StoreError | None = None
        try:
            result = work()
        except StoreError as refused:
            error = refused
        lost = self._world.happens(self._chance, self._world.faults.store_unanswered) or not self._reaches(False)
        if not lost:
            when_s = self._world.now_s + self._delay_s() + self._late_s()
            self._process.call_at(when_s, _resolve, answer, result, error)

    def _late_s(self) -> float:
        """How much later an answer comes during a fault `late_cuts`; still in time for CALL_S."""
        late = self._world.now_s < self._world.late_until_s.get(self._process.name, 0.0)
        return LATE_ANSWER_S if late and not self._world.calm else 0.0

    def _delay_s(self) -> float:
        return 0.0005 + self._chance.expovariate(1.0) * self._world.faults.store_delay_s


def _resolve(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error:
        answer.set_exception(error)
    else:
        answer.set_result(result)
