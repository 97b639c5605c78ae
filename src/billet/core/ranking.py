"""The hosts in the order of how full they are, so that an auction asks the emptiest without looking at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b


def evenly(fits: Callable[[str], bool], zone_of: Callable[[str], str], ask: int, zones: int) -> Callable[[str], bool]:
    """`fits`, but for no more hosts of one zone than its share of the `ask` that are wanted.

    So that an auction that is to be spread over zones hears hosts of each, however full a whole zone is.
    """
    share = -(-ask // max(zones, 1))
    chosen: Counter[str] = Counter()

    def suits(host_id: str) -> bool:
        zone = zone_of(host_id)
        if chosen[zone] >= share or not fits(host_id):
            return False
        chosen[zone] += 1
        return True

    return suits


class Ranking:
    """Hosts sorted by their dominant share. A change costs O(log hosts) comparisons."""

    def __init__(self) -> None:
        self._sorted: list[tuple[float, str]] = []
        self._share: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._sorted)

    def put(self, host_id: str, share: float) -> None:
        """Set a host's share (0 = idle, 1 = full)."""
        self.drop(host_id)
        self._share[host_id] = share
        insort(self._sorted, (share, host_id))

    def drop(self, host_id: str) -> None:
        """Forget a host; one that is not there is no error."""
        share = self._share.pop(host_id, None)
        if share is not None:
            del self._sorted[bisect_left(self._sorted, (share, host_id))]

    def shortlist(
        self, auction_id: str, ask: int, drawn: int, fits: Callable[[str], bool], fullest_first: bool = False
    ) -> list[str]:
        """The `ask` emptiest (or fullest) hosts that fit, and a few more drawn by a hash of the auction.

        The drawn ones keep an eye on hosts whose own facts (pressure, boot queue) have become better than the
        ledger knows. Where fewer than `ask` fit, every host was looked at, and those are all there are.
        """
        chosen: list[str] = []
        for _, host_id in reversed(self._sorted) if fullest_first else self._sorted:
            if fits(host_id):
                chosen.append(host_id)
                if len(chosen) == ask:
                    break
        asked = set(chosen)
        size = len(self._sorted)
        for n in range(drawn if len(chosen) == ask else 0):
            digest = blake2b(f"{auction_id}\0{n}".encode(), digest_size=8).digest()
            host_id = self._sorted[int.from_bytes(digest) % size][1]
            if host_id not in asked and fits(host_id):
                asked.add(host_id)
                chosen.append(host_id)
        return chosen
