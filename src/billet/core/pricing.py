"""The utilisation score of a microVM on every host at once, from the standing bids of the fleet.

It ranks the hosts, so that the best are asked; the award itself prices their bids one by one (core/auction.py). Both
say the same of a host with its own means (tests/core/test_pricing.py holds them equal): one function for a row and
for columns would be ten times as slow on a row, which a host prices for each call.
"""

from __future__ import annotations

import numpy as np

from billet.core.columns import FACTS, Column, Columns
from billet.core.model import Resources
from billet.core.policies import BOOT_FIRST, FIT, FULL, GRAIN, PACK_SKEW, SIZE, SKEW
from billet.core.scoring import LONG, Weights

(
    PRESSURE, VMS, BOOTS, CREATED, BOOT, BOOT_VARIANCE, BOOT_MEAN_VARIANCE, PULLS, PULL, PULL_VARIANCE,
    PULL_MEAN_VARIANCE, UNCERTAINTY,
) = range(len(FACTS))  # fmt: skip
TINY = 1e-12  # in place of a share of 0, which is divided by


def prices(
    fleet: Columns, demand: Resources, weights: Weights, missing: Column | None = None, patient: bool = False
) -> Column:
    """The score on each row (core/scoring.py:price), with the microVMs awarded since its standing bid as waiting.

    `missing`: the number of images that each host would have to pull; None = none. `patient`: see
    core/auction.py:tolerance. A row without room, or without a host, has a number without meaning.
    """
    shares = (fleet.taken + np.array(demand, float)[:, None]) * fleet.inverse
    share = np.maximum.reduce(shares)
    price: Column = share + weights.pressure * fleet.facts[PRESSURE]
    if weights.shape or weights.policy == "pack":
        price += _shape(fleet, demand, shares, share, weights)
    if weights.delay:
        price += _delay(fleet, weights, missing, patient)
    return price


def _shape(fleet: Columns, demand: Resources, shares: Column, share: Column, weights: Weights) -> Column:
    """core/policies.py: spread and pack."""
    skew = np.abs(shares[0] - shares[1])
    square = share * share
    if weights.policy == "pack":
        packed: Column = 2.0 * np.maximum(0.0, 1.0 - share) + (weights.shape * PACK_SKEW) * square * square * skew
        return packed
    fixed, size = fleet.of_demand(demand, _on_empty_hosts)
    cube = square * share
    sixth = cube * cube
    whole: Column = fixed + size * cube + sixth * (FULL + SKEW * square * square * skew)
    return weights.shape * whole


def _on_empty_hosts(inverse: Column, demand: Resources) -> tuple[Column, Column]:
    """The parts of `spread` that depend only on the hosts and the demand: GRAIN and FIT; and what SIZE multiplies."""
    alone = np.minimum(1.0, np.array(demand, float)[:, None] * inverse)
    part = np.maximum(np.maximum.reduce(alone), TINY)
    most, least = np.maximum(alone[0], alone[1]), np.minimum(alone[0], alone[1])
    fixed: Column = GRAIN * (1.0 - np.sqrt(part)) + FIT * (1.0 - least / np.maximum(most, TINY))
    return fixed, -SIZE * np.log2(part)


def _delay(fleet: Columns, weights: Weights, missing: Column | None, patient: bool) -> Column:
    """core/scoring.py:delays_s, and core/policies.py: bounded, long_waits and boots_first."""
    facts, half_s = fleet.facts, weights.delay_half_s
    since = np.maximum(0.0, fleet.taken[3] - facts[VMS])
    mean_s, boots, pulls = facts[CREATED] + since * facts[BOOT], facts[BOOTS] + since, facts[PULLS]
    if missing is not None:
        mean_s, pulls = mean_s + missing * facts[PULL], pulls + missing
    of_pulls = pulls * (facts[PULL_VARIANCE] + pulls * facts[PULL_MEAN_VARIANCE])
    created_s: Column = mean_s + _margin_s(facts, boots, of_pulls)
    of_second = BOOT_FIRST * weights.delay / half_s
    if weights.policy == "fast":
        return of_second * created_s
    bounded = weights.delay * created_s / (created_s + half_s)
    tolerated_s = LONG * half_s
    if patient or weights.policy == "pack" or created_s.max(initial=0.0) <= tolerated_s:
        return bounded
    begins_s = mean_s - facts[BOOT] + _margin_s(facts, boots - 1.0, of_pulls)
    late_s = np.where(created_s > tolerated_s, np.maximum(0.0, begins_s - tolerated_s), 0.0)
    whole: Column = bounded + of_second * late_s
    return whole


def _margin_s(facts: Column, boots: Column, of_pulls: Column) -> Column:
    """core/boots/forecast.py:within_s without the forecast."""
    variance = boots * (facts[BOOT_VARIANCE] + boots * facts[BOOT_MEAN_VARIANCE]) + of_pulls
    margin_s: Column = facts[UNCERTAINTY] * np.sqrt(variance)
    return margin_s
