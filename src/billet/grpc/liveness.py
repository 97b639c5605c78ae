"""Decides, by the clock, whether a connection still lives and is still wanted."""

from __future__ import annotations

from enum import Enum, auto

from billet.grpc.limits import Limits

NO_LIMIT_S = 60.0


class Due(Enum):
    """What a connection has to do now."""

    NOTHING = auto()
    SILENT = auto()  # close it: the other side has not said hello
    STALLED = auto()  # close it: the other side takes none of the data that waits for it
    DEAD = auto()  # break it: the other side gave no sign of life
    PING = auto()  # ask for a sign of life
    IDLE = auto()  # there was no call for a while


class Liveness:
    """What one connection has seen, and when: monotonic seconds."""

    __slots__ = ("_limits", "_made_s", "_taken_bytes", "_waits_s", "busy_s", "heard_s", "pinged")

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._made_s = self._waits_s = now_s
        self._taken_bytes = 0  # of messages, by the other side, at the last look
        self.heard_s = now_s  # the last bytes came
        self.busy_s = now_s  # the last sign of a call
        self.pinged = False  # and nothing was heard since

    def hear(self, now_s: float) -> None:
        """Bytes came."""
        self.heard_s = now_s
        self.pinged = False

    def wait_s(self, established: bool) -> float:
        """How long to wait until the next look: long enough that idle connections cost nothing."""
        limits = self._limits
        if self.pinged:
            return limits.keepalive_wait_s
        waits_s = [wait_s / 2 for wait_s in (limits.keepalive_s, limits.stalled_s, limits.idle_s) if wait_s]
        if not established and limits.preface_s:
            waits_s.append(limits.preface_s)
        return min(waits_s, default=NO_LIMIT_S)

    def look(
        self, now_s: float, established: bool, waits_bytes: int, taken_bytes: int, calls: int, *, finishing: bool
    ) -> Due:
        """What is due now.

        `waits_bytes`: what the other side has not taken yet; `taken_bytes`: what it has, of all messages so far.
        `finishing`: the connection only waits for that.
        """
        limits = self._limits
        stalled = self._stalled(now_s, waits_bytes, taken_bytes, 0 if finishing else limits.stalled_bytes)
        if not established and limits.preface_s and now_s - self._made_s >= limits.preface_s:
            return Due.SILENT
        if stalled:
            return Due.STALLED
        if self.pinged and now_s - self.heard_s > limits.keepalive_wait_s:
            return Due.DEAD
        if limits.keepalive_s and calls and now_s - self.heard_s > limits.keepalive_s:
            self.pinged = True
            return Due.PING
        if limits.idle_s and not calls and now_s - self.busy_s > limits.idle_s:
            return Due.IDLE
        return Due.NOTHING

    def _stalled(self, now_s: float, waits_bytes: int, taken_bytes: int, limit_bytes: int) -> bool:
        """Whether more than the limit has waited for `stalled_s` without any of it being taken."""
        if waits_bytes <= limit_bytes or taken_bytes > self._taken_bytes:
            self._waits_s = now_s + self.wait_s(True)  # what is queued now has not been offered yet
        self._taken_bytes = taken_bytes
        return bool(self._limits.stalled_s) and now_s - self._waits_s > self._limits.stalled_s
