"""The cluster's state, and `apply`, the only function that changes it.

The ledger is this state in the leader's memory. Invariant, kept by `apply` and checked by `check`:
`taken[h]` is the sum of the demands of all placements on host h that hold room, `moving[h]` the sum over those that
are RESERVED or RELEASING, `of_namespace[n]` the sum over namespace n, and `groups` has the same placements by group
and host. Claims are applied before their commit and releases after it (promise 2), so the ledger never shows more
room than the store does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from billet.core.access import Credential, DropCredential, PutCredential
from billet.core.bidding import cannot
from billet.core.columns import Columns
from billet.core.constraints import violation
from billet.core.groups import Groups, domain, peers_on
from billet.core.model import (
    NO_CONSTRAINTS,
    ZERO,
    Auction,
    Host,
    HostView,
    Peers,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
)
from billet.core.scarcity import Labels


@dataclass(frozen=True, slots=True)
class PutHost:
    """A host is new, or its record has changed."""

    host: Host


@dataclass(frozen=True, slots=True)
class DropHost:
    """A host has left the fleet."""

    host_id: str


@dataclass(frozen=True, slots=True)
class PutPlacement:
    """A placement is new, or has changed."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class DropPlacement:
    """A placement has ended, and its room is free."""

    placement_id: str


Change = PutHost | DropHost | PutPlacement | DropPlacement | PutCredential | DropCredential


@dataclass(slots=True)
class State:
    """Hosts and placements, with the sums and indexes that every auction needs."""

    hosts: dict[str, Host] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    credentials: dict[str, Credential] = field(default_factory=dict)  # by name
    taken: dict[str, Resources] = field(default_factory=dict)
    moving: dict[str, Resources] = field(default_factory=dict)  # the part of `taken` that is RESERVED or RELEASING
    by_uid: dict[str, str] = field(default_factory=dict)  # uid -> placement id
    on_host: dict[str, set[str]] = field(default_factory=dict)  # host id -> placement ids
    fleet: Columns = field(default_factory=Columns)  # the hosts in columns, and what they said last of themselves
    whole: Resources = ZERO  # the sum of all hosts' allocatable
    of_namespace: dict[str, Resources] = field(default_factory=dict)  # taken by each namespace, see `in_namespace`
    adopted: dict[str, dict[str, Resources]] = field(default_factory=dict)  # by host and namespace
    groups: Groups = field(default_factory=Groups)
    zones: Counter[str] = field(default_factory=Counter)  # number of hosts by zone

    def room(self, host_id: str) -> Resources:
        """The free room of a host; ZERO for an unknown host."""
        host = self.hosts.get(host_id)
        return host.allocatable.minus(self.taken.get(host_id, ZERO)) if host else ZERO

    def in_namespace(self, namespace: str) -> Resources:
        """The resources that a namespace has taken on all hosts.

        Adopted microVMs, of which only their host tells, count up to what that host offers: no host can fill up the
        quota of a namespace with microVMs that it makes up.
        """
        return self.of_namespace.get(namespace, ZERO)

    def view(self, host_id: str) -> HostView | None:
        """A host as an award sees it; None for an unknown host."""
        host = self.hosts.get(host_id)
        return self._view(host) if host else None

    def _view(
        self,
        host: Host,
        excluded_by: Refusal | None = None,
        peers: tuple[Peers, ...] = (),
        required: Labels = (),
    ) -> HostView:
        taken, scarcity = self.taken.get(host.id, ZERO), self.fleet.labels.scarcity(host.id, required)
        return HostView(host.allocatable, taken, host.cordoned, host.fenced, excluded_by, peers, scarcity=scarcity)

    def views(self, host_ids: Iterable[str], auction: Auction) -> dict[str, HostView]:
        """The known hosts as the award of this auction sees them, with its constraints and preferences."""
        known = [host for host_id in host_ids if (host := self.hosts.get(host_id))]
        if auction.constraints == NO_CONSTRAINTS:
            return {host.id: self._view(host) for host in known}
        counted = self.groups.counted(auction)
        return {
            host.id: self._view(
                host,
                violation(host, auction.constraints) or self._apart(host.id, auction),
                peers_on(counted, host.id, domain(host.id, host)),
                auction.constraints.require,
            )
            for host in known
        }

    def excluded_by(self, host_id: str, auction: Auction) -> Refusal | None:
        """Why the ledger excludes a host from an auction, its room not considered; None if it does not."""
        host = self.hosts.get(host_id)
        if host is None:
            return Refusal(host_id, Reason.AWAY)
        return cannot(host, auction) or self._apart(host_id, auction)

    def _apart(self, host_id: str, auction: Auction) -> Refusal | None:
        other = self.groups.apart(auction, host_id)
        detail = f"already has {other} of group {auction.constraints.apart}"
        return Refusal(host_id, Reason.APART, detail) if other else None

    def zone(self, host_id: str) -> str:
        """A host's failure domain: its zone, or the host itself if it has none."""
        return domain(host_id, self.hosts.get(host_id))

    def of_uid(self, uid: str) -> Placement | None:
        """The placement of a microVM; None if it has none."""
        placement_id = self.by_uid.get(uid)
        return self.placements[placement_id] if placement_id else None


def apply(state: State, change: Change) -> None:
    """Apply one change in place. O(1) in hosts and placements, except when a host moves to another zone."""
    match change:
        case PutHost(host):
            _offer(state, host.id, host.allocatable)
            _become(state, host.id, host)
            state.fleet.put(host, state.taken.get(host.id, ZERO))
        case DropHost(host_id):
            _offer(state, host_id, ZERO)
            _become(state, host_id, None)
            state.fleet.drop(host_id)
        case PutPlacement(placement):
            old = state.placements.get(placement.id)
            recount = old is None or _counts(old) != _counts(placement)  # else its room stays as it is
            _remove(state, placement.id, recount)
            _insert(state, placement, recount)
        case DropPlacement(placement_id):
            _remove(state, placement_id, recount=True)
        case PutCredential(credential):
            state.credentials[credential.name] = credential
        case DropCredential(name):
            state.credentials.pop(name, None)


def _offer(state: State, host_id: str, allocatable: Resources) -> None:
    old = state.hosts.get(host_id)
    state.whole = state.whole.minus(old.allocatable if old else ZERO).plus(allocatable)


def holds_room(placement: Placement) -> bool:
    """Whether a placement takes room on its host."""
    return placement.state not in (PlacementState.LOST, PlacementState.FENCED, PlacementState.GONE)


def is_moving(placement: Placement) -> bool:
    """Whether host and ledger may count a placement differently for a moment: its order is on the way, or its delete
    was carried out and not reported yet."""
    return placement.state in (PlacementState.RESERVED, PlacementState.RELEASING)


def _counts(placement: Placement) -> tuple[object, ...]:
    """All that decides what a placement counts for, but whether it is moving."""
    p = placement
    return holds_room(p), p.host, p.demand, p.namespace, p.name, p.adopted, p.labels


def _insert(state: State, placement: Placement, recount: bool) -> None:
    state.placements[placement.id] = placement
    state.on_host.setdefault(placement.host, set()).add(placement.id)
    if placement.uid:
        state.by_uid[placement.uid] = placement.id
    if recount and holds_room(placement):
        _take(state, placement.host, state.taken.get(placement.host, ZERO).plus(placement.demand))
        _charge(state, placement, placement.demand)
        _join(state, placement, state.zone(placement.host))
    if is_moving(placement):
        state.moving[placement.host] = state.moving.get(placement.host, ZERO).plus(placement.demand)


def _remove(state: State, placement_id: str, recount: bool) -> None:
    old = state.placements.pop(placement_id, None)
    if old is None:
        return
    state.on_host[old.host].discard(placement_id)
    if old.uid:
        state.by_uid.pop(old.uid, None)
    if recount and holds_room(old):
        _take(state, old.host, state.taken[old.host].minus(old.demand))
        _charge(state, old, ZERO.minus(old.demand))
        _leave(state, old, state.zone(old.host))
    if is_moving(old):
        state.moving[old.host] = state.moving[old.host].minus(old.demand)


def _charge(state: State, placement: Placement, demand: Resources) -> None:
    """Add a demand, which may be negative, to what the placement's namespace has taken."""
    name, host_id = placement.namespace, placement.host
    if placement.adopted:
        on_host = state.adopted.setdefault(host_id, {})
        before = on_host.get(name, ZERO)
        on_host[name] = after = before.plus(demand)
        if after == ZERO:
            del on_host[name]
        demand = _counted(state, host_id, after).minus(_counted(state, host_id, before))
    _add_to_namespace(state, name, demand)


def _add_to_namespace(state: State, name: str, amount: Resources) -> None:
    state.of_namespace[name] = taken = state.in_namespace(name).plus(amount)
    if taken == ZERO:  # drop unused names, or they would add up
        del state.of_namespace[name]


def _counted(state: State, host_id: str, adopted: Resources) -> Resources:
    """The part of a namespace's adopted microVMs on a host that counts for the namespace."""
    host = state.hosts.get(host_id)
    return Resources(*map(min, adopted, host.allocatable)) if host else ZERO


def _become(state: State, host_id: str, host: Host | None) -> None:
    """Set a host's record; None removes it. O(1), or O(placements on it) when its zone changes."""
    before = state.zone(host_id)
    counted = {name: _counted(state, host_id, amount) for name, amount in state.adopted.get(host_id, {}).items()}
    if host_id in state.hosts:
        state.zones[before] -= 1
        if not state.zones[before]:
            del state.zones[before]
    if host:
        state.hosts[host_id] = host
        state.zones[state.zone(host_id)] += 1
    else:
        state.hosts.pop(host_id, None)
    for name, amount in counted.items():
        now = _counted(state, host_id, state.adopted[host_id][name])
        if now != amount:
            _add_to_namespace(state, name, now.minus(amount))
    after = state.zone(host_id)
    if after == before:
        return
    for placement_id in state.on_host.get(host_id, ()):
        placement = state.placements[placement_id]
        if holds_room(placement):
            _leave(state, placement, before)
            _join(state, placement, after)


def _join(state: State, placement: Placement, zone: str) -> None:
    for group in state.groups.add(placement, zone):
        state.fleet.crowds.moved(group, placement.host, zone, 1)


def _leave(state: State, placement: Placement, zone: str) -> None:
    for group in state.groups.remove(placement, zone):
        state.fleet.crowds.moved(group, placement.host, zone, -1)


def _take(state: State, host_id: str, taken: Resources) -> None:
    state.taken[host_id] = taken
    state.fleet.take(host_id, taken)


def load(changes: Iterable[Change]) -> State:
    """The state after all of these changes."""
    state = State()
    for change in changes:
        apply(state, change)
    return state


def check(state: State) -> None:
    """Raise AssertionError if the sums and indexes do not match the placements. O(placements); for tests."""
    sums: dict[str, Resources] = {}
    moving: dict[str, Resources] = {}
    namespaces: dict[str, Resources] = {}
    adopted: dict[tuple[str, str], Resources] = {}
    groups = Groups()
    for placement in state.placements.values():
        if holds_room(placement):
            sums[placement.host] = sums.get(placement.host, ZERO).plus(placement.demand)
            if placement.adopted:
                key = (placement.host, placement.namespace)
                adopted[key] = adopted.get(key, ZERO).plus(placement.demand)
            else:
                namespaces[placement.namespace] = namespaces.get(placement.namespace, ZERO).plus(placement.demand)
            groups.add(placement, state.zone(placement.host))
        if is_moving(placement):
            moving[placement.host] = moving.get(placement.host, ZERO).plus(placement.demand)
    for (host_id, name), amount in adopted.items():
        namespaces[name] = namespaces.get(name, ZERO).plus(_counted(state, host_id, amount))
    assert {name: amount for name, amount in namespaces.items() if amount != ZERO} == state.of_namespace
    assert groups == state.groups
    state.fleet.crowds.check(groups.of)
    assert Counter(state.zone(host_id) for host_id in state.hosts) == state.zones
    for host_id in sums.keys() | state.taken.keys():
        assert sums.get(host_id, ZERO) == state.taken.get(host_id, ZERO), host_id
    for host_id in moving.keys() | state.moving.keys():
        assert moving.get(host_id, ZERO) == state.moving.get(host_id, ZERO), host_id
    allocatable = [host.allocatable for host in state.hosts.values()]
    assert state.whole == Resources(*(sum(amounts) for amounts in zip(*allocatable, strict=True)))
    assert {p.uid: p.id for p in state.placements.values() if p.uid} == state.by_uid
    fleet = state.fleet
    assert fleet.rows.keys() == state.hosts.keys()
    for host_id, row in fleet.rows.items():
        host = state.hosts[host_id]
        assert tuple(fleet.allocatable[:, row]) == host.allocatable
        assert tuple(fleet.taken[:, row]) == state.taken.get(host_id, ZERO)
        assert fleet.open[row] == (not host.cordoned and not host.fenced)
