"""What a host's one boot worker teaches: how long a boot takes, how long a pull, and how far both stray."""

from __future__ import annotations

from math import sqrt

from billet.core.boots.forecast import next_stretch
from billet.core.model import UNCERTAINTY

NEWEST = 0.05  # weight of the newest boot in the host's moving means: a host that gets slower is known after 20
MEAN_OF = (2.0 - NEWEST) / NEWEST  # as many alike make a plain mean that is as sure (any text on smoothing)
LEFT = 0.2  # of its mean, a boot that has run for longer than that is still expected to take
STRAY = 0.35  # how far a boot strays from the mean, as a share of it, before the host has seen any
SURE_OF_IT = 6  # boots that this counts for
# In standard deviations: at most one boot of those that the moving mean remembers is beyond so many, whatever their
# distribution (Cantelli, 1928: 1 / (1 + k^2)).
RARE = sqrt(1.0 / NEWEST - 1.0)
ALIKE = 0.1  # of which at least so much, as a share of the mean: where all boots were alike, any other would be rare


class BootEstimator:
    """The host's own means. What the worker was busy with between two looks is shared by the boots that it finished.

    A boot that pulled images says how long the pulls took only once boots without any have said how long a boot
    takes. Until then its whole time stands for a boot's.
    """

    def __init__(self) -> None:
        self.boot_s = 0.0  # mean of a boot without a pull, 0 = none seen yet
        self.pull_s: float | None = None  # mean of a pull
        self.late = 0  # of those that wait, how many will be beyond their bound, as things look now
        self._stretch = UNCERTAINTY / STRAY  # the spread over what boots stray, which follows what happens
        self._stray2 = STRAY**2  # mean square of what they stray, as a share of the mean
        self._boots = 0  # of which the mean is, with the first ones as a plain mean
        self._pulls = 0
        self._mixed: tuple[float, int, int] | None = None  # seconds, boots, pulls: before boot_s was known
        self._busy_since_s: float | None = None

    @property
    def uncertainty(self) -> float:
        """How far what comes strays from what is foretold (core/boots/forecast.py)."""
        return next_stretch(self._stretch, beyond=True, times=self.late) * sqrt(self._stray2)

    @property
    def boots_seen(self) -> float:
        """As of how many boots the mean is."""
        return min(self._boots, MEAN_OF)

    @property
    def pulls_seen(self) -> float:
        """The same of pulls."""
        return min(self._pulls, MEAN_OF)

    def looked(self, booted: int, pulled: int, pending: int, now_s: float) -> None:
        """`booted` microVMs became CREATED since the last look, with `pulled` pulls before that; `pending` wait."""
        if booted and self._busy_since_s is not None:
            self._learn(now_s - self._busy_since_s, booted, pulled)
            self._busy_since_s = now_s
        if pending == 0:
            self._busy_since_s = None
        elif self._busy_since_s is None:
            self._busy_since_s = now_s

    def gave_up(self) -> None:
        """A boot failed, or its microVM was deleted: what the worker was busy with until now is no boot's time."""
        self._busy_since_s = None

    def created(self, took_s: float, bound_s: float) -> None:
        """A microVM of which something was foretold is CREATED."""
        self._stretch = next_stretch(self._stretch, took_s > bound_s)

    def ahead_s(self, pending: int, pulls: int, now_s: float) -> float | None:
        """Seconds until `pending` microVMs are CREATED, with so many pulls before that; None before the first boot.

        What the one that boots has behind it is taken off. How long it still takes is not known to the end.
        """
        if not self.boot_s:
            return None
        pull_s = self.pull_s or 0.0
        whole_s = pending * self.boot_s + pulls * pull_s
        if not pending or self._busy_since_s is None:
            return whole_s
        first_s = self.boot_s + pulls * pull_s
        return whole_s - min(now_s - self._busy_since_s, (1.0 - LEFT) * first_s)

    def _learn(self, busy_s: float, booted: int, pulled: int) -> None:
        if pulled == 0:
            self._learn_boot(busy_s / booted, booted)
            if self._mixed:
                (before_s, boots, pulls), self._mixed = self._mixed, None
                self._learn_pull(before_s - boots * self.boot_s, pulls)
        elif self._boots:
            self._learn_pull(busy_s - booted * self.boot_s, pulled)
        else:
            self._mixed = busy_s, booted, pulled
            self.boot_s = busy_s / booted

    def _learn_boot(self, each_s: float, times: int) -> None:
        """So many boots have taken `each_s` on average. How far that is from the mean before, times how far from the
        one after, has the variance of the boots for its mean (Welford 1962).

        What is beyond RARE counts as that much only (winsorized: Huber, 1964), so that one boot that was held up for
        minutes does not stand for the next hundred; where the host has become so slow the next ones say it again.
        """
        seen, before_s = self._boots, self.boot_s
        if seen >= SURE_OF_IT:
            each_s = min(each_s, before_s * (1.0 + RARE * max(ALIKE, sqrt(self._stray2))))
        self._boots, self.boot_s = _blend(seen, before_s, each_s, times)
        if seen and self.boot_s:
            square = times * (each_s - before_s) * (each_s - self.boot_s) / self.boot_s**2
            _, self._stray2 = _blend(SURE_OF_IT + seen - 1, self._stray2, square, 1)

    def _learn_pull(self, pulling_s: float, pulls: int) -> None:
        self._pulls, self.pull_s = _blend(self._pulls, self.pull_s or 0.0, max(0.0, pulling_s) / pulls, pulls)


def _blend(seen: int, mean_s: float, each_s: float, times: int) -> tuple[int, float]:
    """How many there are now, and their mean: a plain one while there are few, a moving one after."""
    for _ in range(times):
        seen += 1
        mean_s += (each_s - mean_s) * max(1.0 / seen, NEWEST)
    return seen, mean_s
