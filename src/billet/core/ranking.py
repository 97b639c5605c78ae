"""The hosts in the order of how full they are, so that an auction asks the emptiest without looking at all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from itertools import islice, zip_longest

LOOK = 8  # times a zone's share of those that are asked: so many of its hosts are looked at for what is to be spread
Place = tuple[float, str]  # a host's share, and the host


class Ranking:
    """Hosts sorted by their dominant share, all of them and those of each zone. A change costs O(log hosts)
    comparisons. Those without a zone are one list: each of them is a failure domain of its own."""

    def __init__(self) -> None:
        self._all: list[Place] = []
        self._zones: dict[str, list[Place]] = {}
        self._known: dict[str, tuple[Place, str]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def put(self, host_id: str, share: float, zone: str = "") -> None:
        """Set a host's share (0 = idle, 1 = full)."""
        self.drop(host_id)
        place = (share, host_id)
        self._known[host_id] = place, zone
        insort(self._all, place)
        insort(self._zones.setdefault(zone, []), place)

    def drop(self, host_id: str) -> None:
        """Forget a host; one that is not there is no error."""
        known = self._known.pop(host_id, None)
        if known is None:
            return
        place, zone = known
        del self._all[bisect_left(self._all, place)]
        of_zone = self._zones[zone]
        del of_zone[bisect_left(of_zone, place)]
        if not of_zone:
            del self._zones[zone]

    def shortlist(
        self,
        auction_id: str,
        ask: int,
        drawn: int,
        fits: Callable[[str], bool],
        fullest_first: bool = False,
        zone: str = "",
    ) -> list[str]:
        """The `ask` emptiest (or fullest) hosts that fit, and a few more drawn by a hash of the auction.

        With a `zone` only its own are looked at. The drawn ones keep an eye on hosts whose own facts (pressure, boot
        queue) have become better than the ledger knows. Where fewer than `ask` fit, every host was looked at, and
        those are all there are.
        """
        ranked = self._zones.get(zone, []) if zone else self._all
        chosen = list(islice(filter(fits, _ids(ranked, fullest_first)), ask))
        asked = set(chosen)
        for n in range(drawn if ranked and len(chosen) == ask else 0):
            host_id = ranked[draw(auction_id, str(n)) % len(ranked)][1]
            if host_id not in asked and fits(host_id):
                asked.add(host_id)
                chosen.append(host_id)
        return chosen

    def of_each_zone(
        self, auction_id: str, ask: int, fits: Callable[[str], bool], fullest_first: bool = False
    ) -> list[str]:
        """`ask` hosts that fit, the emptiest (or fullest) of each zone in turn, however full a whole zone is.

        In each zone so few are looked at that one with nothing to give is no look at half of the fleet; so these may
        be fewer than there are. Of more zones than `ask`, those next to one that is drawn by a hash of the auction.
        """
        zones = list(self._zones)
        if not zones or ask < 1:
            return []
        start = draw(auction_id, "zone") % len(zones)
        zones = (zones[start:] + zones[:start])[:ask]
        look = LOOK * -(-ask // len(zones))
        fitting = [filter(fits, islice(_ids(self._zones[zone], fullest_first), look)) for zone in zones]
        round_robin = (host_id for round_ in zip_longest(*fitting) for host_id in round_ if host_id is not None)
        return list(islice(round_robin, ask))


def _ids(ranked: list[Place], fullest_first: bool) -> Iterator[str]:
    places: Iterable[Place] = reversed(ranked) if fullest_first else ranked
    return (host_id for _, host_id in places)


def draw(name: str, salt: str) -> int:
    """A number of 64 bits that looks drawn anew for each name and salt."""
    return int.from_bytes(blake2b(f"{name}\0{salt}".encode(), digest_size=8).digest())
