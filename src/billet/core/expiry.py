"""How urgent is it to renew a certificate?"""

from __future__ import annotations

from enum import StrEnum

DAY_S = 86_400.0
MONTH_S, WEEK_S = 30 * DAY_S, 7 * DAY_S


class Urgency(StrEnum):
    """How soon a certificate must be renewed."""

    NONE = ""  # later than in a month
    SOON = "within a month"
    NOW = "within a week"
    LATE = "within a day"
    EXPIRED = "it has expired"


def urgency(left_s: float) -> Urgency:
    """The urgency for a certificate that is valid for so many more seconds."""
    if left_s > MONTH_S:
        return Urgency.NONE
    if left_s > WEEK_S:
        return Urgency.SOON
    if left_s > DAY_S:
        return Urgency.NOW
    return Urgency.LATE if left_s > 0 else Urgency.EXPIRED
