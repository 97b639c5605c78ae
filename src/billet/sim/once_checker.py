"""The checker of promise 4: nothing acknowledged is ever lost, nothing is ever booted twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from billet.core.errors import Code
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


def nothing_lost_nothing_twice(history: Sequence[Event]) -> Iterator[Violation]:
    """Each request boots once. An acknowledged create is in the store, an acknowledged Delete is final.

    A Delete is final for microVMs that the store knows. For one that was just created on the host directly, only its
    flintlockd can remember the Delete. A request may boot again once nobody can know its first microVM any more.
    """
    state, memories = CheckerState(), Memories()
    booted: dict[str, str] = {}  # name -> host; a client uses a name twice only with a request id
    written: set[str] = set()  # uids that the store has had
    deleted: dict[str, float] = {}
    for event in history:
        state.update(event)
        memories.update(event)
        match event:
            case Accepted(at_s, host_id, _, name, _, _, _):
                if name in booted and not memories.nobody_knows(name):
                    yield Violation(4, at_s, f"{name} booted on {booted[name]} and again on {host_id}")
                booted[name] = host_id
            case Committed(_, _, changes):
                written.update(c.placement.uid for c in changes if isinstance(c, PutPlacement))
            case Answered(at_s, _, _, "create", name, uid, Code.OK, _) if uid not in written:
                yield Violation(4, at_s, f"{name} was acknowledged as {uid}, which the store has never had")
            case Answered(at_s, _, _, "delete", _, uid, Code.OK, _) if uid in written:
                deleted[uid] = at_s
            case Quiescent(at_s):
                for uid in deleted.keys() & state.vms.keys():
                    yield Violation(
                        4, at_s, f"the Delete of {uid} was acknowledged, but {state.vms[uid].host} still has it"
                    )
