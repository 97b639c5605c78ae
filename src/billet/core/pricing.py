"""The utilisation score of a microVM on every host at once, from the standing bids of the fleet.

It ranks the hosts, so that the best are asked; the award itself prices their bids one by one (core/auction.py). Both
say the same of a host with its own means (tests/core/test_pricing.py holds them equal): one function for a row and
for columns would be ten times as slow on a row, which a host prices for each call.
"""

from __future__ import annotations

import numpy as np

from billet.core.columns import FACTS, Column, Columns, Mask
from billet.core.model import Resources
from billet.core.policies import FIT, FULL, GRAIN, SIZE, SKEW, Seconds, named
from billet.core.scoring import SLACK, Weights

(
    PRESSURE, VMS, PENDING, AHEAD, BOOT, BOOT_VARIANCE, BOOT_MEAN_VARIANCE, PULLS, PULL, PULL_VARIANCE,
    PULL_MEAN_VARIANCE, UNCERTAINTY,
) = range(len(FACTS))  # fmt: skip
TINY = 1e-12  # in place of a share of 0, which is divided by


def prices(
    fleet: Columns, demand: Resources, weights: Weights, missing: Column | None = None, compared: Mask | None = None
) -> Column:
    """The score on each row (core/scoring.py:price), with the microVMs awarded since its standing bid as waiting.

    `missing`: the number of images that each host would have to pull; None = none. `compared`: the rows whose waits
    are compared; None = no wait counts, except under `fast`. A row without room, or without a host, has a number
    without meaning.
    """
    shares = (fleet.taken + np.array(demand, float)[:, None]) * fleet.inverse
    share = np.maximum.reduce(shares)
    price: Column = share + weights.pressure * fleet.facts[PRESSURE]
    if weights.shape or weights.policy == "pack":
        price += _shape(fleet, demand, shares, share, weights)
    counted = named(weights.policy).seconds
    if weights.delay and (counted is Seconds.ALL or (counted is Seconds.AVOIDABLE and compared is not None)):
        seconds = _waits_s(fleet, missing, own=float(counted is Seconds.ALL))
        if counted is Seconds.AVOIDABLE:
            soonest_s = seconds[compared].min(initial=np.inf)
            seconds = np.maximum(0.0, seconds - SLACK * soonest_s)
        price += weights.delay * seconds
    return price


def _shape(fleet: Columns, demand: Resources, shares: Column, share: Column, weights: Weights) -> Column:
    """core/policies.py: spread and pack."""
    square = share * share
    if weights.policy == "pack":
        skew = np.abs(shares[0] - shares[1])
        packed: Column = 2.0 * np.maximum(0.0, 1.0 - share) + (weights.shape * SKEW) * square * square * skew
        return packed
    fixed, size = fleet.of_demand(demand, _on_empty_hosts)
    cube = square * share
    whole: Column = fixed + size * cube + FULL * cube * cube
    return weights.shape * whole


def _on_empty_hosts(inverse: Column, demand: Resources) -> tuple[Column, Column]:
    """The parts of `spread` that depend only on the hosts and the demand: GRAIN and FIT; and what SIZE multiplies."""
    alone = np.minimum(1.0, np.array(demand, float)[:, None] * inverse)
    part = np.maximum(np.maximum.reduce(alone), TINY)
    most, least = np.maximum(alone[0], alone[1]), np.minimum(alone[0], alone[1])
    fixed: Column = GRAIN * (1.0 - np.sqrt(part)) + FIT * (1.0 - least / np.maximum(most, TINY))
    return fixed, -SIZE * np.log2(part)


def _waits_s(fleet: Columns, missing: Column | None, own: float) -> Column:
    """core/scoring.py: wait_s."""
    facts = fleet.facts
    boots = facts[PENDING] + np.maximum(0.0, fleet.taken[3] - facts[VMS]) + own
    seconds: Column = facts[AHEAD] + (boots - facts[PENDING]) * facts[BOOT]
    pulls = facts[PULLS]
    if missing is not None:
        seconds, pulls = seconds + missing * facts[PULL], pulls + missing
    variance = boots * (facts[BOOT_VARIANCE] + boots * facts[BOOT_MEAN_VARIANCE])
    variance = variance + pulls * (facts[PULL_VARIANCE] + pulls * facts[PULL_MEAN_VARIANCE])
    found: Column = seconds + facts[UNCERTAINTY] * np.sqrt(variance)
    return found
