"""What the checkers derive from the history: the contents of the hosts and of the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.model import ZERO, Placement, PlacementState, Resources
from billet.core.state import Change, DropPlacement, PutHost, PutPlacement
from billet.sim.history import Accepted, Committed, Deposed, Elected, Event, HostMade, Removed, Shown


class Violation(NamedTuple):
    """A broken promise, by its number; 0 for an unexpected failure."""

    promise: int
    at_s: float
    text: str


@dataclass(slots=True)
class SeenVm:
    """A microVM on a host."""

    host: str
    token: str
    demand: Resources
    shown_s: float | None = None


@dataclass(slots=True)
class CheckerState:
    """Contents of the hosts and of the store, updated event by event."""

    vms: dict[str, SeenVm] = field(default_factory=dict)  # by uid
    placements: dict[str, Placement] = field(default_factory=dict)
    allocatable: dict[str, Resources] = field(default_factory=dict)
    joined_s: dict[str, float] = field(default_factory=dict)  # when the store first had the host
    released: set[str] = field(default_factory=set)  # uids that have ever been fenced
    fenced_s: dict[str, float] = field(default_factory=dict)  # when a host's last fence ended; inf while fenced
    term: int = 0  # the current one, 0 for none

    def update(self, event: Event) -> None:
        """Apply one event."""
        match event:
            case HostMade(_, host):
                self.allocatable[host.id] = host.allocatable
            case Committed(at_s, _, changes):
                for change in changes:
                    self._write(at_s, change)
            case Elected(_, term, _):
                self.term = term
            case Deposed():
                self.term = 0
            case _:
                self._on_host(event)

    def _on_host(self, event: Event) -> None:
        match event:
            case Accepted(_, host_id, uid, _, token, demand, _):
                self.vms[uid] = SeenVm(host_id, token, demand)
            case Removed(_, _, uid):
                del self.vms[uid]
            case Shown(at_s, host_id, uids):
                for uid in uids:
                    if uid in self.vms and self.vms[uid].host == host_id:  # not by a second agent there
                        self.vms[uid].shown_s = at_s

    def _write(self, at_s: float, change: Change) -> None:
        match change:
            case PutPlacement(placement):
                self.placements[placement.id] = placement
                if placement.state is PlacementState.FENCED and placement.uid:
                    self.released.add(placement.uid)
            case DropPlacement(placement_id):
                self.placements.pop(placement_id, None)
            case PutHost(host):
                self.joined_s.setdefault(host.id, at_s)
                if host.fenced:
                    self.fenced_s[host.id] = float("inf")
                elif self.fenced_s.get(host.id) == float("inf"):
                    self.fenced_s[host.id] = at_s

    def fenced(self, host_id: str, since_s: float) -> bool:
        """Whether a host was fenced at any time since then."""
        return self.fenced_s.get(host_id, -1.0) >= since_s

    def counted(self, host_id: str) -> Resources:
        """The resources that the store counts as taken on a host."""
        return total(p.demand for p in self.placements.values() if p.host == host_id and takes_room(p))


def takes_room(placement: Placement) -> bool:
    """Whether a placement holds room."""
    return placement.state not in (PlacementState.LOST, PlacementState.FENCED, PlacementState.GONE)


def total(amounts: Iterable[Resources]) -> Resources:
    """The sum of the amounts."""
    result = ZERO
    for amount in amounts:
        result = result.plus(amount)
    return result
