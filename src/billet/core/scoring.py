"""The utilisation score: one function, for hosts that bid and for the leader, which recomputes outdated bids."""

from __future__ import annotations

from typing import NamedTuple

from billet.core.boots.forecast import within_s
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.core.model import Facts, Resources, Score
from billet.core.policies import DEFAULT, Seconds, named


class Weights(NamedTuple):
    """The weight of each part of the score. Settings of the leader, which sends them to every host.

    `pressure`: added to the score of a host whose tasks wait all the time (0 = ignore pressure).
    `delay`: the price of a second that counts (`late_s`): added to the score for each (0 = ignore boots).
    `policy`: a name in core/policies.py. `shape`: weight of the policy's shape (1 = as measured, 0 = the dominant
    share alone).
    `preference`: weight of `near` (0 = ignore, `spread` too); `cluster`: of spreading a cluster's machines (0 =
    ignore, control planes too); `scarcity`: of labels that few hosts have, for microVMs that do not ask for them (0 =
    ignore; core/scarcity.py). Only the leader needs these three (core/constraints.py).
    """

    pressure: float = 0.20
    delay: float = 1.0
    policy: str = DEFAULT
    shape: float = 1.0
    preference: float = 1.0
    cluster: float = 0.1
    scarcity: float = 4.0

    def under(self, policy: str) -> Weights:
        """The same weights under another policy; unchanged for ""."""
        return self._replace(policy=policy) if policy else self


DEFAULT_WEIGHTS = Weights()
SLACK = 1.2  # a wait counts from this many times the shortest wait of all hosts
UNKNOWN_BOOT_S = 1.0  # of a host where nothing is known of boots, and of pulls
UNKNOWN_PULL_S = 5.0
NEVER_LATE_S = float("inf")  # as the shortest wait: no wait counts


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


def wait_s(facts: Facts, missing: int, slower: float = 1.0, own: int = 0) -> float:
    """Seconds until the boot of one more microVM begins; with `own` = 1, until it is CREATED.

    All predicted seconds are multiplied by `slower`. The result is a bound that nine of ten boots keep: of two hosts
    with the same forecast, the one with the smaller uncertainty is preferred.
    """
    if not facts.boot_s or (facts.pull_s is None and (missing or facts.pulls)):
        pull_s = UNKNOWN_PULL_S if facts.pull_s is None else facts.pull_s
        facts = facts.with_boots(
            facts.pending, facts.boot_s or UNKNOWN_BOOT_S, facts.ahead_s, pull_s, facts.uncertainty
        )
    return slower * within_s(facts, missing, own)


def late_s(facts: Facts, missing: int, policy: str, slower: float, soonest_s: float) -> float:
    """The seconds that have a price. `soonest_s`: the shortest wait of all hosts.

    Under `spread` they are those that another host would save: a wait counts from SLACK times the shortest one. A
    microVM's own boot is not a wait, so that hosts that boot slowly get their share.
    """
    match named(policy).seconds:
        case Seconds.NONE:
            return 0.0
        case Seconds.ALL:
            return wait_s(facts, missing, slower, own=1)
        case Seconds.AVOIDABLE:
            return max(0.0, wait_s(facts, missing, slower) - SLACK * soonest_s)


def price(
    allocatable: Resources,
    taken: Resources,
    demand: Resources,
    facts: Facts,
    weights: Weights,
    missing: int = 0,
    discount: Discount = NO_DISCOUNT,
    soonest_s: float = 0.0,
) -> Score:
    """The score of a microVM on a host; lower is better, and never below the true utilisation.

    total = utilisation + shape + weights.pressure x pressure + weights.delay x late_s + correction, where `shape` is
    the policy's (core/policies.py). The host's `discount` multiplies its seconds and is the `correction`. An unknown
    pressure counts as 0. A host that bids does not know the others, so that all of its wait counts there.
    """
    share = utilisation(allocatable, taken, demand)
    shape = named(weights.policy).shape(allocatable, taken, demand, share, weights.shape)
    pressure = weights.pressure * (facts.pressure or 0.0)
    delay = weights.delay and weights.delay * late_s(facts, missing, weights.policy, discount.delay, soonest_s)
    correction = discount.utilisation
    return Score(share + shape + pressure + delay + correction, share, pressure, delay, shape, correction=correction)
