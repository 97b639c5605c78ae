"""A simulated fleet on the core's own state, and a fast search for the host with the lowest price."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from billet.core.auction import award, tie_break, unpriced_bid
from billet.core.model import ZERO, Auction, Award, Facts, Host, Placement, PlacementState, Resources
from billet.core.policies import named
from billet.core.scoring import Weights, utilisation
from billet.core.state import DropPlacement, PutHost, PutPlacement, State, apply
from billet.whatif.workload import Traits

Price = Callable[[Resources, Resources, Resources], float]  # allocatable, taken, demand -> lower is better

MOST_ROWS = 512  # demands whose prices are cached
INFINITE = float("inf")


class Chooser(Protocol):
    """A rule, applied to one fleet."""

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        """The host for a microVM; None refuses it. `wanted`: its constraints and preferences, if it has any."""


class SimulatedFleet:
    """Hosts and what is taken on them. Changed only through `core.state.apply`."""

    def __init__(self, hosts: Mapping[str, Resources], traits: Mapping[str, Traits] | None = None) -> None:
        self.state = State()
        self.ids = list(hosts)
        self.capacities = list(hosts.values())
        self.number = {host_id: n for n, host_id in enumerate(self.ids)}
        self.moved: list[int] = []  # the number of each host that changed, in order
        for host_id, room in hosts.items():
            zone, labels = (traits or {}).get(host_id, Traits())
            apply(self.state, PutHost(Host(host_id, room, room, zone, labels)))

    def taken(self, n: int) -> Resources:
        """The resources taken on host n."""
        return self.state.taken.get(self.ids[n], ZERO)

    def fits(self, n: int, demand: Resources) -> bool:
        """Whether host n has room."""
        return self.capacities[n].has_room(self.taken(n), demand)

    def place(self, vm: str, demand: Resources, host_id: str, wanted: Auction | None = None) -> None:
        """Put a microVM on a host."""
        placement = Placement(vm, "", vm, demand, host_id, PlacementState.STARTED)
        if wanted:  # its labels make it a member of groups
            placement = replace(placement, namespace=wanted.namespace, name=wanted.name, labels=wanted.labels)
        apply(self.state, PutPlacement(placement))
        self.moved.append(self.number[host_id])

    def remove(self, vm: str) -> None:
        """Remove a microVM. Does nothing if it was refused."""
        placement = self.state.placements.get(vm)
        if placement:
            apply(self.state, DropPlacement(vm))
            self.moved.append(self.number[placement.host])


class Cheapest:
    """Chooses the host with room and the lowest price. Ties are broken as in `core.auction.award`.

    A price depends on one host and one demand only. So the prices of each demand are cached, and only hosts that have
    changed since are priced again. The choice is the same as without the cache.
    """

    def __init__(self, fleet: SimulatedFleet, price: Price, added: Sequence[float] = ()) -> None:
        """`added`: what each host's price has in addition, by number."""
        self._fleet = fleet
        self._price = price
        self._added = added or [0.0] * len(fleet.ids)
        self._rows: dict[Resources, tuple[list[float], int]] = {}  # demand -> prices by host, how much of `moved`

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        """The cheapest host. Ignores constraints and preferences."""
        prices = self._prices(demand)
        low = min(prices)
        if low == INFINITE:
            return None
        ids = self._fleet.ids
        if prices.count(low) == 1:
            return ids[prices.index(low)]
        return min((ids[n] for n, cost in enumerate(prices) if cost == low), key=lambda host: tie_break(vm, host))

    def _prices(self, demand: Resources) -> list[float]:
        moved = self._fleet.moved
        known = self._rows.get(demand)
        if known is None:
            if len(self._rows) >= MOST_ROWS:
                self._rows.clear()
            prices = [self._ask(n, demand) for n in range(len(self._fleet.ids))]
        else:
            prices, seen = known
            for n in set(moved[seen:]):
                prices[n] = self._ask(n, demand)
        self._rows[demand] = prices, len(moved)
        return prices

    def _ask(self, n: int, demand: Resources) -> float:
        capacity, taken = self._fleet.capacities[n], self._fleet.taken(n)
        if not capacity.has_room(taken, demand):
            return INFINITE
        return self._price(capacity, taken, demand) + self._added[n]


class Granting:
    """Billet's rule: the cheapest host; a whole auction for a microVM with constraints or preferences."""

    def __init__(self, fleet: SimulatedFleet, weights: Weights) -> None:
        self._fleet = fleet
        self._weights = weights
        added = [weights.scarcity * fleet.state.fleet.labels.scarcity(host_id).share for host_id in fleet.ids]
        self._cheapest = Cheapest(fleet, billet(weights), added)

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        """The host that wins."""
        if wanted is None:
            return self._cheapest.choose(vm, demand)
        ids, calm = self._fleet.ids, Facts()
        views = self._fleet.state.views(ids, wanted)
        decision = award(wanted, [unpriced_bid(host_id, calm) for host_id in ids], views, self._weights)
        return decision.host if isinstance(decision, Award) else None


def billet(weights: Weights) -> Price:
    """Billet's price without facts: equal to `core.scoring.price` where no second counts.

    The parts that depend on facts are 0 and not computed: a simulation spends most of its time here.
    """
    shape = named(weights.policy).shape

    def price(allocatable: Resources, taken: Resources, demand: Resources) -> float:
        share = utilisation(allocatable, taken, demand)
        return share + shape(allocatable, taken, demand, share, weights.shape)

    return price
