"""Estimates of one host's boot and pull times, and of their uncertainty, learnt from its boot worker."""

from __future__ import annotations

from math import sqrt

from billet.core.boots.forecast import SIGMAS, next_stretch
from billet.core.model import UNCERTAINTY

NEWEST = 0.05  # weight of the newest boot in the moving means: a slower host is noticed after about 20 boots
MEAN_OF = (
    2.0 - NEWEST
) / NEWEST  # samples of a plain mean with the variance of the moving one (exponential smoothing)
LEFT = 0.2  # share of its expected time that an overdue boot is expected to take still
DEVIATION = 0.35  # assumed standard deviation of a boot, as a share of the mean, before any boot was seen
DEVIATION_SEEN = 6  # number of boots that this assumption weighs
# Outlier limit in standard deviations: at most one of the boots in the moving mean lies beyond it, whatever the
# distribution (Cantelli, 1928: 1 / (1 + k^2)).
RARE = sqrt(1.0 / NEWEST - 1.0)
CHANGED = 3  # boots in a row that are all slower, or all faster, than nine of ten: the host has changed
MIN_DEVIATION = 0.1  # for both, as a share of the mean; without it, every change is an outlier on a steady host


class BootEstimator:
    """One host's mean boot and pull times. Boots that finish between two looks share the worker's time in between.

    A boot that pulled images tells the pull time only once boots without a pull have told the boot time. Until then,
    all of its time counts as boot time.
    """

    def __init__(self) -> None:
        self.boot_s = 0.0  # mean of a boot without a pull, 0 = none seen yet
        self.pull_s: float | None = None  # mean of a pull
        self.late = 0  # waiting boots that will exceed their bound, by the current estimate
        self._stretch = UNCERTAINTY / DEVIATION  # uncertainty / standard deviation; follows the actual boots
        self._variance = DEVIATION**2  # of a boot, in units of the squared mean
        self._boots = 0  # boots seen; a plain mean of the first ones, a moving mean later
        self._pulls = 0
        self._mixed: tuple[float, int, int] | None = None  # seconds, boots, pulls: before boot_s was known
        self._far: list[float] = []  # the latest boots, if they are all slower, or all faster, than nine of ten
        self._busy_since_s: float | None = None

    @property
    def uncertainty(self) -> float:
        """How far actual boots deviate from the forecast, as a share of it (core/boots/forecast.py)."""
        return next_stretch(self._stretch, beyond=True, times=self.late) * sqrt(self._variance)

    @property
    def boots_seen(self) -> float:
        """The number of boots that the mean is worth."""
        return min(self._boots, MEAN_OF)

    @property
    def pulls_seen(self) -> float:
        """The number of pulls that the mean is worth."""
        return min(self._pulls, MEAN_OF)

    def looked(self, booted: int, pulled: int, pending: int, now_s: float) -> None:
        """Since the last look, `booted` microVMs became CREATED after `pulled` pulls; `pending` still wait."""
        if booted and self._busy_since_s is not None:
            self._learn(now_s - self._busy_since_s, booted, pulled)
            self._busy_since_s = now_s
        if pending == 0:
            self._busy_since_s = None
        elif self._busy_since_s is None:
            self._busy_since_s = now_s

    def gave_up(self) -> None:
        """A boot failed, or its microVM was deleted: the worker's time until now is no boot time."""
        self._busy_since_s = None

    def created(self, took_s: float, bound_s: float) -> None:
        """A microVM with a forecast became CREATED after `took_s`; its bound was `bound_s`."""
        self._stretch = next_stretch(self._stretch, took_s > bound_s)

    def ahead_s(self, pending: int, pulls: int, now_s: float) -> float | None:
        """Seconds until `pending` microVMs are CREATED, after `pulls` pulls; None before the first boot.

        The time that the running boot has taken so far is subtracted, but at most 1 - LEFT of its expected time.
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
        """`times` boots took `each_s` on average: update mean and variance (Welford, 1962).

        A time beyond RARE counts as RARE (winsorized: Huber, 1964), so that one boot held up for minutes does not
        spoil the forecasts of the next hundred. If the host has changed, the mean begins again with CHANGED boots.
        """
        if self._has_changed(each_s):
            self._boots, self.boot_s, self._far = CHANGED, sum(self._far) / CHANGED, []
            return
        seen, before_s = self._boots, self.boot_s
        if seen >= DEVIATION_SEEN:
            each_s = min(each_s, before_s * (1.0 + RARE * max(MIN_DEVIATION, sqrt(self._variance))))
        self._boots, self.boot_s = _blend(seen, before_s, each_s, times)
        if seen and self.boot_s:
            square = times * (each_s - before_s) * (each_s - self.boot_s) / self.boot_s**2
            _, self._variance = _blend(DEVIATION_SEEN + seen - 1, self._variance, square, 1)

    def _has_changed(self, each_s: float) -> bool:
        """Whether this boot is one of CHANGED in a row that are far from the mean, on the same side of it."""
        off_s = each_s - self.boot_s
        far = abs(off_s) > SIGMAS * self.boot_s * max(MIN_DEVIATION, sqrt(self._variance))
        if self._far and (off_s > 0) != (self._far[-1] > self.boot_s):
            self._far = []
        self._far = [*self._far, each_s] if far and self._boots >= DEVIATION_SEEN else []
        return len(self._far) == CHANGED

    def _learn_pull(self, pulling_s: float, pulls: int) -> None:
        self._pulls, self.pull_s = _blend(self._pulls, self.pull_s or 0.0, max(0.0, pulling_s) / pulls, pulls)


def _blend(seen: int, mean_s: float, each_s: float, times: int) -> tuple[int, float]:
    """The new count and mean after `times` samples of `each_s`: a plain mean at first, a moving one later."""
    for _ in range(times):
        seen += 1
        mean_s += (each_s - mean_s) * max(1.0 / seen, NEWEST)
    return seen, mean_s
