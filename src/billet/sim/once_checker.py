"""The checker of promise 4: nothing acknowledged is ever lost, nothing is ever booted twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from billet.core.errors import Code
from billet.core.model import Placement, PlacementState
from billet.core.state import PutPlacement
from billet.sim.checker_state import CheckerState, Violation
from billet.sim.history import Accepted, Answered, Committed, Event, Leads, Ordered, Quiescent, Removed


class Memories:
    """Who can know a microVM that was deleted before the store had its uid: its agent, and the leader that was told.

    Once both have been replaced, nobody does: what docs/adr/0028 leaves open.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # by uid, of those that the store has not had
        self._agents: dict[str, str] = {}  # host -> its agent, as last told something
        self._term = 0
        self._knew: dict[str, tuple[str, str, int]] = {}  # name -> host, agent and term when it was deleted

    def update(self, event: Event) -> None:
        """Take the next event into account."""
        match event:
            case Accepted(_, _, uid, name, _, _, _):
                self._names[uid] = name
            case Committed(_, _, changes):
                for change in changes:
                    if isinstance(change, PutPlacement):
                        self._names.pop(change.placement.uid, None)
            case Removed(_, host_id, uid) if uid in self._names:
                self._knew[self._names.pop(uid)] = host_id, self._agents.get(host_id, ""), self._term
            case Ordered(_, agent, host_id, _, _):
                self._agents[host_id] = agent
            case Leads(_, term, _, True):
                self._term = term

    def nobody_knows(self, name: str) -> bool:
        """Whether the microVM of this name was deleted like that, and both who knew have been replaced."""
        if name not in self._knew:
            return False
        host_id, agent, term = self._knew[name]
        return self._agents.get(host_id) != agent and self._term != term


class Acknowledged:
    """The creates that were acknowledged, and what the store had of them then and later."""

    def __init__(self) -> None:
        self.written: set[str] = set()  # uids that the store has had
        self._claimed: set[str] = set()  # tokens that the store has had
        self._fenced: set[str] = set()  # tokens whose reservation was fenced
        self._tokens: dict[str, str] = {}  # by uid
        self._waiting: dict[str, str] = {}  # name by uid, of those that the store had no uid of

    def update(self, event: Event) -> Iterator[Violation]:
        """Take the next event into account."""
        match event:
            case Accepted(_, _, uid, _, token, _, _):
                self._tokens[uid] = token
            case Committed(_, _, changes):
                for change in changes:
                    if isinstance(change, PutPlacement):
                        self._write(change.placement)
            case Answered(at_s, _, _, "create", name, uid, Code.OK, _) if uid not in self.written:
                self._waiting[uid] = name
                if self._tokens.get(uid) not in self._claimed:
                    yield Violation(4, at_s, f"{name} was acknowledged as {uid}, which the store has not reserved")

    def _write(self, placement: Placement) -> None:
        self.written.add(placement.uid)
        self._waiting.pop(placement.uid, None)
        self._claimed.add(placement.id)
        if placement.state is PlacementState.FENCED and not placement.uid:
            self._fenced.add(placement.id)

    def lost(self) -> Iterator[tuple[str, str]]:
        """Name and uid of each that the store has never had. One whose reservation was fenced is declared gone."""
        for uid, name in self._waiting.items():
            if self._tokens.get(uid) not in self._fenced:
                yield name, uid


def nothing_lost_nothing_twice(history: Sequence[Event]) -> Iterator[Violation]:
    """Each request boots once. An acknowledged create is in the store, an acknowledged Delete is final.

    When a create is acknowledged, the store has its reservation; the microVM's uid it has before the end, unless the
    reservation was fenced. A Delete is final for microVMs that the store knows; for one that was just created on the
    host directly, only its flintlockd can remember the Delete. A request may boot again once nobody can know its
    first microVM any more.
    """
    state, memories, acknowledged = CheckerState(), Memories(), Acknowledged()
    booted: dict[str, str] = {}  # name -> host; a client uses a name twice only with a request id
    deleted: dict[str, float] = {}
    for event in history:
        state.update(event)
        memories.update(event)
        yield from acknowledged.update(event)
        match event:
            case Accepted(at_s, host_id, _, name, _, _, _):
                if name in booted and not memories.nobody_knows(name):
                    yield Violation(4, at_s, f"{name} booted on {booted[name]} and again on {host_id}")
                booted[name] = host_id
            case Answered(at_s, _, _, "delete", _, uid, Code.OK, _) if uid in acknowledged.written:
                deleted[uid] = at_s
            case Quiescent(at_s):
                for name, uid in acknowledged.lost():
                    if not memories.nobody_knows(name):
                        yield Violation(4, at_s, f"{name} was acknowledged as {uid}, which the store has never had")
                for uid in deleted.keys() & state.vms.keys():
                    yield Violation(
                        4, at_s, f"the Delete of {uid} was acknowledged, but {state.vms[uid].host} still has it"
                    )
