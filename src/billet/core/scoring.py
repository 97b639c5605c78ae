"""The utilisation score. One function, used by the host for its bid and by the leader to price a bid anew."""

from __future__ import annotations

from typing import NamedTuple

from billet.core.foretell import until_created_s
from billet.core.model import NO_DISCOUNT, Discount, Facts, Resources, Score
from billet.core.policies import DEFAULT, named


class Weights(NamedTuple):
    """How much each part of the score counts. The leader's settings; it tells them to every host.

    `pressure`: what a host whose tasks wait all the time adds to its score (0 = pressure does not matter).
    `delay`: the most that a long wait for the boot can add (0 = boots do not matter); small, so that it decides
    between hosts about equally full and does not fill a host only because it boots fast.
    `delay_half_s`: the wait at which half of that is added.
    `policy`: a name in core/policies.py. `shape`: how much its shape of free room counts (1 = as measured,
    0 = the dominant share alone).
    `wish`: what a request's own soft wishes count, `cluster`: the spreading of a cluster's machines (core/wishes.py;
    0 = they do not matter). Only the leader needs these two.
    """

    pressure: float = 0.20
    delay: float = 0.05
    delay_half_s: float = 5.0
    policy: str = DEFAULT
    shape: float = 1.0
    wish: float = 1.0
    cluster: float = 0.1

    def under(self, policy: str) -> Weights:
        """The weights of an auction that wishes this policy, "" for none."""
        return self._replace(policy=policy) if policy else self


DEFAULT_WEIGHTS = Weights()


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


def expected_delay_s(facts: Facts, missing: int, unknown_pull_s: float) -> float:
    """Seconds until one more microVM would be CREATED, as far as they count for the price.

    A host that has seen no boot yet counts as one that boots at once, so that it gets its first. An image that surely
    is not there, on a host that has not pulled any yet, counts as `unknown_pull_s`.
    """
    pull_s = unknown_pull_s if facts.pull_s is None else facts.pull_s
    if not facts.boot_s:
        return missing * pull_s
    return until_created_s(facts._replace(pull_s=pull_s), missing) or 0.0


def price(
    allocatable: Resources,
    taken: Resources,
    demand: Resources,
    facts: Facts,
    weights: Weights,
    missing: int = 0,
    discount: Discount = NO_DISCOUNT,
) -> Score:
    """What a host asks for a microVM; lower is better, and the total is never below the true utilisation.

    total = utilisation + shape + weights.pressure x pressure + delay(d) + audit, where `shape` and `delay` are the
    policy's (core/policies.py) and d is the expected delay in seconds, for which a pull that nobody knows the time of
    counts as delay_half_s. An audited host's d is multiplied, and its score raised, by its `discount`. A pressure
    that is not known is left out.
    """
    policy = named(weights.policy)
    share = utilisation(allocatable, taken, demand)
    shape = policy.shape(allocatable, taken, demand, share, weights.shape)
    pressure = weights.pressure * (facts.pressure or 0.0)
    delay_s = discount.delay * expected_delay_s(facts, missing, weights.delay_half_s)
    delay = policy.delay(delay_s, weights.delay, weights.delay_half_s) if delay_s > 0 else 0.0
    audit = discount.utilisation
    return Score(share + shape + pressure + delay + audit, share, pressure, delay, shape, audit=audit)
