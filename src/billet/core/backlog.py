"""How long those who are refused had better stay away: until the creates before theirs are done."""

from __future__ import annotations

from math import exp

NEWEST = 0.1  # weight of the newest pause between two ends
WITHIN_S = 10.0  # refusals that are older than this count little
LONGEST_S = 1.0  # between two ends; a longer pause means that there was nothing to do


class Backlog:
    """The creates that wait here or, refused, elsewhere, and how fast creates end. Takes the time as an argument."""

    def __init__(self, each_s: float = 0.0) -> None:
        self._each_s = each_s  # mean time between two ends
        self._ended_s: float | None = None
        self._refused = 0.0  # lately; older ones count less
        self._refused_s = 0.0

    def ended(self, now_s: float) -> None:
        """A create has been carried out."""
        if self._ended_s is not None:
            self._each_s += NEWEST * (min(LONGEST_S, now_s - self._ended_s) - self._each_s)
        self._ended_s = now_s

    def refused(self, now_s: float, waiting: int) -> float:
        """A create is refused while so many wait. Returns the seconds until those and the refused ones are done.

        One that was refused twice counts twice, so that the seconds grow until fewer come back than can be done.
        """
        self._refused = 1.0 + self._refused * exp((self._refused_s - now_s) / WITHIN_S)
        self._refused_s = now_s
        return (waiting + self._refused) * self._each_s
