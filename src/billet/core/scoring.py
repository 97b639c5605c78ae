"""The utilisation score: one function, for hosts that bid and for the leader, which recomputes outdated bids."""

from __future__ import annotations

from typing import NamedTuple

from billet.core.boots.forecast import within_s
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.core.model import Facts, Resources, Score
from billet.core.policies import DEFAULT, named


class Weights(NamedTuple):
    """The weight of each part of the score. Settings of the leader, which sends them to every host.

    `pressure`: added to the score of a host whose tasks wait all the time (0 = ignore pressure).
    `delay`: weight of the seconds until CREATED (0 = ignore boots). It is small, so that short waits decide between
    hosts that are about equally full, and a host does not fill up only because it boots fast.
    `delay_half_s`: the seconds that add half of `delay`. Under `spread` long waits add more
    (core/policies.py:long_waits).
    `policy`: a name in core/policies.py. `shape`: weight of the policy's shape (1 = as measured, 0 = the dominant
    share alone).
    `preference`: weight of `near` (0 = ignore, `spread` too); `cluster`: of spreading a cluster's machines (0 =
    ignore, control planes too); `scarcity`: of labels that few hosts have, for microVMs that do not ask for them (0 =
    ignore; core/scarcity.py). Only the leader needs these three (core/constraints.py).
    """

    pressure: float = 0.20
    delay: float = 0.05
    delay_half_s: float = 5.0
    policy: str = DEFAULT
    shape: float = 1.0
    preference: float = 1.0
    cluster: float = 0.1
    scarcity: float = 4.0

    def under(self, policy: str) -> Weights:
        """The same weights under another policy; unchanged for ""."""
        return self._replace(policy=policy) if policy else self


DEFAULT_WEIGHTS = Weights()
LONG = 2.5  # a wait longer than this many delay_half_s is long


def utilisation(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """The dominant share after placement, 0 = idle, 1 = full; above 1 the demand does not fit.

    Dominant share: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011. The share *after* the placement
    distinguishes a large empty host from a small empty one.
    """
    share = 0.0
    for n, capacity in enumerate(allocatable):  # twice as fast as zip, and this is the inner loop of every auction
        if capacity > 0:
            part = (taken[n] + demand[n]) / capacity
            if part > share:
                share = part
        elif demand[n] > 0:
            return float("inf")
    return share


class Tolerance(NamedTuple):
    """How long a microVM may wait for its boot to begin before the wait raises the score, under `spread`.

    `wait_s`: that time in seconds; None means LONG x delay_half_s. `pulls`: whether the wait includes pulls of images
    that no other waiting microVM needs.
    """

    wait_s: float | None = None
    pulls: bool = True


USUAL, PATIENT = Tolerance(), Tolerance(float("inf"))


def delays_s(
    facts: Facts, missing: int, weights: Weights, slower: float, tolerance: Tolerance
) -> tuple[float, float]:
    """Seconds until one more microVM would be CREATED, and seconds by which its boot would begin too late.

    All predicted seconds are multiplied by `slower`. Both results are bounds that nine of ten boots keep: of two
    hosts with the same forecast, the one with the smaller uncertainty is preferred. The microVM's own boot is not
    part of its wait, so that a slow host is not left empty. A host that has seen no boot yet counts as booting at
    once, so that it gets its first. A missing image on a host that has never pulled one counts as delay_half_s.
    """
    if facts.pull_s is None and (missing or facts.pulls):
        facts = facts._replace(pull_s=weights.delay_half_s)
    created_s = slower * within_s(facts, missing)
    tolerated_s = LONG * weights.delay_half_s if tolerance.wait_s is None else tolerance.wait_s
    if created_s <= tolerated_s:  # the usual case: the wait is a part of it, and not longer either
        return created_s, 0.0
    wait_s = slower * within_s(facts, missing if tolerance.pulls else 0, own=0)
    return created_s, max(0.0, wait_s - tolerated_s)


def price(
    allocatable: Resources,
    taken: Resources,
    demand: Resources,
    facts: Facts,
    weights: Weights,
    missing: int = 0,
    discount: Discount = NO_DISCOUNT,
    tolerance: Tolerance = USUAL,
) -> Score:
    """The score of a microVM on a host; lower is better, and never below the true utilisation.

    total = utilisation + shape + weights.pressure x pressure + delay + correction, where `shape` and `delay` are the
    policy's functions (core/policies.py), the latter of the seconds in `delays_s`. The host's `discount` multiplies
    these seconds and is the `correction`. An unknown pressure counts as 0.
    """
    policy = named(weights.policy)
    share = utilisation(allocatable, taken, demand)
    shape = policy.shape(allocatable, taken, demand, share, weights.shape)
    pressure = weights.pressure * (facts.pressure or 0.0)
    created_s, late_s = delays_s(facts, missing, weights, discount.delay, tolerance)
    delay = policy.delay(created_s, late_s, weights.delay, weights.delay_half_s)
    correction = discount.utilisation
    return Score(share + shape + pressure + delay + correction, share, pressure, delay, shape, correction=correction)
