"""The etcd of a simulated cluster: records, candidates with their leases, and the fence around each transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from billet.broadcast import Broadcast
from billet.core.errors import StaleTerm
from billet.core.model import Placement, PlacementState, Resources
from billet.core.state import Change, DropPlacement, PutPlacement, State, apply
from billet.leader.ledger import Ledger
from billet.ports import Leader, Snapshot
from billet.sim.history import Committed, Deposed, Elected, InHand, LedgerSeen
from billet.sim.world import World
from billet.store.groupcommit import Writes
from billet.store.records import decode

LEASE_TTL_S = 3.0  # of a leader


@dataclass(slots=True, eq=False)
class Candidate:
    """A candidate in the election, as the store sees it."""

    leader: Leader
    revision: int
    expires_s: float = 0.0


class Etcd:
    """The simulated store, as seen by all its clients."""

    def __init__(self, world: World) -> None:
        self.state = State()
        self.reserved: Callable[[Placement], None] = lambda placement: None  # called as a reservation is written
        # Called when it would be untimely to send this create again, so as its reservation is dropped.
        self.untimely: Callable[[Placement], None] = lambda placement: None
        self.wrote: Callable[[], None] = lambda: None  # called after each transaction
        self.ledgers: dict[int, Ledger] = {}  # term -> the leader's ledger, to be compared with the store
        self.moved = Broadcast()  # sent when a candidate is added or removed
        self._world = world
        self._in_hand: frozenset[str] = frozenset()
        self._revision = 0
        self._records: dict[str, bytes] = {}
        self._standing: list[Candidate] = []
        self._written: dict[int, tuple[int, int]] = {}  # term -> number and revision of its last transaction

    def register(self, me: Leader) -> int:
        """Add a candidate. Returns its revision."""
        self._revision += 1
        candidate = Candidate(me, self._revision)
        self._standing.append(candidate)
        self._extend(candidate)
        self._elect_next()
        return candidate.revision

    def keep_alive(self, revision: int) -> bool:
        """Renew a lease. False if it has expired."""
        candidate = self._candidate(revision)
        if candidate:
            self._extend(candidate)
        return candidate is not None

    def withdraw(self, revision: int) -> None:
        """Remove a candidate."""
        candidate = self._candidate(revision)
        if candidate:
            self._world.tell("store", f"{candidate.leader.id} withdraws from the election")
            self._drop(candidate, expired=False)

    def first(self) -> Candidate | None:
        """The leader."""
        return self._standing[0] if self._standing else None

    def rank(self, revision: int) -> int | None:
        """Number of candidates before this one. None if it is not a candidate."""
        return next((n for n, candidate in enumerate(self._standing) if candidate.revision == revision), None)

    def contested(self) -> bool:
        """Whether there are other candidates than the leader."""
        return len(self._standing) > 1

    def read(self) -> Snapshot:
        """All records."""
        return Snapshot(self._revision, [decode(key, record) for key, record in self._records.items()])

    def transact(self, term: int, number: int, writes: Writes) -> int:
        """Write a transaction once, and return its revision. Raises StaleTerm."""
        if not self.current(term):
            raise StaleTerm(f"term {term} has ended")
        last, revision = self._written.get(term, (0, 0))
        if number <= last:  # a duplicate of the request
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
        """The fence: whether this is the current leader's term."""
        first = self.first()
        return first is not None and first.revision == term

    @property
    def ledger(self) -> Ledger | None:
        """The ledger of the current term, once its leader has loaded it."""
        first = self.first()
        return self.ledgers.get(first.revision) if first else None

    def look_at_ledger(self, term: int) -> None:
        """Record what the leader's ledger counts now."""
        ledger = self.ledgers.get(term)
        if ledger and not ledger.over.is_set():
            taken: dict[str, Resources] = dict(ledger.state.taken)
            self._world.note(LedgerSeen(self._world.now_s, term, taken))

    def _wrote(self, term: int, changes: list[Change]) -> None:
        ended = [
            self.state.placements.get(change.placement_id) for change in changes if isinstance(change, DropPlacement)
        ]
        for change in changes:
            apply(self.state, change)
        self._world.note(Committed(self._world.now_s, term, changes))
        self._world.tell("store", f"term {term} wrote {', '.join(map(brief, changes))}")
        self.look_at_ledger(term)
        self.wrote()
        for change in changes:
            if isinstance(change, PutPlacement) and change.placement.state is PlacementState.RESERVED:
                self.reserved(change.placement)
        for placement in ended:
            if placement and placement.state is PlacementState.RESERVED:
                self.untimely(placement)

    def depose(self) -> None:
        """End the current term, as another server may do."""
        if self._standing:
            self._world.tell("store", f"the term of {self._standing[0].leader.id} is ended")
            self._drop(self._standing[0], expired=False)

    def note_in_hand(self) -> None:
        """Record what the current term's creates and deletes have worked on since the last look."""
        ledger = self.ledger
        if ledger:
            tokens = frozenset(ledger.in_hand)
            if tokens != self._in_hand or ledger.let_go:
                self._world.note(InHand(self._world.now_s, ledger.term.number, tokens))
            self._in_hand = tokens

    def _extend(self, candidate: Candidate) -> None:
        candidate.expires_s = self._world.now_s + LEASE_TTL_S
        self._world.loop.call_later(LEASE_TTL_S, self._expire, candidate, context=self._world.loop.world)

    def _expire(self, candidate: Candidate) -> None:
        if candidate in self._standing and candidate.expires_s <= self._world.now_s:
            self._world.tell("store", f"the lease of {candidate.leader.id} expires")
            self._drop(candidate, expired=True)

    def _drop(self, candidate: Candidate, expired: bool) -> None:
        led = candidate is self._standing[0]
        self._standing.remove(candidate)
        if led:
            self._world.note(Deposed(self._world.now_s, candidate.revision, expired))
            self._elect_next()

    def _elect_next(self) -> None:
        """Elect the first candidate, if it is new, and wake all that watch."""
        first = self.first()
        if first and first.revision not in self._written:
            self._written[first.revision] = (0, 0)
            self._world.note(Elected(self._world.now_s, first.revision, first.leader.id))
            self._world.tell("store", f"{first.leader.id} is elected, term {first.revision}")
        self.moved.send()

    def _candidate(self, revision: int) -> Candidate | None:
        return next((candidate for candidate in self._standing if candidate.revision == revision), None)


def brief(change: Change) -> str:
    """A change as a line of the trace shows it."""
    placement = getattr(change, "placement", None)
    if placement:
        return f"{placement.state.value} {placement.id[-6:]} on {placement.host} uid {placement.uid[-6:] or '-'}"
    host = getattr(change, "host", None)
    if host:
        return f"host {host.id}{' cordoned' if host.cordoned else ''}"
    return f"{type(change).__name__} {getattr(change, 'placement_id', getattr(change, 'host_id', ''))[-6:]}"
