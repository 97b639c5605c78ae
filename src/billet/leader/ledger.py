"""The leader's book: the state, and the one way in which it and the store change together."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError
from billet.core.model import Host, Placement
from billet.core.state import Change, DropHost, DropPlacement, PutHost, PutPlacement, State, apply, holds_room, load
from billet.ports import Leader, Store, Term


async def elected(store: Store, me: Leader, above: int) -> Ledger:
    """Wait until this server leads, and open its book; the term is greater than `above`.

    Raises StoreError. A term whose book could not be opened is resigned: nobody else could lead meanwhile.
    """
    term = await store.campaign(me, above=above)
    try:
        return Ledger(load((await store.load()).changes), store, term)
    except BaseException:
        with suppress(StoreError):
            await store.resign(term)
        raise


class Ledger:
    """State, store and term of one reign.

    Invariant (promise 2): at every moment the state counts at least the room that the store counts. So what takes
    room is applied before its commit, and what gives room back after.
    """

    def __init__(self, state: State, store: Store, term: Term) -> None:
        self.state = state
        self.term = term
        self.in_hand: Counter[str] = Counter()  # placements that creates and deletes are working on
        self.stir = asyncio.Event()  # something left a hand, or the reign ended: the reconciler looks again
        self.over = asyncio.Event()  # the reign has ended; `why` says so
        self.why = ""
        self.gone: Callable[[Placement], None] = lambda placement: None  # told of each that gives its room back
        self._store = store
        self._amending: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by host

    async def claim(self, changes: Sequence[PutPlacement]) -> None:
        """Changes that take room, or keep what an earlier one has taken: applied at once, taken back when the store
        surely did not write them.
        """
        undo = [self._inverse(change) for change in changes]
        for change in changes:
            apply(self.state, change)
        try:
            await self._commit(changes)
        except (StaleTerm, CommitOutcomeUnknown):
            raise  # the reign is over and the state with it
        except StoreError:
            for change, inverse in zip(changes, undo, strict=True):
                if self.state.placements.get(change.placement.id) is change.placement:  # nobody has built on it
                    apply(self.state, inverse)
            raise

    async def finish(self, changes: Sequence[Change]) -> None:
        """Changes that give room back, or leave it as it is: applied once they are durable."""
        await self._commit(changes)
        for change in changes:
            before = self._held(change)
            apply(self.state, change)
            if before and not self._held(change):
                self.gone(before)

    async def amend(self, host_id: str, become: Callable[[Host | None], Host | None]) -> None:
        """Settle what a host's record shall become of what it is; None is no record.

        One at a time for each host: the operator and the host itself both write there, and neither may undo what
        the other has written.
        """
        async with self._amending[host_id]:
            known = self.state.hosts.get(host_id)
            wanted = become(known)
            if wanted != known:
                await self.finish([PutHost(wanted) if wanted else DropHost(host_id)])

    @contextmanager
    def hold(self, placement_id: str) -> Iterator[None]:
        """Keep the reconciler's hands off a placement while a create or a delete works on it."""
        self.in_hand[placement_id] += 1
        try:
            yield
        finally:
            self.in_hand[placement_id] -= 1
            if not self.in_hand[placement_id]:
                del self.in_hand[placement_id]
            self.stir.set()

    def end(self, why: str) -> None:
        """The reign is over (promise 3): nobody may decide on this state any more."""
        if not self.over.is_set():
            self.why = why
            self.over.set()
            self.stir.set()

    def _held(self, change: Change) -> Placement | None:
        """The placement that a change is about, while it holds room."""
        match change:
            case PutPlacement(Placement(id=placement_id)) | DropPlacement(placement_id):
                placement = self.state.placements.get(placement_id)
                return placement if placement and holds_room(placement) else None
        return None

    def _inverse(self, change: PutPlacement) -> Change:
        old = self.state.placements.get(change.placement.id)
        return PutPlacement(old) if old else DropPlacement(change.placement.id)

    async def _commit(self, changes: Sequence[Change]) -> None:
        if self.over.is_set():
            raise StaleTerm(f"this server no longer leads: {self.why}")
        try:
            await self._store.commit(self.term, changes)
        except (StaleTerm, CommitOutcomeUnknown) as error:
            self.end(error.text)
            raise
