"""Who may hold how much of a memory that many share."""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

K = TypeVar("K")


class Shares(Generic[K]):
    """Bytes held by each of many, with a limit for all of them together. `limit_bytes` 0 = no limit.

    Nobody gets more than `times` what is left free at that moment: with 1, one alone gets half of the limit, each of
    two a third. So whoever holds little always finds something free, however much the others want, and nothing is
    set aside for anybody. (In switches this rule is known as dynamic thresholds.)
    """

    def __init__(self, limit_bytes: int, times: int = 1) -> None:
        self.limit_bytes = limit_bytes
        self._times = times
        self.total_bytes = 0
        self._held: Counter[K] = Counter()

    def __len__(self) -> int:
        """How many hold something."""
        return len(self._held)

    def fits(self, key: K, size: int) -> bool:
        """Whether so many bytes more are no more than may be held, and than is left free."""
        free = self.limit_bytes - self.total_bytes
        return not self.limit_bytes or (size <= free and self._held.get(key, 0) + size <= self._times * free)

    def count(self, key: K, size: int) -> bool:
        """Count so many bytes more, or, below 0, less, whether they fit or not. Returns whether they did."""
        fits = self.fits(key, size)
        self.total_bytes += size
        self._held[key] += size
        if not self._held[key]:
            del self._held[key]
        return fits

    def take(self, key: K, size: int) -> bool:
        """Count so many bytes more if they fit; False if not."""
        return self.fits(key, size) and self.count(key, size)

    def held_bytes(self, key: K) -> int:
        """What one of them holds."""
        return self._held.get(key, 0)
