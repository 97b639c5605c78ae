"""Logs a recurring problem once, and then at most once a minute."""

from __future__ import annotations

from collections.abc import Hashable

AGAIN_AFTER_S = 60.0
REMEMBERED = 1000  # subjects; above that, the oldest is forgotten


class LogThrottle:
    """Remembers the last problem that was logged of each subject (a host, a server, an address), and when."""

    def __init__(self) -> None:
        self._logged: dict[Hashable, tuple[str, float]] = {}

    def should_log(self, subject: Hashable, problem: str, now_s: float) -> bool:
        """Whether to log this problem now: it differs from the last one, or AGAIN_AFTER_S have passed.

        `now_s` is a monotonic time.
        """
        last, at_s = self._logged.pop(subject, ("", 0.0))
        due = last != problem or now_s - at_s >= AGAIN_AFTER_S
        self._logged[subject] = (problem, now_s if due else at_s)
        if len(self._logged) > REMEMBERED:
            del self._logged[next(iter(self._logged))]
        return due

    def recovered(self, subject: Hashable) -> None:
        """Forget the subject's problem, so that its next one is logged at once."""
        self._logged.pop(subject, None)
