"""Rules that see old reports: how the balance suffers when reports are up to N requests old."""

from __future__ import annotations

from hashlib import blake2b

from billet.core.auction import award, tie_break
from billet.core.bidding import bid
from billet.core.model import Auction, Award, Facts, Resources
from billet.core.scoring import Weights
from billet.whatif.simulated_fleet import Price, SimulatedFleet


class Reports:
    """The last report of each host. Each reports once in `every` requests, at different times."""

    def __init__(self, fleet: SimulatedFleet, every: int) -> None:
        self._fleet = fleet
        self._every = every
        self._due: list[list[int]] = [[] for _ in range(every)]
        for n, host_id in enumerate(fleet.ids):
            phase = int.from_bytes(blake2b(host_id.encode(), digest_size=8).digest()) % every
            self._due[phase].append(n)
        self.reported = [fleet.taken(n) for n in range(len(fleet.ids))]
        self._requests = 0

    def request(self) -> None:
        """Begin a request: the hosts that are due report."""
        for n in self._due[self._requests % self._every]:
            self.reported[n] = self._fleet.taken(n)
        self._requests += 1


class LateBids:
    """Billet: bids from old reports, priced again by the ledger in the award (promise 1). Boots take no time here."""

    def __init__(self, fleet: SimulatedFleet, weights: Weights, every: int) -> None:
        self._fleet = fleet
        self._weights = weights._replace(delay=0.0)
        self._reports = Reports(fleet, every)

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        """Hold an auction among all hosts, as a leader does."""
        self._reports.request()
        state, auction, facts = self._fleet.state, wanted or Auction(vm, "", vm, demand), Facts()
        reported = zip(self._fleet.ids, self._reports.reported, strict=True)
        answers = [bid(state.hosts[host_id], taken, facts, auction, self._weights) for host_id, taken in reported]
        decision = award(auction, answers, state.views(self._fleet.ids, auction), self._weights)
        return decision.host if isinstance(decision, Award) else None


class LatePrices:
    """Another rule: the lowest price by old reports, among the hosts that really have room."""

    def __init__(self, fleet: SimulatedFleet, price: Price, every: int) -> None:
        self._fleet = fleet
        self._price = price
        self._reports = Reports(fleet, every)

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        """The cheapest host by the reports. Ties are broken as in `core.auction.award`."""
        self._reports.request()
        fleet, reported = self._fleet, self._reports.reported
        able = [n for n in range(len(fleet.ids)) if fleet.fits(n, demand)]
        if not able:
            return None
        costs = {n: self._price(fleet.capacities[n], reported[n], demand) for n in able}
        low = min(costs.values())
        return min((fleet.ids[n] for n in able if costs[n] == low), key=lambda host: tie_break(vm, host))
