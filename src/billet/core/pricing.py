"""The utilisation score of a microVM on every host at once, from the standing bids of the fleet.

It ranks the hosts, so that the best are asked; the award itself prices their bids one by one (core/auction.py). Both
say the same of a host with its own means (tests/core/test_pricing.py holds them equal): one function for a row and
for columns would be ten times as slow on a row, which a host prices for each call.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from billet.core.columns import FACTS, Column, Columns
from billet.core.model import Resources
from billet.core.policies import BOOT_FIRST, FIT, FULL, GRAIN, PACK_SKEW, SIZE, SKEW
from billet.core.scoring import LONG, Weights

PRESSURE, PENDING, BOOT, AHEAD, PULL, UNCERTAINTY, PULLS, BOOTS_SEEN, PULLS_SEEN, VMS = range(len(FACTS))


def prices(fleet: Columns, demand: Resources, weights: Weights, missing: Column | int = 0) -> Column:
    """The score on each row (core/scoring.py:price), with the microVMs awarded since a host's last word as waiting.

    `missing`: the number of images that each host would have to pull. A row without room, or without a host, has a
    number without meaning.
    """
    shares = (fleet.taken + np.array(demand, float)[:, None]) * fleet.inverse
    share = shares.max(axis=0, initial=0.0)
    shape = _pack(shares, share, weights.shape) if weights.policy == "pack" else _spread(fleet, demand, shares, share)
    if weights.policy != "pack":
        shape *= weights.shape
    delay = _delay(_waits(fleet, weights, missing), weights)
    whole: Column = share + shape + weights.pressure * fleet.facts[PRESSURE] + delay
    return whole


def _spread(fleet: Columns, demand: Resources, shares: Column, share: Column) -> Column:
    """core/policies.py:spread."""
    alone = np.minimum(1.0, np.array(demand, float)[:, None] * fleet.inverse)
    part = np.maximum(alone.max(axis=0, initial=0.0), 1e-12)
    most, least = np.maximum(alone[0], alone[1]), np.minimum(alone[0], alone[1])
    misfit = 1.0 - least / np.maximum(most, 1e-12)
    cube = share * share * share
    sixth = cube * cube
    last = SKEW * sixth * cube * share * np.abs(shares[0] - shares[1]) + FULL * sixth
    whole: Column = GRAIN * (1.0 - np.sqrt(part)) - SIZE * cube * np.log2(part) + FIT * misfit + last
    return whole


def _pack(shares: Column, share: Column, weight: float) -> Column:
    """core/policies.py:pack."""
    fourth = (share * share) ** 2
    whole: Column = 2.0 * np.maximum(0.0, 1.0 - share) + weight * PACK_SKEW * fourth * np.abs(shares[0] - shares[1])
    return whole


class _Waits(NamedTuple):
    """Seconds until the microVM would be CREATED, and by which its boot would begin too late."""

    created_s: Column
    late_s: Column


def _waits(fleet: Columns, weights: Weights, missing: Column | int) -> _Waits:
    """core/scoring.py:delays_s."""
    facts = fleet.facts
    since = np.maximum(0.0, fleet.taken[3] - facts[VMS])
    boot_s, pulls = facts[BOOT], facts[PULLS] + missing
    pull_s = np.where(np.isnan(facts[PULL]), np.where(pulls > 0, weights.delay_half_s, 0.0), facts[PULL])
    pending = facts[PENDING] + since
    ahead_s = np.where(
        np.isnan(facts[AHEAD]), facts[PENDING] * boot_s + facts[PULLS] * pull_s, facts[AHEAD]
    ) + since * boot_s + missing * pull_s  # fmt: skip
    pulling_s = pulls * pull_s
    of_pulls = pulling_s * pull_s + pulling_s * pulling_s / np.maximum(1.0, facts[PULLS_SEEN])

    def within_s(boots: Column) -> Column:
        booting_s = boots * boot_s
        of_boots = booting_s * boot_s + booting_s * booting_s / np.maximum(1.0, facts[BOOTS_SEEN])
        bound: Column = facts[UNCERTAINTY] * np.sqrt(of_boots + of_pulls)
        return bound

    created_s = ahead_s + boot_s + within_s(pending + 1.0)
    tolerated_s = LONG * weights.delay_half_s
    if weights.policy == "pack" or created_s.max(initial=0.0) <= tolerated_s:
        return _Waits(created_s, np.zeros_like(created_s))
    late_s = np.where(created_s > tolerated_s, np.maximum(0.0, ahead_s + within_s(pending) - tolerated_s), 0.0)
    return _Waits(created_s, late_s)


def _delay(waits: _Waits, weights: Weights) -> Column:
    """core/policies.py: bounded, long_waits and boots_first."""
    of_second = BOOT_FIRST * weights.delay / weights.delay_half_s
    if weights.policy == "fast":
        return of_second * waits.created_s
    bounded: Column = weights.delay * waits.created_s / (waits.created_s + weights.delay_half_s)
    return bounded if weights.policy == "pack" else bounded + of_second * waits.late_s
