"""The utilisation score. One function, used by the host for its bid and by the leader to price a bid anew."""

from __future__ import annotations

from typing import NamedTuple

from billet.core.model import Facts, Resources, Score
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
    for capacity, used, wanted in zip(allocatable, taken, demand, strict=True):
        if capacity > 0:
            part = (used + wanted) / capacity
            if part > share:
                share = part
        elif wanted > 0:
            return float("inf")
    return share


def expected_delay_s(facts: Facts) -> float:
    """Seconds until one more microVM would be CREATED: flintlockd boots one after another."""
    return (facts.pending + 1) * facts.boot_s


def price(allocatable: Resources, taken: Resources, demand: Resources, facts: Facts, weights: Weights) -> Score:
    """What a host asks for a microVM; lower is better, and the total is never below the true utilisation.

    total = utilisation + shape + weights.pressure x pressure + weights.delay x d / (d + delay_half_s),
    where `shape` is the policy's (core/policies.py) and d the expected delay in seconds. The last term saturates, so
    that a queue, however long, never outweighs a host that is much emptier.
    """
    policy = named(weights.policy)
    share = utilisation(allocatable, taken, demand)
    shape = policy.shape(allocatable, taken, demand, share, weights.shape)
    pressure = weights.pressure * facts.pressure
    delay_s = expected_delay_s(facts)
    delay = policy.delay_scale * weights.delay * delay_s / (delay_s + weights.delay_half_s) if delay_s > 0 else 0.0
    return Score(share + shape + pressure + delay, share, pressure, delay, shape)
