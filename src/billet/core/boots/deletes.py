"""Deletes that wait for the boot worker of a host: it boots and deletes one after another, in one queue."""

from __future__ import annotations

NEWEST = 0.2  # weight of the newest sample in the moving mean; a sample is many Deletes


class DeleteQueue:
    """How many Deletes wait, and the mean time that one takes of the worker.

    The time is learnt between two Lists, if Deletes wait all the time and nothing boots: then the worker did nothing
    else. A short queue teaches nothing, and costs a boot little.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.delete_s = 0.0  # 0 = unknown
        self._since_s: float | None = None  # since when some have waited all the time, by the latest List

    @property
    def ahead_s(self) -> float:
        """Seconds that the waiting Deletes take."""
        return self.waiting * self.delete_s

    def listed(self, waiting: int, removed: int, boots: bool, now_s: float) -> None:
        """A List shows `waiting` Deletes; since the one before `removed` have ended. `boots`: other work was done."""
        if self._since_s is not None and removed and waiting and not boots:
            each_s = (now_s - self._since_s) / removed
            self.delete_s += (each_s - self.delete_s) * (NEWEST if self.delete_s else 1.0)
        self.waiting = waiting
        self._since_s = now_s if waiting else None
