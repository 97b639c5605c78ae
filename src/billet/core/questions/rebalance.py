"""Rebalancing: which microVMs to recreate on other hosts to even out the fleet. Few moves, the best one first.

Flintlock cannot migrate. A move is a Delete, followed by a Create from the microVM's controller, which a new auction
places. So a move is proposed only if the score would choose another host now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from typing import NamedTuple

from billet.core.auction import patient
from billet.core.constraints import Crowding, crowding, violation, with_preferences
from billet.core.groups import Counted, Groups, domain, peers_on
from billet.core.model import (
    NO_CONSTRAINTS,
    ZERO,
    Auction,
    Constraints,
    Facts,
    Host,
    HostView,
    Placement,
    PlacementState,
    Resources,
    Score,
)
from billet.core.scarcity import LabelCounts
from billet.core.scoring import NEVER_LATE_S, Weights, price, utilisation

NOWHERE = float("inf")


class Resident(NamedTuple):
    """A microVM on a host; `name` is NAMESPACE/NAME. Only `evictable` ones are moved, within their constraints."""

    uid: str
    name: str
    host: str
    demand: Resources
    evictable: bool
    constraints: Constraints = NO_CONSTRAINTS
    labels: Mapping[str, str] = {}

    @property
    def namespace(self) -> str:
        """The namespace of the microVM and its groups."""
        return self.name.partition("/")[0]


class Move(NamedTuple):
    """A microVM's move to the host that would win it now; `cov` is the coefficient of variation after it."""

    uid: str
    name: str
    source: str
    target: str
    demand: Resources
    cov: float


class Asked(NamedTuple):
    """What the score of a microVM on a host depends on, preferences left out."""

    demand: Resources
    policy: str
    patient: bool
    required: tuple[tuple[str, str], ...]


class Offer(NamedTuple):
    """What hosts are compared by, in this order; the preference is part of the score."""

    crowding: Crowding
    total: float
    preference: float


NO_OFFER = Offer(Crowding(1 << 62), NOWHERE, NOWHERE)
EMPTY = Crowding()


class Place(NamedTuple):
    """A host that takes part: its view in the ledger, and the facts of its last report."""

    view: HostView
    facts: Facts


def cov(shares: Sequence[float]) -> float:
    """The coefficient of variation of the hosts' dominant shares: 0 = all equal."""
    mean = sum(shares) / len(shares) if shares else 0.0
    if not mean:
        return 0.0
    return sqrt(max(0.0, sum(share * share for share in shares) / len(shares) - mean * mean)) / mean


def evenness(places: Mapping[str, Place]) -> float:
    """The `cov` of these hosts now."""
    return cov([_share(place.view.allocatable, place.view.taken) for place in places.values()])


def plan(
    places: Mapping[str, Place],
    residents: Sequence[Resident],
    weights: Weights,
    most: int,
    least_gain: float,
    hosts: Mapping[str, Host] | None = None,
) -> list[Move]:
    """Plan up to `most` moves. Greedy: each step is the move with the lowest CoV after it, and gains `least_gain`.

    `residents` are all microVMs that count in groups, also on hosts that take no part; `hosts` has the labels and
    zones for constraints. Invariant: no step makes the fleet less even, every target has room and is not the source,
    no microVM moves twice, constraints hold, and no preference is worse than on the source.
    """
    trial = _Trial(places, residents, hosts or {}, weights)
    staying = {resident.uid: resident for resident in residents if resident.evictable and resident.host in places}
    moves: list[Move] = []
    while len(moves) < most:
        best = min(trial.moves(staying.values()), key=lambda move: (move.cov, move.uid), default=None)
        if best is None or trial.cov() - best.cov < least_gain:
            return moves
        trial.carry_out(best, staying.pop(best.uid))
        moves.append(best)
    return moves


class _Trial:
    """The fleet as it would be after the moves so far."""

    def __init__(
        self,
        places: Mapping[str, Place],
        residents: Iterable[Resident],
        hosts: Mapping[str, Host],
        weights: Weights,
    ) -> None:
        self._places = places
        self._hosts = hosts
        self._weights = weights
        self._labels = LabelCounts()
        for host in hosts.values():
            self._labels.put(host.id, host.labels)
        self._groups = Groups()
        for resident in residents:
            self._groups.add(_placement(resident), self._zone(resident.host))
        self.taken = {host_id: place.view.taken for host_id, place in places.items()}
        self._shares = {host_id: self._share(host_id, ZERO) for host_id in places}
        self._prices: dict[Asked, dict[str, float]] = {}  # then by host

    def cov(self) -> float:
        return cov(list(self._shares.values()))

    def moves(self, residents: Iterable[Resident]) -> Iterator[Move]:
        """The possible moves: of equal microVMs on the same host only one."""
        known = sorted(residents, key=lambda resident: resident.uid, reverse=True)
        alike = {
            (r.host, r.demand, r.constraints, r.namespace if r.constraints != NO_CONSTRAINTS else ""): r
            for r in known
        }
        for resident in alike.values():
            source, demand = resident.host, resident.demand
            target = self._target(resident)
            if target:
                after = self._cov_after(source, target, demand)
                yield Move(resident.uid, resident.name, source, target, demand, after)

    def carry_out(self, move: Move, resident: Resident) -> None:
        """Carry out a move."""
        self._groups.remove(_placement(resident), self._zone(move.source))
        self._groups.add(_placement(resident._replace(host=move.target)), self._zone(move.target))
        self.taken[move.source] = self.taken[move.source].minus(move.demand)
        self.taken[move.target] = self.taken[move.target].plus(move.demand)
        changed = (move.source, move.target)
        self._shares |= {host_id: self._share(host_id, ZERO) for host_id in changed}
        for asked, prices in self._prices.items():
            updated = {host_id: self._price(host_id, self.taken[host_id], asked) for host_id in changed}
            self._prices[asked] = _ascending(prices | updated)

    def _target(self, resident: Resident) -> str:
        """The host that would win the microVM if it were deleted; "" if it is the same host, or none."""
        source, demand, constraints = resident.host, resident.demand, resident.constraints
        asked = Asked(demand, constraints.policy, patient(constraints), constraints.require)
        prices = self._prices_of(asked)
        staying = self._price(source, self.taken[source].minus(demand), asked)
        if constraints != NO_CONSTRAINTS:
            return self._target_by_constraints(resident, prices, staying)
        target = next((host_id for host_id in prices if host_id != source), "")
        return target if target and prices[target] < staying else ""

    def _target_by_constraints(self, resident: Resident, prices: Mapping[str, float], staying: float) -> str:
        """The same with constraints and preferences; "" also if the preferences would be met less there."""
        placement, zone = _placement(resident), self._zone(resident.host)
        self._groups.remove(placement, zone)
        auction = Auction(
            resident.uid, placement.namespace, placement.name, resident.demand, constraints=resident.constraints
        )
        counted = self._groups.counted(auction)
        here = best = self._offer(auction, counted, resident.host, staying)
        target = ""
        for host_id, total in prices.items():
            if total == NOWHERE or (total >= best.total and best.crowding == EMPTY):
                break  # preferences only add to it, and all further prices are higher
            if host_id != resident.host:
                offer = self._offer(auction, counted, host_id, total)
                if offer[:2] < best[:2]:
                    best, target = offer, host_id
        self._groups.add(placement, zone)
        return target if best.preference <= here.preference else ""

    def _offer(self, auction: Auction, counted: Sequence[Counted], host_id: str, total: float) -> Offer:
        """A price plus the preferences; NO_OFFER if a constraint is violated."""
        host = self._hosts.get(host_id)
        if (host and violation(host, auction.constraints)) or self._groups.apart(auction, host_id):
            return NO_OFFER
        peers = peers_on(counted, host_id, self._zone(host_id))
        score = with_preferences(Score(total, total, 0.0, 0.0), peers, self._weights)
        return Offer(crowding(peers, self._weights), score.total, score.preference)

    def _prices_of(self, asked: Asked) -> dict[str, float]:
        """The price on every host, the lowest first."""
        prices = self._prices.get(asked)
        if prices is None:
            prices = _ascending({h: self._price(h, self.taken[h], asked) for h in self._places})
            self._prices[asked] = prices
        return prices

    def _zone(self, host_id: str) -> str:
        return domain(host_id, self._hosts.get(host_id))

    def _cov_after(self, source: str, target: str, demand: Resources) -> float:
        less = Resources(*(-amount for amount in demand))
        changed = {source: self._share(source, less), target: self._share(target, demand)}
        return cov(list((self._shares | changed).values()))

    def _share(self, host_id: str, more: Resources) -> float:
        return _share(self._places[host_id].view.allocatable, self.taken[host_id].plus(more))

    def _price(self, host_id: str, taken: Resources, asked: Asked) -> float:
        view, facts = self._places[host_id]
        room, weights = view.allocatable, self._weights.under(asked.policy)
        if view.cordoned or view.fenced or not room.minus(taken).covers(asked.demand):
            return NOWHERE
        soonest_s = NEVER_LATE_S if asked.patient else 0.0
        scarcity = weights.scarcity * self._labels.scarcity(host_id, asked.required).share
        return scarcity + price(room, taken, asked.demand, facts, weights, 0, view.discount, soonest_s).total


def _share(allocatable: Resources, taken: Resources) -> float:
    return utilisation(allocatable, taken, ZERO)


def _ascending(prices: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(prices.items(), key=lambda item: item[1]))


def _placement(resident: Resident) -> Placement:
    namespace, _, name = resident.name.partition("/")
    state, labels = PlacementState.STARTED, resident.labels
    return Placement(resident.uid, namespace, name, resident.demand, resident.host, state, labels=labels)
