"""The utilisation score. One function, used by the host for its bid and by the leader to price a bid anew."""

from __future__ import annotations

from typing import NamedTuple

from billet.core.boots.forecast import within_s
from billet.core.model import NO_DISCOUNT, Discount, Facts, Resources, Score
from billet.core.policies import DEFAULT, named


class Weights(NamedTuple):
    """How much each part of the score counts. The leader's settings; it tells them to every host.

    `pressure`: what a host whose tasks wait all the time adds to its score (0 = pressure does not matter).
    `delay`: how much the seconds until CREATED count (0 = boots do not matter); small, so that short ones decide
    between hosts about equally full and do not fill a host only because it boots fast.
    `delay_half_s`: the seconds that add half of it. Under `spread` long waits add more (core/policies.py:long_waits).
    `policy`: a name in core/policies.py. `shape`: how much its shape of free room counts (1 = as measured,
    0 = the dominant share alone).
    `preference`: what a request's own soft wishes count, `cluster`: the spreading of a cluster's machines
    (core/constraints.py; 0 = they do not matter). Only the leader needs these two.
    """

    pressure: float = 0.20
    delay: float = 0.05
    delay_half_s: float = 5.0
    policy: str = DEFAULT
    shape: float = 1.0
    preference: float = 1.0
    cluster: float = 0.1

    def under(self, policy: str) -> Weights:
        """The weights of an auction that wishes this policy, "" for none."""
        return self._replace(policy=policy) if policy else self


DEFAULT_WEIGHTS = Weights()
LONG = 2.5  # times delay_half_s is a long wait


def utilisation(allocatable: Resources, taken: Resources, demand: Resources) -> float:
    """The dominant share after placement, 0 = idle, 1 = full; above 1 the demand does not fit.

    Dominant share: Ghodsi et al., "Dominant Resource Fairness", NSDI 2011. Looking at the state *after* the
    placement is what tells a large host from a small one that are both empty.
    """
    share = 0.0
    for n, capacity in enumerate(allocatable):  # by number: twice as fast as zip, and this is all that auctions do
        if capacity > 0:
            part = (taken[n] + demand[n]) / capacity
            if part > share:
                share = part
        elif demand[n] > 0:
            return float("inf")
    return share


class Tolerance(NamedTuple):
    """How long a microVM may wait for its turn to boot before that counts, under `spread`.

    `wait_s`: so long; None is LONG x delay_half_s. `pulls`: whether what it would be the first to pull is part of its
    wait.
    """

    wait_s: float | None = None
    pulls: bool = True


USUAL, PATIENT = Tolerance(), Tolerance(float("inf"))


def delays_s(
    facts: Facts, missing: int, weights: Weights, slower: float, tolerance: Tolerance
) -> tuple[float, float]:
    """Seconds until one more microVM would be CREATED, and by how many its turn would come too late, if they are all
    `slower` by this factor.

    They are the bounds within which nine of ten are: of two hosts that foretell the same, the surer one is preferred.
    Its own boot is no wait: a host that boots slowly is not left empty for that. A host that has seen no boot yet
    counts as one that boots at once, so that it gets its first. An image that surely is not there, on a host that has
    not pulled any yet, counts as delay_half_s.
    """
    if facts.pull_s is None and (missing or facts.pulls):
        facts = facts._replace(pull_s=weights.delay_half_s)
    created_s = slower * within_s(facts, missing)
    tolerated_s = LONG * weights.delay_half_s if tolerance.wait_s is None else tolerance.wait_s
    if created_s <= tolerated_s:  # as nearly always: nor is the wait longer, which is a part of that
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
    """What a host asks for a microVM; lower is better, and the total is never below the true utilisation.

    total = utilisation + shape + weights.pressure x pressure + delay + audit, where `shape` and `delay` are the
    policy's (core/policies.py), the latter of the seconds in `delays_s`. An audited host's seconds are multiplied,
    and its score raised, by its `discount`. A pressure that is not known is left out.
    """
    policy = named(weights.policy)
    share = utilisation(allocatable, taken, demand)
    shape = policy.shape(allocatable, taken, demand, share, weights.shape)
    pressure = weights.pressure * (facts.pressure or 0.0)
    created_s, late_s = delays_s(facts, missing, weights, discount.delay, tolerance)
    delay = policy.delay(created_s, late_s, weights.delay, weights.delay_half_s)
    correction = discount.utilisation
    return Score(share + shape + pressure + delay + correction, share, pressure, delay, shape, correction=correction)
