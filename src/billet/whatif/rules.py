"""Placement rules by name: Billet's policies, and the rules to compare them with.

Random rules draw by a hash of the microVM's name, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from zlib import crc32

from billet.core.model import ZERO, Auction, Resources
from billet.core.policies import POLICIES
from billet.core.scoring import Weights, utilisation
from billet.core.shortlist import draw
from billet.whatif.late_reports import LateBids, LatePrices
from billet.whatif.simulated_fleet import Cheapest, Chooser, Granting, Price, SimulatedFleet

# fleet, number of creates before, name, demand -> index of the host; None refuses
Pick = Callable[[SimulatedFleet, int, str, Resources], int | None]


# Rules that give each host a price; the lowest with room wins.


def least_loaded(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """Price: the mean of the vCPU and memory shares *before* the placement, as a monitor shows them."""
    return (taken.vcpu / allocatable.vcpu + taken.memory_mib / allocatable.memory_mib) / 2


def dominant_share(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """Price: the dominant share after the placement (Ghodsi et al., NSDI 2011)."""
    return utilisation(allocatable, taken, demand)


def kube_default(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """Price: kube-scheduler's default scores, LeastAllocated and BalancedAllocation, at equal weights.

    Each is a whole number from 0 to 100, higher is better: the mean free share after the placement, and one minus
    the standard deviation of the used shares, which for two resources is half of their difference.
    """
    vcpu = (taken.vcpu + demand.vcpu) / allocatable.vcpu
    memory = (taken.memory_mib + demand.memory_mib) / allocatable.memory_mib
    least = int(100 * (2 - vcpu - memory) / 2)
    balanced = int(100 * (1 - abs(vcpu - memory) / 2))
    return -(least + balanced)


# Rules that pick a host outright.


def static_list(fleet: SimulatedFleet, arrival: int, vm: str, demand: Resources) -> int | None:
    """CAPMVM's static list: host crc32(name) mod N; refused if it has no room."""
    return _if_fits(fleet, crc32(vm.encode()) % len(fleet.ids), demand)


def round_robin(fleet: SimulatedFleet, arrival: int, vm: str, demand: Resources) -> int | None:
    """Each host in turn; refused if it has no room."""
    return _if_fits(fleet, arrival % len(fleet.ids), demand)


def at_random(fleet: SimulatedFleet, arrival: int, vm: str, demand: Resources) -> int | None:
    """A random host with room."""
    able = _able(fleet, demand)
    return able[draw(vm, "") % len(able)] if able else None


def power_of_two(fleet: SimulatedFleet, arrival: int, vm: str, demand: Resources) -> int | None:
    """The less loaded of two random hosts with room (Mitzenmacher, IEEE TPDS 2001)."""
    able = _able(fleet, demand)
    if not able:
        return None
    two = (able[draw(vm, which) % len(able)] for which in ("first", "second"))
    return min(two, key=lambda n: utilisation(fleet.capacities[n], fleet.taken(n), ZERO))


def _able(fleet: SimulatedFleet, demand: Resources) -> list[int]:
    return [n for n in range(len(fleet.ids)) if fleet.fits(n, demand)]


def _if_fits(fleet: SimulatedFleet, n: int, demand: Resources) -> int | None:
    return n if fleet.fits(n, demand) else None


class Picker:
    """A rule that picks a host outright, applied to one fleet."""

    def __init__(self, fleet: SimulatedFleet, pick: Pick) -> None:
        self._fleet = fleet
        self._pick = pick
        self._arrivals = 0

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        """The host that the rule picks."""
        n = self._pick(self._fleet, self._arrivals, vm, demand)
        self._arrivals += 1
        return None if n is None else self._fleet.ids[n]


class Rule(NamedTuple):
    """A rule of the command line."""

    title: str
    start: Callable[[SimulatedFleet], Chooser]
    late: Callable[[SimulatedFleet, int], Chooser] | None = None  # with old reports; None: ignores reports


def _priced(title: str, price: Price) -> Rule:
    return Rule(title, partial(Cheapest, price=price), lambda fleet, every: LatePrices(fleet, price, every))


def _picked(title: str, pick: Pick) -> Rule:
    return Rule(title, lambda fleet: Picker(fleet, pick))


OTHERS = {
    "static": _picked("static list, crc32(name) mod N", static_list),
    "round-robin": _picked("round robin", round_robin),
    "random": _picked("random", at_random),
    "two": _picked("power of two choices", power_of_two),
    "least-loaded": _priced("least loaded before", least_loaded),
    "dominant": _priced("dominant share after", dominant_share),
    "kube": _priced("kube-scheduler's default", kube_default),
}


def own(weights: Weights) -> Rule:
    """Billet's policy under these weights: the only rule with constraints and preferences."""
    start = partial(Granting, weights=weights)
    return Rule(f"billet {weights.policy}", start, lambda fleet, every: LateBids(fleet, weights, every))


def late(rule: Rule, every: int) -> Rule:
    """The rule when each host reports once in `every` requests; 0 and 1: reports are always fresh."""
    make = rule.late
    return rule if make is None or every < 2 else rule._replace(start=lambda fleet: make(fleet, every))


POLICY_NAMES = tuple(POLICIES)
