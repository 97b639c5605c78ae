"""Policies: terms added to a host's utilisation after a placement, so that the lowest sum wins.

The shape functions have the same arguments: `allocatable` is what the host may promise, `taken` what it has promised,
`demand` what the microVM takes, `share` the utilisation after the placement, `weight` the weight of the shape
(`--shape-weight`, 1 = as measured). They return 0 or more, so that no score is below the true utilisation.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from math import log2, sqrt
from typing import NamedTuple

from billet.core.model import Resources

# Chosen on fixed workloads; docs/scheduling.md shows what other values do.
GRAIN = 0.4
SIZE = 0.25
FIT = 0.26
FULL = 0.12
SKEW = 0.35

Shape = Callable[[Resources, Resources, Resources, float, float], float]


def spread(allocatable: Resources, taken: Resources, demand: Resources, share: float, weight: float) -> float:
    """Fill hosts evenly, and keep their free room in a shape that other microVMs can use. The default.

    shape = weight x (GRAIN x (1 - sqrt(part)) + SIZE x share^3 x log2(1 / part) + FIT x (1 - least / most)
                      + FULL x share^6), shares after placement;
    `part` is the dominant share of the empty host that this microVM takes; `most` and `least` are the larger and the
    smaller of its vCPU and memory shares.

    Trade: evenness, and room for large microVMs, over the number of small ones that a nearly full fleet still takes.

    GRAIN corrects for host size. Comparing shares after the placement favours large hosts, whose shares move little,
    as D'Hondt's divisors favour large parties; Sainte-Laguë's, which favour no party, would add (1 - part) / 2
    (Balinski, Young: Fair Representation, 1982). The root reduces the effect where parts are small.
    SIZE grows with the host, by the same amount for each doubling, and with the load: large hosts, the only ones that
    can take large microVMs, are kept a little emptier than small ones once the fleet is more than half full.
    FIT is 0 if the microVM has the host's own mix of vCPU and memory, and grows with the difference: microVMs with
    much memory go to hosts with much memory per vCPU, so that neither is left over.
    FULL makes the load count more than the size on nearly full hosts, so that they fill up evenly.
    """
    if not allocatable[0] or not allocatable[1]:
        return 0.0
    grain, size, misfit = _on_empty_host(allocatable, demand)
    return weight * (GRAIN * grain + SIZE * share**3 * size + FIT * misfit + FULL * share**6)


def pack(allocatable: Resources, taken: Resources, demand: Resources, share: float, weight: float) -> float:
    """Use the fullest host that fits, so that few hosts are in use and the others can be switched off or drained.

    shape = 2 x (1 - share) + weight x SKEW x share^4 x |vCPU share - memory share|: best fit by dominant
    share (Panigrahy et al., "Heuristics for Vector Bin Packing", Microsoft Research 2011, measures such rules).
    With the utilisation itself the sum is 2 - share + ..., which is lowest on the fullest host. SKEW prevents
    stranding: free vCPU is useless without free memory, and the reverse. kube-scheduler's BalancedAllocation
    penalises the same difference.

    Trade: fewer hosts over everything else. A lost host takes more microVMs with it, boots wait in one queue, and
    neighbours compete for the same machine.
    """
    return 2.0 * max(0.0, 1.0 - share) + weight * SKEW * share**4 * _skew(allocatable, taken, demand)


@lru_cache(maxsize=16_384)  # the same hosts and sizes recur, and the result depends on nothing else
def _on_empty_host(allocatable: Resources, demand: Resources) -> tuple[float, float, float]:
    """1 - sqrt(part), log2(1 / part) and 1 - least / most of `spread`, for a microVM alone on a host."""
    shares = [min(1.0, wanted / room) if room else 0.0 for room, wanted in zip(allocatable, demand, strict=True)]
    part, most = max(shares), max(shares[:2])
    return 1.0 - sqrt(part), log2(1 / part) if part else 0.0, 1 - min(shares[:2]) / most if most else 0.0


def _skew(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """|vCPU share - memory share| after the placement.

    Disk and slots are left out: most microVMs take next to nothing of them, so free disk is never stranded.
    """
    if not allocatable[0] or not allocatable[1]:
        return 0.0
    return abs((taken[0] + demand[0]) / allocatable[0] - (taken[1] + demand[1]) / allocatable[1])


class Seconds(Enum):
    """Which seconds have a price (core/scoring.py:late_s)."""

    NONE = "none"
    AVOIDABLE = "avoidable"  # by which the boot begins later than on the host that would begin it first
    ALL = "all"  # until CREATED. So the earliest boot wins: list scheduling (Graham, "Bounds for Certain
    # Multiprocessing Anomalies", Bell System Technical Journal, 1966), at most 2 - 1/hosts times longer than needed


class Policy(NamedTuple):
    """A policy: what it adds for the shape, and which seconds it counts."""

    shape: Shape
    seconds: Seconds


POLICIES = {
    "spread": Policy(spread, Seconds.AVOIDABLE),
    "pack": Policy(pack, Seconds.NONE),
    # Boot latency first. Trade: hosts that boot fast, or have the images, fill up first.
    "fast": Policy(spread, Seconds.ALL),
}
DEFAULT = "spread"


def named(name: str) -> Policy:
    """A policy by its name. An unknown name (from a newer leader) counts as `spread`."""
    return POLICIES.get(name, POLICIES[DEFAULT])
