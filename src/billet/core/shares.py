"""Who may have how much of something that many share: bytes of memory, or slots."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

K = TypeVar("K")


class Shares(Generic[K]):
    """What each of many has, with a limit for all of them together. `limit` 0 = no limit.

    Nobody gets more than `times` what is left free at that moment: with 1, one alone gets half of the limit, each of
    two a third. So whoever has little always finds something free, however much the others want, and nothing is
    set aside for anybody. (In switches this rule is known as dynamic thresholds.)
    """

    def __init__(self, limit: int, times: float = 1) -> None:
        self.limit = limit
        self._times = times
        self.total = 0
        self._held: Counter[K] = Counter()

    def __len__(self) -> int:
        """How many have something."""
        return len(self._held)

    def fits(self, key: K, size: int) -> bool:
        """Whether so much more is no more than may be had, and than is left free."""
        free = self.limit - self.total
        return not self.limit or (size <= free and self._held.get(key, 0) + size <= self._times * free)

    def one_more(self, key: K) -> bool:
        """Whether one more fits; or it is the first, and anything is free."""
        return self.fits(key, 1) or (not self._held.get(key, 0) and self.total < self.limit)

    def count(self, key: K, size: int) -> bool:
        """Count so much more, or, below 0, less, whether it fits or not. Returns whether it did."""
        fits = self.fits(key, size)
        self.total += size
        self._held[key] += size
        if not self._held[key]:
            del self._held[key]
        return fits

    def take(self, key: K, size: int) -> bool:
        """Count so much more if it fits; False if not."""
        return self.fits(key, size) and self.count(key, size)

    def held(self, key: K) -> int:
        """What one of them has."""
        return self._held.get(key, 0)
