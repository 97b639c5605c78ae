"""Bounds the lines about refused calls: who knocks a thousand times a second does not fill the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

EACH_S = 60.0  # the window
LINES = 20  # in a window, for one address, identity and code; the rest is counted
ADDRESSES = 1_000  # that are told apart; others share one count

Key = tuple[str, str, int]  # network of the address, identity, code


@dataclass(slots=True)
class _Window:
    written: int = 0
    counted: int = 0


class Refusals:
    """Decides whether a refusal has a line of its own. `repeated` gets the number of those that had none."""

    def __init__(self, repeated: Callable[[Key, int], None], now_s: Callable[[], float]) -> None:
        self._repeated = repeated
        self._now_s = now_s
        self._windows: dict[Key, _Window] = {}
        self._begun_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def should_write(self, key: Key) -> bool:
        """Whether to write a line for this refusal; else it is counted, and told at the end of the window."""
        if self._now_s() - self._begun_s >= EACH_S:
            self.close()
            self._begun_s = self._now_s()
        if key not in self._windows and len(self._windows) >= ADDRESSES:
            key = ("others", "", key[2])
        window = self._windows.setdefault(key, _Window())
        if window.written < LINES:
            window.written += 1
            return True
        window.counted += 1
        if self._timer is None:
            left_s = self._begun_s + EACH_S - self._now_s()
            self._timer = asyncio.get_running_loop().call_later(max(left_s, 0.0), self.close)
        return False

    def close(self) -> None:
        """End the window, and tell what was only counted."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        windows, self._windows = self._windows, {}
        for key, window in windows.items():
            if window.counted:
                self._repeated(key, window.counted)
