"""What a policy adds to the utilisation of a host after a placement, so that the lowest sum wins.

Each policy is a small function of the same arguments:
`allocatable` what the host may promise, `taken` what it has promised, `demand` what the microVM takes,
`share` the utilisation after the placement, `weight` how much the shape counts (`--shape-weight`, 1 = as measured).
What it gives is 0 or more, and so no host ever asks for less than its true utilisation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import log2, sqrt
from typing import NamedTuple

from billet.core.model import Resources

# Chosen on fixed workloads; docs/scheduling.md shows what other values do.
GRAIN = 0.4
SIZE = 0.25
FIT = 0.26
SKEW = 0.25
FULL = 0.12
PACK_SKEW = 0.35  # of `pack`, whose hosts are full early
BOOT_FIRST = 40.0  # a second that counts adds so many times weight / half_s

Shape = Callable[[Resources, Resources, Resources, float, float], float]


def spread(allocatable: Resources, taken: Resources, demand: Resources, share: float, weight: float) -> float:
    """Hosts evenly full, with their free room in a shape that others can use. The default.

    shape = weight x (GRAIN x (1 - sqrt(part)) + SIZE x share^3 x log2(1 / part) + FIT x (1 - least / most)
                      + SKEW x share^10 x |vCPU share - memory share| + FULL x share^6), shares after placement;
    `part` is the dominant share that this microVM alone would take of the empty host, `most` and `least` the larger
    and the smaller of its vCPU and memory shares of it.

    Trade: evenness and room for large microVMs over the number of small ones that a nearly full fleet still takes.

    GRAIN is what a share can move by. To compare shares after placement favours large hosts, whose shares move
    little, as D'Hondt's divisors favour large parties; Sainte-Laguë's, which favour nobody, would add (1 - part) / 2
    (Balinski, Young: Fair Representation, 1982). The root leaves more to the others where parts are small.
    SIZE grows with the host, by as much for each doubling, and with the load: large hosts, the only ones that can
    take large microVMs, are kept a little emptier than small ones once the fleet is more than half full.
    FIT is 0 where the microVM has the host's own mix of vCPU and memory, and grows the more it wants only one of
    them: what asks for much memory goes to hosts that have much for each vCPU, so that neither is left over.
    SKEW is the stranding: free vCPU without memory beside it is of no use, nor memory without vCPU. kube-scheduler's
    BalancedAllocation punishes the same difference; here it counts next to nothing before a host is nearly full.
    FULL lets the load count more than the size on hosts that are nearly full, so that they fill up evenly.
    """
    if not allocatable[0] or not allocatable[1]:
        return 0.0
    grain, size, misfit = _empty(allocatable, demand)
    vcpu = (taken[0] + demand[0]) / allocatable[0]
    memory = (taken[1] + demand[1]) / allocatable[1]
    last = SKEW * share**10 * abs(vcpu - memory) + FULL * share**6
    return weight * (GRAIN * grain + SIZE * share**3 * size + FIT * misfit + last)


def pack(allocatable: Resources, taken: Resources, demand: Resources, share: float, weight: float) -> float:
    """The fullest host that fits, so that few hosts are in use and the others can be switched off or drained.

    shape = 2 x (1 - share) + weight x PACK_SKEW x share^4 x |vCPU share - memory share|: best fit by dominant
    share (Panigrahy et al., "Heuristics for Vector Bin Packing", Microsoft Research 2011, measures such rules).
    With the utilisation itself the sum is 2 - share + ..., which is lowest on the fullest host.

    Trade: hosts saved over everything else: one host lost takes more with it, boots wait in one queue, neighbours
    feel each other.
    """
    return 2.0 * max(0.0, 1.0 - share) + weight * PACK_SKEW * share**4 * _skew(allocatable, taken, demand)


@lru_cache(maxsize=16_384)  # the same hosts and sizes come again and again, and this never changes for them
def _empty(allocatable: Resources, demand: Resources) -> tuple[float, float, float]:
    """How little of the empty host this microVM takes, and in doublings; how far apart their mixes are, 0 to 1."""
    shares = [min(1.0, wanted / room) if room else 0.0 for room, wanted in zip(allocatable, demand, strict=True)]
    part, most = max(shares), max(shares[:2])
    return 1.0 - sqrt(part), log2(1 / part) if part else 0.0, 1 - min(shares[:2]) / most if most else 0.0


def _skew(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """How far the vCPU and the memory share are apart after the placement.

    Disk and slots are left out: most microVMs take next to nothing of them, so that free disk is not stranded.
    """
    if not allocatable[0] or not allocatable[1]:
        return 0.0
    return abs((taken[0] + demand[0]) / allocatable[0] - (taken[1] + demand[1]) / allocatable[1])


Delay = Callable[[float, float, float, float], float]  # seconds until CREATED, too late by, weight, half_s -> added


def bounded(created_s: float, late_s: float, weight: float, half_s: float) -> float:
    """weight x d / (d + half_s), d = created_s: however long a queue, never more than the weight. Of `pack`."""
    return weight * created_s / (created_s + half_s) if created_s > 0 else 0.0


def long_waits(created_s: float, late_s: float, weight: float, half_s: float) -> float:
    """weight x d / (d + half_s) + BOOT_FIRST x weight x late_s / half_s, d = created_s. Of `spread`.

    Boots decide between hosts about equally full and no more, since a placement lasts and a boot does not; of a wait
    that is longer than what is tolerated (core/scoring.py:Tolerance) each second counts as under `fast`.
    """
    return bounded(created_s, late_s, weight, half_s) + boots_first(late_s, late_s, weight, half_s)


def boots_first(created_s: float, late_s: float, weight: float, half_s: float) -> float:
    """BOOT_FIRST x weight x created_s / half_s: each second counts alike, so that who is done first wins. Of `fast`.

    The earliest finish, one microVM after another, is list scheduling (Graham, "Bounds for Certain Multiprocessing
    Anomalies", Bell System Technical Journal, 1966): a burst ends at most 2 - 1/hosts times later than it could.
    """
    return BOOT_FIRST * weight * created_s / half_s


class Policy(NamedTuple):
    """A policy as a leader sets it: what it adds for the shape and for the delay, which hosts are asked first."""

    shape: Shape
    delay: Delay
    fullest_first: bool = False


POLICIES = {
    "spread": Policy(spread, long_waits),
    "pack": Policy(pack, bounded, fullest_first=True),
    # Boot latency first: `spread`, with a delay that outweighs an empty host. Trade: a host that boots fast, or has
    # the images, fills up first. Among hosts that would boot at the same time it is `spread`.
    "fast": Policy(spread, boots_first),
}
DEFAULT = "spread"


def named(name: str) -> Policy:
    """A policy by its name. One that only a newer leader knows is `spread`, and the leader's ledger sees to room."""
    return POLICIES.get(name, POLICIES[DEFAULT])
