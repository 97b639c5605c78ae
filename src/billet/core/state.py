"""The cluster's state, and `apply`, the only way in which it changes.

The ledger is this state in the leader's memory. Invariant, kept by `apply` and checked by `check`:
`taken[h]` is the sum of the demands of all placements on host h that hold room, `moving[h]` of those of them that are
RESERVED or RELEASING, `of_namespace[n]` of those of namespace n, and `groups` has the same placements by group and
host. Claims are applied before they are committed and releases after (promise 2), so the ledger never shows more room
than the store does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from billet.core.bidding import cannot
from billet.core.constraints import violation
from billet.core.groups import Groups, domain, peers_on
from billet.core.model import (
    NO_CONSTRAINTS,
    ZERO,
    Auction,
    Group,
    GroupKind,
    Host,
    HostView,
    Peers,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
)
from billet.core.ranking import Ranking
from billet.core.scoring import utilisation


@dataclass(frozen=True, slots=True)
class PutHost:
    """A host is new, or what it says of itself has changed."""

    host: Host


@dataclass(frozen=True, slots=True)
class DropHost:
    """A host is no longer part of the fleet."""

    host_id: str


@dataclass(frozen=True, slots=True)
class PutPlacement:
    """A placement is new, or has moved on in its life."""

    placement: Placement


@dataclass(frozen=True, slots=True)
class DropPlacement:
    """A placement has ended and its room is free."""

    placement_id: str


Change = PutHost | DropHost | PutPlacement | DropPlacement


@dataclass(slots=True)
class State:
    """Hosts and placements, with what is asked of them at every auction kept up to date."""

    hosts: dict[str, Host] = field(default_factory=dict)
    placements: dict[str, Placement] = field(default_factory=dict)
    taken: dict[str, Resources] = field(default_factory=dict)
    moving: dict[str, Resources] = field(default_factory=dict)  # what of it is on its way there, or from there
    by_uid: dict[str, str] = field(default_factory=dict)  # uid -> placement id
    on_host: dict[str, set[str]] = field(default_factory=dict)  # host id -> placement ids
    ranking: Ranking = field(default_factory=Ranking)  # the hosts that take microVMs, the emptiest first
    whole: Resources = ZERO  # what all hosts together may promise
    of_namespace: dict[str, Resources] = field(default_factory=dict)  # what each namespace has taken
    groups: Groups = field(default_factory=Groups)
    zones: Counter[str] = field(default_factory=Counter)  # hosts by zone

    def room(self, host_id: str) -> Resources:
        """What is still free on a host; nothing on one that is not known."""
        host = self.hosts.get(host_id)
        return host.allocatable.minus(self.taken.get(host_id, ZERO)) if host else ZERO

    def in_namespace(self, namespace: str) -> Resources:
        """What a namespace has taken, on all hosts together."""
        return self.of_namespace.get(namespace, ZERO)

    def view(self, host_id: str) -> HostView | None:
        """What an award looks at; None for a host that is not known."""
        host = self.hosts.get(host_id)
        return self._view(host) if host else None

    def _view(self, host: Host, excluded_by: Refusal | None = None, peers: tuple[Peers, ...] = ()) -> HostView:
        return HostView(
            host.allocatable, self.taken.get(host.id, ZERO), host.cordoned, host.fenced, excluded_by, peers
        )

    def views(self, host_ids: Iterable[str], auction: Auction) -> dict[str, HostView]:
        """What the award of this auction looks at: the views of those hosts that are known, with its wishes."""
        known = [host for host_id in host_ids if (host := self.hosts.get(host_id))]
        if auction.constraints == NO_CONSTRAINTS:
            return {host.id: self._view(host) for host in known}
        counted = self.groups.counted(auction)
        return {
            host.id: self._view(
                host,
                violation(host, auction.constraints) or self._apart(host.id, auction),
                peers_on(counted, host.id, domain(host.id, host)),
            )
            for host in known
        }

    def excluded_by(self, host_id: str, auction: Auction) -> Refusal | None:
        """Why a host is ruled out for an auction by what the ledger knows, its room apart."""
        host = self.hosts.get(host_id)
        if host is None:
            return Refusal(host_id, Reason.AWAY)
        return cannot(host, auction) or self._apart(host_id, auction)

    def _apart(self, host_id: str, auction: Auction) -> Refusal | None:
        other = self.groups.apart(auction, host_id)
        detail = f"already has {other} of group {auction.constraints.apart}"
        return Refusal(host_id, Reason.APART, detail) if other else None

    def peer_hosts(self, auction: Auction) -> Iterable[str]:
        """The hosts that have one of the group which the auction wishes to be near to, in the zone that it wishes."""
        near, zone = auction.constraints.near, auction.constraints.zone
        if not near:
            return ()
        group = Group(auction.namespace, GroupKind.GROUP, near)
        if not zone:
            return self.groups.hosts(group)
        if not self.groups.in_zone(group, zone):
            return ()  # as where a large group is in other zones only: none of its hosts is looked at
        return (host_id for host_id in self.groups.hosts(group) if self.zone(host_id) == zone)

    def zone(self, host_id: str) -> str:
        """A host's failure domain; one without a zone is its own."""
        return domain(host_id, self.hosts.get(host_id))

    def of_uid(self, uid: str) -> Placement | None:
        """The placement of a microVM."""
        placement_id = self.by_uid.get(uid)
        return self.placements[placement_id] if placement_id else None


def apply(state: State, change: Change) -> None:
    """Take one step, in place. O(1) in hosts and placements, but for a host's move to another zone."""
    match change:
        case PutHost(host):
            _offer(state, host.id, host.allocatable)
            _become(state, host.id, host)
            _rank(state, host.id)
        case DropHost(host_id):
            _offer(state, host_id, ZERO)
            _become(state, host_id, None)
            state.ranking.drop(host_id)
        case PutPlacement(placement):
            _remove(state, placement.id)
            _insert(state, placement)
        case DropPlacement(placement_id):
            _remove(state, placement_id)


def _offer(state: State, host_id: str, allocatable: Resources) -> None:
    old = state.hosts.get(host_id)
    state.whole = state.whole.minus(old.allocatable if old else ZERO).plus(allocatable)


def holds_room(placement: Placement) -> bool:
    """Whether a placement counts against its host."""
    return placement.state not in (PlacementState.LOST, PlacementState.FENCED, PlacementState.GONE)


def is_moving(placement: Placement) -> bool:
    """Whether its host may count it otherwise than the ledger for a moment: an order is on its way there, or a delete
    has been carried out and not been heard of."""
    return placement.state in (PlacementState.RESERVED, PlacementState.RELEASING)


def _insert(state: State, placement: Placement) -> None:
    state.placements[placement.id] = placement
    state.on_host.setdefault(placement.host, set()).add(placement.id)
    if placement.uid:
        state.by_uid[placement.uid] = placement.id
    if holds_room(placement):
        _take(state, placement.host, state.taken.get(placement.host, ZERO).plus(placement.demand))
        state.of_namespace[placement.namespace] = state.in_namespace(placement.namespace).plus(placement.demand)
        state.groups.add(placement, state.zone(placement.host))
    if is_moving(placement):
        state.moving[placement.host] = state.moving.get(placement.host, ZERO).plus(placement.demand)


def _remove(state: State, placement_id: str) -> None:
    old = state.placements.pop(placement_id, None)
    if old is None:
        return
    state.on_host[old.host].discard(placement_id)
    if old.uid:
        state.by_uid.pop(old.uid, None)
    if holds_room(old):
        _take(state, old.host, state.taken[old.host].minus(old.demand))
        state.of_namespace[old.namespace] = left = state.in_namespace(old.namespace).minus(old.demand)
        if left == ZERO:  # the last one: names of namespaces come and go
            del state.of_namespace[old.namespace]
        state.groups.remove(old, state.zone(old.host))
    if is_moving(old):
        state.moving[old.host] = state.moving[old.host].minus(old.demand)


def _become(state: State, host_id: str, host: Host | None) -> None:
    """A host is another, or none. O(1), but for a move to another zone: O(placements on it)."""
    before = state.zone(host_id)
    if host_id in state.hosts:
        state.zones[before] -= 1
        if not state.zones[before]:
            del state.zones[before]
    if host:
        state.hosts[host_id] = host
        state.zones[state.zone(host_id)] += 1
    else:
        state.hosts.pop(host_id, None)
    after = state.zone(host_id)
    if after == before:
        return
    for placement_id in state.on_host.get(host_id, ()):
        placement = state.placements[placement_id]
        if holds_room(placement):
            state.groups.remove(placement, before)
            state.groups.add(placement, after)


def _take(state: State, host_id: str, taken: Resources) -> None:
    state.taken[host_id] = taken
    _rank(state, host_id)


def _rank(state: State, host_id: str) -> None:
    host = state.hosts.get(host_id)
    if host is None:
        return
    if host.cordoned or host.fenced:
        state.ranking.drop(host_id)  # however many are drained: no auction looks at them
    else:
        share = utilisation(host.allocatable, state.taken.get(host_id, ZERO), ZERO)
        state.ranking.put(host_id, share, host.zone)


def load(changes: Iterable[Change]) -> State:
    """The state after all of these steps."""
    state = State()
    for change in changes:
        apply(state, change)
    return state


def check(state: State) -> None:
    """Raise AssertionError if the sums do not say what the placements say. O(placements); for tests."""
    sums: dict[str, Resources] = {}
    moving: dict[str, Resources] = {}
    namespaces: dict[str, Resources] = {}
    groups = Groups()
    for placement in state.placements.values():
        if holds_room(placement):
            sums[placement.host] = sums.get(placement.host, ZERO).plus(placement.demand)
            namespaces[placement.namespace] = namespaces.get(placement.namespace, ZERO).plus(placement.demand)
            groups.add(placement, state.zone(placement.host))
        if is_moving(placement):
            moving[placement.host] = moving.get(placement.host, ZERO).plus(placement.demand)
    assert namespaces == state.of_namespace
    assert groups == state.groups
    assert Counter(state.zone(host_id) for host_id in state.hosts) == state.zones
    for host_id in sums.keys() | state.taken.keys():
        assert sums.get(host_id, ZERO) == state.taken.get(host_id, ZERO), host_id
    for host_id in moving.keys() | state.moving.keys():
        assert moving.get(host_id, ZERO) == state.moving.get(host_id, ZERO), host_id
    allocatable = [host.allocatable for host in state.hosts.values()]
    assert state.whole == Resources(*(sum(amounts) for amounts in zip(*allocatable, strict=True)))
    assert {p.uid: p.id for p in state.placements.values() if p.uid} == state.by_uid
