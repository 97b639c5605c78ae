"""Which microVMs would have to be made again elsewhere to even out the fleet: few moves, the best one first.

Flintlock cannot migrate. A move is a Delete, and a Create by the microVM's controller, which a new auction places:
so a move is only proposed where the score itself would now choose another host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from typing import NamedTuple

from billet.core.model import ZERO, Facts, HostView, Resources
from billet.core.scoring import Weights, price, utilisation

NOWHERE = float("inf")


class Resident(NamedTuple):
    """A microVM on a host; only one that is `evictable` may be moved, and never to a host that is `barred` to it."""

    uid: str
    name: str
    host: str
    demand: Resources
    evictable: bool
    barred: frozenset[str] = frozenset()


class Move(NamedTuple):
    """One microVM from its host to the one that would win it now; `cov` is the evenness after it."""

    uid: str
    name: str
    source: str
    target: str
    demand: Resources
    cov: float


class Place(NamedTuple):
    """A host that takes part: what it may promise and has promised, and what its last report said."""

    view: HostView
    facts: Facts


def cov(shares: Sequence[float]) -> float:
    """The coefficient of variation of hosts' dominant shares: 0 = all alike."""
    mean = sum(shares) / len(shares) if shares else 0.0
    if not mean:
        return 0.0
    return sqrt(max(0.0, sum(share * share for share in shares) / len(shares) - mean * mean)) / mean


def evenness(places: Mapping[str, Place]) -> float:
    """`cov` of these hosts as they are."""
    return cov([_share(place.view.allocatable, place.view.taken) for place in places.values()])


def plan(
    places: Mapping[str, Place], residents: Iterable[Resident], weights: Weights, most: int, least_gain: float
) -> list[Move]:
    """Greedy: at each step the move after which the fleet is most even, while each gains `least_gain` of CoV.

    Invariant: no step makes the fleet less even, every target has room and is not the source, nobody moves twice.
    """
    trial = _Trial(places, weights)
    staying = {resident.uid: resident for resident in residents if resident.evictable and resident.host in places}
    moves: list[Move] = []
    while len(moves) < most:
        best = min(trial.moves(staying.values()), key=lambda move: (move.cov, move.uid), default=None)
        if best is None or trial.cov() - best.cov < least_gain:
            return moves
        trial.make(best)
        del staying[best.uid]
        moves.append(best)
    return moves


class _Trial:
    """The fleet as it would be after some moves."""

    def __init__(self, places: Mapping[str, Place], weights: Weights) -> None:
        self._places = places
        self._weights = weights
        self.taken = {host_id: place.view.taken for host_id, place in places.items()}
        self._shares = {host_id: self._share(host_id, ZERO) for host_id in places}
        self._prices: dict[Resources, dict[str, float]] = {}  # by demand and host

    def cov(self) -> float:
        return cov(list(self._shares.values()))

    def moves(self, residents: Iterable[Resident]) -> Iterator[Move]:
        """The move of one microVM of each size on each host, to where it would go."""
        known = sorted(residents, key=lambda resident: resident.uid, reverse=True)
        alike = {(resident.host, resident.demand, resident.barred): resident for resident in known}
        for (source, demand, barred), resident in alike.items():
            target = self._target(source, demand, barred)
            if target:
                yield Move(
                    resident.uid, resident.name, source, target, demand, self._cov_after(source, target, demand)
                )

    def make(self, move: Move) -> None:
        """Take it as made."""
        self.taken[move.source] = self.taken[move.source].minus(move.demand)
        self.taken[move.target] = self.taken[move.target].plus(move.demand)
        for host_id in (move.source, move.target):
            self._shares[host_id] = self._share(host_id, ZERO)
            for demand, prices in self._prices.items():
                prices[host_id] = self._price(host_id, self.taken[host_id], demand)

    def _target(self, source: str, demand: Resources, barred: frozenset[str]) -> str:
        """Who would win it once it is gone from its host; "" when that is the same host again, or nobody."""
        prices = self._prices.get(demand)
        if prices is None:
            prices = {host_id: self._price(host_id, self.taken[host_id], demand) for host_id in self._places}
            self._prices[demand] = prices
        others = (host_id for host_id in prices if host_id != source and host_id not in barred)
        target = min(others, key=prices.__getitem__, default="")
        if not target or prices[target] == NOWHERE:
            return ""
        again = self._price(source, self.taken[source].minus(demand), demand)
        return target if prices[target] < again else ""

    def _cov_after(self, source: str, target: str, demand: Resources) -> float:
        less = Resources(*(-amount for amount in demand))
        changed = {source: self._share(source, less), target: self._share(target, demand)}
        return cov(list((self._shares | changed).values()))

    def _share(self, host_id: str, more: Resources) -> float:
        return _share(self._places[host_id].view.allocatable, self.taken[host_id].plus(more))

    def _price(self, host_id: str, taken: Resources, demand: Resources) -> float:
        view, facts = self._places[host_id]
        if view.cordoned or view.fenced or not view.allocatable.minus(taken).covers(demand):
            return NOWHERE
        return price(view.allocatable, taken, demand, facts, self._weights).total


def _share(allocatable: Resources, taken: Resources) -> float:
    return utilisation(allocatable, taken, ZERO)
