"""The store of a simulated cluster: one etcd as its clients can see it, and a ports.Store on it for each server.

It never forgets what it wrote, but whoever asks may be cut off, wait, be refused, or not learn the answer; and a
request that nobody waits for any more may still arrive. The client's side keeps the rules of store/etcd.py: a
lease is believed in for less time than it lasts, and each transaction carries its number within the term.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from billet.broadcast import Broadcast
from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError, StoreUnreachable
from billet.core.model import Resources
from billet.core.state import Change, State, apply
from billet.leader.ledger import Ledger
from billet.ports import Leader, Snapshot, Term
from billet.sim.history import Committed, Deposed, Elected, LedgerSeen
from billet.sim.loop import SimProcess
from billet.sim.world import World
from billet.store.groupcommit import GroupCommit, Writes
from billet.store.records import decode

TTL_S = 3.0  # of a leader's lease
BELIEVED_S = TTL_S * 0.9  # how long the leader counts on it, from before it asked
CALL_S = 0.5  # how long one answer is waited for
COMMIT_S = 5.0  # how long a commit is tried before its outcome is called unknown
PAUSE_S = 0.05
LATE_S = 8.0  # the longest that a request is held up in a store that stands still

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Candidate:
    """Who stands for election, as the store sees it."""

    leader: Leader
    revision: int
    expires_s: float = 0.0


class Etcd:
    """All that the store holds."""

    def __init__(self, world: World) -> None:
        self.state = State()
        self.ledgers: dict[int, Ledger] = {}  # the ledger of each term, to be compared with the store
        self.moved = Broadcast()  # sent when a candidate comes or goes
        self._world = world
        self._revision = 0
        self._records: dict[str, bytes] = {}
        self._standing: list[Candidate] = []
        self._written: dict[int, tuple[int, int]] = {}  # term -> number and revision of its last transaction

    def register(self, me: Leader) -> int:
        """A new candidate; its revision."""
        self._revision += 1
        candidate = Candidate(me, self._revision)
        self._standing.append(candidate)
        self._extend(candidate)
        self._elect_next()
        return candidate.revision

    def keep_alive(self, revision: int) -> bool:
        """Whether the lease was there to be renewed."""
        candidate = self._candidate(revision)
        if candidate:
            self._extend(candidate)
        return candidate is not None

    def withdraw(self, revision: int) -> None:
        """A candidate is one no longer."""
        candidate = self._candidate(revision)
        if candidate:
            self._world.tell("store", f"{candidate.leader.id} stands for election no longer")
            self._drop(candidate, expired=False)

    def first(self) -> Candidate | None:
        """Who leads."""
        return self._standing[0] if self._standing else None

    def rank(self, revision: int) -> int | None:
        """How many stand before this candidate; None when it does not stand."""
        return next((n for n, candidate in enumerate(self._standing) if candidate.revision == revision), None)

    def contested(self) -> bool:
        """Whether anybody else would like to lead."""
        return len(self._standing) > 1

    def read(self) -> Snapshot:
        """Everything."""
        return Snapshot(self._revision, [decode(key, record) for key, record in self._records.items()])

    def transact(self, term: int, number: int, writes: Writes) -> int:
        """Write all of it, once; the revision. Raises Fenced."""
        if not self.current(term):
            raise StaleTerm(f"term {term} has ended")
        last, revision = self._written.get(term, (0, 0))
        if number <= last:  # a second copy
            return revision
        self._revision += 1
        self._written[term] = (number, self._revision)
        changes = []
        for key, record in writes.items():
            changes.append(decode(key, record))
            if record is None:
                self._records.pop(key, None)
            else:
                self._records[key] = record
        self._wrote(term, changes)
        return self._revision

    def current(self, term: int) -> bool:
        """The fence: whether this is the term of who leads now."""
        first = self.first()
        return first is not None and first.revision == term

    def look_at_ledger(self, term: int) -> None:
        """Note what the leader's ledger counts at this moment."""
        ledger = self.ledgers.get(term)
        if ledger and not ledger.over.is_set():
            taken: dict[str, Resources] = dict(ledger.state.taken)
            self._world.note(LedgerSeen(self._world.now_s, term, taken))

    def _wrote(self, term: int, changes: list[Change]) -> None:
        for change in changes:
            apply(self.state, change)
        self._world.note(Committed(self._world.now_s, term, changes))
        self._world.tell("store", f"term {term} wrote {', '.join(map(brief, changes))}")
        self.look_at_ledger(term)

    def _extend(self, candidate: Candidate) -> None:
        candidate.expires_s = self._world.now_s + TTL_S
        self._world.loop.call_later(TTL_S, self._expire, candidate, context=self._world.loop.world)

    def _expire(self, candidate: Candidate) -> None:
        if candidate in self._standing and candidate.expires_s <= self._world.now_s:
            self._world.tell("store", f"the lease of {candidate.leader.id} has run out")
            self._drop(candidate, expired=True)

    def _drop(self, candidate: Candidate, expired: bool) -> None:
        led = candidate is self._standing[0]
        self._standing.remove(candidate)
        if led:
            self._world.note(Deposed(self._world.now_s, candidate.revision, expired))
            self._elect_next()

    def _elect_next(self) -> None:
        """Somebody came or went: there may be a new leader."""
        first = self.first()
        if first and first.revision not in self._written:
            self._written[first.revision] = (0, 0)
            self._world.note(Elected(self._world.now_s, first.revision, first.leader.id))
            self._world.tell("store", f"{first.leader.id} is elected, term {first.revision}")
        self.moved.send()

    def _candidate(self, revision: int) -> Candidate | None:
        return next((candidate for candidate in self._standing if candidate.revision == revision), None)


def brief(change: Change) -> str:
    """A change, for the story."""
    placement = getattr(change, "placement", None)
    if placement:
        return f"{placement.state.value} {placement.id[-6:]} on {placement.host} uid {placement.uid[-6:] or '-'}"
    host = getattr(change, "host", None)
    if host:
        return f"host {host.id}{' cordoned' if host.cordoned else ''}"
    return f"{type(change).__name__} {getattr(change, 'placement_id', getattr(change, 'host_id', ''))[-6:]}"


@dataclass(slots=True, eq=False)
class SimCandidacy:
    """The client's side of a candidate."""

    revision: int
    alive_until_s: float
    over: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0  # transactions begun


class SimStore:
    """ports.Store for one start of one server."""

    def __init__(self, world: World, etcd: Etcd, process: SimProcess, reaches: Callable[[bool], bool]) -> None:
        """`reaches(there)` says whether the network lets a message through now: to the store, or back."""
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
                assert candidacy.revision > above, "this store is never put back to an earlier day"
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
        told: list[Leader | None] = []
        while True:
            moved = self._etcd.moved.next
            try:
                now = await self.leader()
                known_s = self._world.now_s
            except StoreUnreachable:
                await asyncio.sleep(PAUSE_S)
                if self._world.now_s - known_s < TTL_S:
                    continue
                now = None
            if [now] != told:
                told = [now]
                yield now
            with suppress(TimeoutError):
                async with asyncio.timeout(TTL_S / 3):
                    await moved.wait()

    async def depose(self, leader: Leader) -> None:
        """See ports.Store."""
        first = await self._steady(self._etcd.first)
        if first and first.leader == leader:
            await self._steady(lambda: self._etcd.withdraw(first.revision))

    async def load(self) -> Snapshot:
        """See ports.Store."""
        return await self._steady(self._etcd.read)

    async def commit(self, term: Term, changes: Sequence[Change]) -> int:
        """See ports.Store."""
        self._etcd.look_at_ledger(term.number)
        return await self._group.commit(term.number, changes)

    # Election.

    async def _until_first(self, candidacy: SimCandidacy) -> bool:
        """Wait until nobody stands before us; False when we do not stand any more."""
        while not candidacy.over.is_set():
            moved = self._etcd.moved.next
            with suppress(StoreError):
                rank = await self._ask(lambda: self._etcd.rank(candidacy.revision))
                if not rank:
                    return rank == 0
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * TTL_S):
                    await moved.wait()
        return False

    async def _keep(self, candidacy: SimCandidacy) -> None:
        """Renew the lease until it is gone, or can no longer be known to be ours."""
        while not candidacy.over.is_set() and self._world.now_s < candidacy.alive_until_s:
            asked_s, pause_s = self._world.now_s, PAUSE_S
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(candidacy.alive_until_s - asked_s):
                    if not await self._ask(lambda: self._etcd.keep_alive(candidacy.revision)):
                        break
                candidacy.alive_until_s = asked_s + BELIEVED_S
                pause_s = TTL_S / 3
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
        """One transaction, tried until its outcome is known, or time is up."""
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
                    raise CommitOutcomeUnknown(f"a commit was sent and its answer is lost: {error.text}") from None
                await asyncio.sleep(PAUSE_S)
            except StaleTerm:
                if doubt:
                    raise CommitOutcomeUnknown(
                        f"term {term} has ended, and with it the trace of its last commit"
                    ) from None
                raise

    def _commit_s(self) -> float:
        return 0.0 if self._world.faults.store_impatient else COMMIT_S

    # The way there and back.

    async def _steady(self, work: Callable[[], T]) -> T:
        """Ask until there is an answer."""
        while True:
            with suppress(StoreUnreachable):
                return await self._ask(work)
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, work: Callable[[], T]) -> T:
        """One request and its answer; StoreUnreachable when that takes more than CALL_S."""
        answer: asyncio.Future[T] = self._loop.create_future()
        if not self._process.acts():
            return await answer  # which nobody lives to see
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
            when_s = self._world.now_s + self._delay_s()
            self._process.call_at(when_s, _resolve, answer, result, error)

    def _delay_s(self) -> float:
        return 0.0005 + self._chance.expovariate(1.0) * self._world.faults.store_delay_s


def _resolve(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error:
        answer.set_exception(error)
    else:
        answer.set_result(result)
