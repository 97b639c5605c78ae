"""Accuracy of bids: forecasts compared with actual results, and the correction that follows (docs/adr/0015)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import median
from typing import NamedTuple

from billet.core.boots.forecast import BEYOND
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.core.model import Forecast

WINDOW = 30  # a host's discount follows from its last 30 microVMs; after 30 accurate ones it is gone
NEEDED = 10  # outcomes before there is a discount
LATE = 1.25  # median of actual / predicted seconds that is still accurate: boots vary by themselves
UNDERSTATED = 0.01  # mean of understated utilisation that is still accurate
# Limits at which a correction ends. They are stricter: a host near a limit must not change sides with each boot.
LATE_END = 1.15
UNDERSTATED_END = 0.005


class Outcome(NamedTuple):
    """One microVM: the forecast of the winning bid, and the actual result.

    `took_s` is the time from the award to CREATED. `reported` is the host's utilisation in its first report after
    that; `expected` the predicted utilisation, updated by the ledger's changes on that host since the award.
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
        """Actual / predicted seconds; None without a prediction."""
        return self.took_s / self.forecast.created_s if self.forecast.created_s else None

    @property
    def understated(self) -> float:
        """Reported minus expected utilisation; negative when the host was emptier than predicted."""
        return self.reported - self.expected


class Errors(NamedTuple):
    """The errors of one host's bids, over some outcomes. None where no outcome had a prediction.

    `ratio` is the median of actual / predicted seconds, `error` the median distance of these ratios from 1, `within`
    the share that was CREATED within the bound (target: 0.9), `understated` a mean.
    """

    outcomes: int
    boots: int  # outcomes with predicted seconds
    ratio: float | None
    error: float | None
    within: float | None
    understated: float
    worst: float  # the largest distance between expected and reported utilisation

    @property
    def chance(self) -> float:
        """The standard deviation of `within` by chance, if boots were independent. In one queue they are not, and the
        deviation is larger."""
        return sqrt(BEYOND * (1.0 - BEYOND) / self.boots) if self.boots else 0.0


def errors(outcomes: Sequence[Outcome]) -> Errors | None:
    """The errors over these outcomes; None if there are none."""
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


def discount(outcomes: Sequence[Outcome], before: Discount = NO_DISCOUNT) -> Discount:
    """The correction of a host's bids, from its last WINDOW outcomes (oldest first). `before`: the one in force.

    Its predicted seconds are multiplied by the median of actual / predicted, if that is above LATE. Its score is
    raised by the mean understatement, if that is above UNDERSTATED. A correction in force ends at LATE_END and
    UNDERSTATED_END. Overstating harms only the host itself and is not corrected. Fewer than NEEDED outcomes: no
    correction.
    """
    recent = outcomes[-WINDOW:]
    if len(recent) < NEEDED:
        return NO_DISCOUNT
    ratios = [ratio for outcome in recent if (ratio := outcome.ratio) is not None]
    late = median(ratios) if len(ratios) >= NEEDED else 1.0
    low = sum(outcome.understated for outcome in recent) / len(recent)
    late_limit = LATE if before.delay == NO_DISCOUNT.delay else LATE_END
    low_limit = UNDERSTATED if before.utilisation == NO_DISCOUNT.utilisation else UNDERSTATED_END
    return Discount(late if late > late_limit else 1.0, low if low > low_limit else 0.0)
