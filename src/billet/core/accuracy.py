"""Bids held against what came: how far a host's bids err, and what is made of that. docs/adr/0015 says why."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import median
from typing import NamedTuple

from billet.core.boots.forecast import BEYOND
from billet.core.model import NO_DISCOUNT, Discount, Forecast

WINDOW = 30  # of a host's last microVMs count for its discount: it has recovered when so many are right again
NEEDED = 10  # before there is any
LATE = 1.25  # up to so many times the foretold seconds a median is right: boots vary by themselves
UNDERSTATED = 0.01  # up to so much a mean of understated utilisation is right


class Outcome(NamedTuple):
    """One microVM: what the bid that won foretold, and what its host showed.

    `took_s` is from the award to CREATED. `reported` is how full the host said it was, in its first report after
    that; `expected` is the utilisation that was foretold, with all that the ledger has moved on that host since.
    """

    host: str
    uid: str
    at_s: float  # wall clock, of the award
    forecast: Forecast
    took_s: float
    reported: float
    expected: float

    @property
    def ratio(self) -> float | None:
        """How many times longer than foretold it took; None where nothing was foretold."""
        return self.took_s / self.forecast.created_s if self.forecast.created_s else None

    @property
    def understated(self) -> float:
        """By how much its host was fuller than its bid had said; below 0 it was emptier."""
        return self.reported - self.expected


class Errors(NamedTuple):
    """How far the bids of one host err, over the outcomes that were looked at. None where there are none.

    `ratio` is the median of taken over foretold seconds, `error` that of its distance from 1, `within` the share that
    was CREATED within the bound, which is to be 0.9. `understated` is a mean.
    """

    outcomes: int
    boots: int  # of which the seconds were foretold
    ratio: float | None
    error: float | None
    within: float | None
    understated: float
    worst: float  # the largest distance between expected and reported utilisation

    @property
    def chance(self) -> float:
        """The standard deviation that `within` would have by chance alone, were each microVM by itself. Those of one
        queue are not, and so theirs is larger."""
        return sqrt(BEYOND * (1.0 - BEYOND) / self.boots) if self.boots else 0.0


def errors(outcomes: Sequence[Outcome]) -> Errors | None:
    """Sum up; None without outcomes."""
    if not outcomes:
        return None
    ratios = [outcome.ratio for outcome in outcomes if outcome.ratio is not None]
    bounded = [(o.took_s, o.forecast.bound_s) for o in outcomes if o.forecast.bound_s]
    gaps = [outcome.understated for outcome in outcomes]
    return Errors(
        outcomes=len(outcomes),
        boots=len(ratios),
        ratio=median(ratios) if ratios else None,
        error=median(abs(ratio - 1.0) for ratio in ratios) if ratios else None,
        within=sum(took <= bound for took, bound in bounded) / len(bounded) if bounded else None,
        understated=sum(gaps) / len(gaps),
        worst=max(abs(gap) for gap in gaps),
    )


def discount(outcomes: Sequence[Outcome]) -> Discount:
    """What a host's bids are corrected by, from its last WINDOW outcomes (oldest first).

    The seconds that it foretells are multiplied by the median of taken over foretold, when that is above LATE. Its
    score is raised by the mean of what it understated, when that is above UNDERSTATED. A host that is too careful
    harms only itself, and is left alone. With fewer than NEEDED outcomes nothing is known of it.
    """
    recent = outcomes[-WINDOW:]
    if len(recent) < NEEDED:
        return NO_DISCOUNT
    ratios = [ratio for outcome in recent if (ratio := outcome.ratio) is not None]
    late = median(ratios) if len(ratios) >= NEEDED else 1.0
    low = sum(outcome.understated for outcome in recent) / len(recent)
    return Discount(late if late > LATE else 1.0, low if low > UNDERSTATED else 0.0)
