"""The clock by which records of ended microVMs grow old. A step of the wall clock must not end them all at once."""

from __future__ import annotations

import structlog

from billet.ports import Clock

log = structlog.get_logger()

STEP_S = 6 * 3600.0  # how far a new term trusts the wall clock beyond the newest time in the store
SLEW = 0.25  # share by which this clock runs faster or slower until it agrees with the wall clock
SUSPECT_S = 60.0  # a difference that is logged


class SteadyClock:
    """Wall-clock time that only grows, and at most 1 + SLEW times as fast as the monotonic clock.

    Machines disagree about the wall clock, and operators and NTP set it. Within a term this clock follows it slowly.
    A new term begins with the wall clock, but between `newest_s` and STEP_S after it. So a wrong wall clock shortens
    the life of a record by a quarter at most, plus STEP_S for each change of the leader. After a long standstill
    records are kept longer, which does no harm.
    """

    def __init__(self, clock: Clock, newest_s: float | None) -> None:
        """`newest_s`: the newest time in the store that such a clock has given; None = there is none."""
        self._clock = clock
        self._at_s = clock.monotonic_s()
        self._now_s = clock.now_s()
        if newest_s is not None:
            self._now_s = min(max(self._now_s, newest_s), newest_s + STEP_S)
        self._suspect = False

    def now_s(self) -> float:
        """Seconds since the epoch, for comparison with other times of such clocks."""
        at_s = self._clock.monotonic_s()
        passed_s, self._at_s = at_s - self._at_s, at_s
        behind_s = self._clock.now_s() - (self._now_s + passed_s)
        self._now_s += passed_s + max(-SLEW * passed_s, min(SLEW * passed_s, behind_s))
        self._tell(behind_s)
        return self._now_s

    def _tell(self, behind_s: float) -> None:
        suspect = abs(behind_s) > SUSPECT_S
        if suspect and not self._suspect:
            log.warning("wall clock jumped, or the store has times of another clock: check NTP",
                        difference_s=round(behind_s))  # fmt: skip
        self._suspect = suspect
