"""The leader's ledger: its state in memory, changed only together with the store."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import structlog

from billet.core import events
from billet.core.errors import CommitOutcomeUnknown, CreateOutcomeUnknown, StaleTerm, StoreError
from billet.core.model import Host, Placement, PlacementState
from billet.core.reconcile import answered
from billet.core.state import Change, DropHost, DropPlacement, PutHost, PutPlacement, State, apply, holds_room
from billet.ports import Leader, Store, Term

log = structlog.get_logger()

DELETED_KEPT = 4096  # Deletes that wait for the record of their microVM; one that had none is never recorded
BEHIND_S = 0.02  # how long the record behind a reply waits for the commit of another create, to be written with it
AT_ONCE = 100  # commits that wait for the store together, of changes that need not be written together
APPLIED = 1_000  # changes that a new leader applies in one turn of the event loop


async def loaded(store: Store) -> State:
    """The state that a store holds. It lets others run now and then: the new leader's lease has to be kept alive."""
    state = State()
    for number, change in enumerate((await store.load()).changes, 1):
        apply(state, change)
        if number % APPLIED == 0:
            await asyncio.sleep(0)
    return state


async def elected(store: Store, me: Leader, above: int) -> Ledger:
    """Wait until this server is elected, and load its ledger. The new term is greater than `above`.

    Raises StoreError. If the ledger cannot be loaded, the term is resigned so that another server can lead.
    """
    term = await store.campaign(me, above=above)
    try:
        return Ledger(await loaded(store), store, term)
    except BaseException:
        with suppress(StoreError):
            await store.resign(term)
        raise


class Ledger:
    """State, store and term of one leader.

    Invariant (promise 2): at every moment the state counts at least as much room as taken as the store does. So a
    change that takes room is applied before its commit, and one that gives room back after it.
    """

    def __init__(self, state: State, store: Store, term: Term) -> None:
        self.state = state
        self.term = term
        self.in_hand: Counter[str] = Counter()  # placements that a create or delete is working on
        self.let_go: set[str] = set()  # placements that were in hand since the reconciler last took this set
        self.wake = asyncio.Event()  # wakes the reconciler: work on a placement has ended, or the term has
        self.over = asyncio.Event()  # the term has ended, and `why` says for which reason
        self.why = ""
        # Called with each placement that has given its room back.
        self.gone: Callable[[Placement], None] = lambda placement: None
        # Called after each change of the state that lasts, with what the state had before.
        self.changed: Callable[[events.Known, Change], None] = lambda before, change: None
        # Called with each answer of the store to a commit; None = it has taken it.
        self.stored: Callable[[StoreError | None], None] = lambda error: None
        self._store = store
        self._amending: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by host
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by placement in hand
        self._writing: dict[str, asyncio.Event] = {}  # placements that the reconciler is writing
        self._finishing: set[asyncio.Future[None]] = set()  # calls of `finish` in progress
        self._deleted: dict[str, None] = {}  # uids that a host has agreed to delete, and that are not recorded yet

    async def claim(self, changes: Sequence[PutPlacement]) -> None:
        """Commit changes that take room or keep it. They are applied first, and undone when the store refuses them.

        Raises StoreError: StaleTerm and CommitOutcomeUnknown end the term, others mean that nothing was written.
        """
        changes = [self._with_delete(change) for change in changes]
        undo = [self._inverse(change) for change in changes]
        before = [events.known(self.state, change) for change in changes]
        for change in changes:
            apply(self.state, change)
        try:
            await self._commit(changes)
        except (StaleTerm, CommitOutcomeUnknown):
            raise  # the term is over, and its state is discarded
        except StoreError:
            for change, inverse in zip(changes, undo, strict=True):
                if self.state.placements.get(change.placement.id) is change.placement:  # not changed since
                    apply(self.state, inverse)
            raise
        for was, change in zip(before, changes, strict=True):
            self.changed(was, change)

    async def finish(self, changes: Sequence[Change]) -> None:
        """Commit changes that give room back or leave it as it is. They are applied once they are durable."""
        changes = [self._with_delete(change) if isinstance(change, PutPlacement) else change for change in changes]
        ended = asyncio.get_running_loop().create_future()
        self._finishing.add(ended)
        try:
            await self._commit(changes)
            for change in changes:
                held, was = self._held(change), events.known(self.state, change)
                apply(self.state, change)
                if held and not self._held(change):
                    self.gone(held)
                self.changed(was, change)
        finally:
            self._finishing.discard(ended)
            ended.set_result(None)

    async def deleted(self, uid: str) -> None:
        """A host has accepted a Delete of a microVM without a placement: one that is recorded later is RELEASING.

        Waits for the commits in progress. If one of them was the microVM's record, it has a placement then.
        """
        self._deleted[uid] = None
        if len(self._deleted) > DELETED_KEPT:
            del self._deleted[next(iter(self._deleted))]
        if self._finishing:
            await asyncio.wait(set(self._finishing))
        if self.state.of_uid(uid):
            self._deleted.pop(uid, None)

    async def claim_each(self, changes: Sequence[PutPlacement]) -> None:
        """As `claim`, for changes that need not be written together."""
        await _each(self.claim, changes)

    async def finish_each(self, changes: Sequence[Change]) -> None:
        """As `finish`, for changes that need not be written together."""
        await _each(self.finish, changes)

    @property
    def amending(self) -> list[str]:
        """The hosts whose records are being written."""
        return [host_id for host_id, lock in self._amending.items() if lock.locked()]

    async def amend(self, host_id: str, become: Callable[[Host | None], Host | None]) -> None:
        """Change a host's record: `become` maps the present record to the new one, None = no record.

        One at a time per host: operator and host both change the record, and must not undo each other's changes.
        """
        async with self._amending[host_id]:
            known = self.state.hosts.get(host_id)
            wanted = become(known)
            if wanted != known:
                await self.finish([PutHost(wanted) if wanted else DropHost(host_id)])

    @asynccontextmanager
    async def hold(self, placement_id: str) -> AsyncIterator[None]:
        """Keep the reconciler away from a placement while a create or delete works on it.

        Waits first for what the reconciler is writing of it: read the placement after that, not before.
        """
        while written := self._writing.get(placement_id):
            await written.wait()
        with self.held(placement_id):
            yield

    @contextmanager
    def held(self, placement_id: str) -> Iterator[None]:
        """As `hold`, for a placement that is in hand already: it stays so when the other one lets go."""
        self.in_hand[placement_id] += 1
        try:
            yield
        finally:
            self.in_hand[placement_id] -= 1
            if not self.in_hand[placement_id]:
                del self.in_hand[placement_id]
                self._changing.pop(placement_id, None)
                self.let_go.add(placement_id)
                self.wake.set()

    @contextmanager
    def writing(self, changes: Sequence[Change]) -> Iterator[None]:
        """Keep creates and deletes away from these placements while the reconciler writes them; none is in hand."""
        written = asyncio.Event()
        ids = [change.placement.id if isinstance(change, PutPlacement) else change.placement_id for change in changes
               if isinstance(change, PutPlacement | DropPlacement)]  # fmt: skip
        self._writing.update(dict.fromkeys(ids, written))
        try:
            yield
        finally:
            for placement_id in ids:
                if self._writing.get(placement_id) is written:
                    del self._writing[placement_id]
            written.set()

    async def change(self, placement_id: str, become: Callable[[Placement], Placement]) -> None:
        """Change a placement that is in hand: `become` maps what the ledger says then to the new placement.

        One at a time per placement: what two deletes do must not depend on which of them the store refuses. The
        change must not take room. Nothing happens when the placement has ended.
        """
        async with self._changing[placement_id]:
            known = self.state.placements.get(placement_id)
            wanted = become(known) if known else None
            if wanted and wanted != known:
                await self.finish([PutPlacement(wanted)])

    async def move(self, placement_id: str, host_id: str) -> None:
        """Give a placement to another host, whose room it takes from now on."""
        async with self.hold(placement_id), self._changing[placement_id]:
            known = self.state.placements.get(placement_id)
            if known:
                await self.claim([PutPlacement(replace(known, host=host_id))])

    async def finish_answered(self, made: Placement) -> None:
        """Write what a host's answer has made of a placement. CreateOutcomeUnknown if the uid is another one's."""
        try:
            await self.finish(self._answered(made))
        except (StaleTerm, CommitOutcomeUnknown):
            raise  # the next leader finds the microVM by its token
        except StoreError as error:
            raise CreateOutcomeUnknown(
                f"host {made.host} has answered with microVM {made.uid}, but the store did not take the record "
                f"({error.reason}); send the create again"
            ) from error

    def note_answered(self, made: Placement) -> Placement | None:
        """Apply what a host's answer has made of a reservation; return what the caller has to `keep` then.

        The state may be ahead of the store here: the room is the same, and after a crash the reservation is there and
        the microVM is found by its token. None: another placement ends with it, and gives room back, so call
        `finish_answered`. Raises as that does.
        """
        if self.over.is_set():
            raise StaleTerm(f"this server no longer leads: {self.why}")
        change, *others = self._answered(made)
        if others or not isinstance(change, PutPlacement):
            return None
        change = self._with_delete(change)
        was = events.known(self.state, change)
        apply(self.state, change)
        self.changed(was, change)
        return change.placement

    async def keep(self, noted: Placement) -> None:
        """Write a noted placement that is in hand, unless it has changed since: then more than that was written."""
        async with self._changing[noted.id]:
            if self.state.placements.get(noted.id) is noted:
                await self._commit([PutPlacement(noted)], BEHIND_S)

    async def written(self, placement_id: str) -> None:
        """Wait for the write of a placement in hand that is under way. StaleTerm if it has ended the term."""
        async with self._changing[placement_id]:
            pass
        if self.over.is_set():  # the host must not be told from a state that holds no longer
            raise StaleTerm(f"this server no longer leads: {self.why}")

    def _answered(self, made: Placement) -> list[Change]:
        changes = answered(self.state, made)
        if changes is None:
            log.error("host answered a create with another microVM", host=made.host, uid=made.uid)
            raise CreateOutcomeUnknown(
                f"host {made.host} answers with microVM {made.uid}, which belongs to another host or create: check "
                f"the host; Billet tries no other one until it knows"
            )
        return changes

    def end(self, why: str) -> None:
        """End the term (promise 3): no decision may use this state any more."""
        if not self.over.is_set():
            self.why = why
            self.over.set()
            self.wake.set()

    def _with_delete(self, change: PutPlacement) -> PutPlacement:
        """The record of a microVM that was deleted before it was recorded is RELEASING from the beginning."""
        placement = change.placement
        if placement.uid not in self._deleted or placement.state is not PlacementState.STARTED:
            return change
        return PutPlacement(replace(placement, state=PlacementState.RELEASING))

    def _held(self, change: Change) -> Placement | None:
        """The placement that a change is about, if it holds room now."""
        match change:
            case PutPlacement(Placement(id=placement_id)) | DropPlacement(placement_id):
                placement = self.state.placements.get(placement_id)
                return placement if placement and holds_room(placement) else None
        return None

    def _inverse(self, change: PutPlacement) -> Change:
        old = self.state.placements.get(change.placement.id)
        return PutPlacement(old) if old else DropPlacement(change.placement.id)

    async def _commit(self, changes: Sequence[Change], within_s: float = 0.0) -> None:
        if self.over.is_set():
            raise StaleTerm(f"this server no longer leads: {self.why}")
        try:
            await self._store.commit(self.term, changes, within_s)
        except StoreError as error:
            if not isinstance(error, StaleTerm):
                self.stored(error)
            if isinstance(error, StaleTerm | CommitOutcomeUnknown):
                self.end(error.text)
            raise
        self.stored(None)


C = TypeVar("C", bound=Change)


async def _each(commit: Callable[[Sequence[C]], Awaitable[None]], changes: Sequence[C]) -> None:
    """Commit changes one by one, many at once: the store's group commit knows how many bytes a transaction takes.

    Raises the first error once all commits of its part have ended.
    """
    for start in range(0, len(changes), AT_ONCE):
        part = [commit([change]) for change in changes[start : start + AT_ONCE]]
        for result in await asyncio.gather(*part, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
