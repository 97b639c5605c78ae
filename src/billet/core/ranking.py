"""Hosts sorted by utilisation, so that an auction finds the emptiest ones without looking at all of them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice, zip_longest

LOOK = 8  # hosts looked at per zone, as a multiple of the hosts asked per zone
NOWHERE: Mapping[str, int] = {}
Place = tuple[float, str]  # a host's dominant share, and its id


class Ranking:
    """All hosts, and those of each zone, sorted by dominant share. A change costs O(log hosts) comparisons.

    Hosts without a zone share one list, though each of them is its own failure domain.
    """

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
        """Remove a host, if it is there."""
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
        """The `ask` emptiest (or fullest) hosts that fit, and up to `drawn` more, drawn by a hash of the auction.

        With a `zone`, only hosts of that zone. The drawn ones may have better facts (pressure, boot queue) than the
        ledger can know. A result shorter than `ask` contains every host that fits.
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
        self,
        auction_id: str,
        ask: int,
        fits: Callable[[str], bool],
        fullest_first: bool = False,
        crowds: Mapping[str, int] = NOWHERE,
    ) -> list[str]:
        """Up to `ask` hosts that fit: the emptiest (or fullest) of each zone in turn, the least crowded zone first.

        Only a few hosts are looked at in each zone, so that a full zone does not cost a scan of it; the result may
        miss hosts that fit. Of zones that are equally crowded, the first is drawn by a hash of the auction.
        """
        zones = list(self._zones)
        if not zones or ask < 1:
            return []
        start = draw(auction_id, "zone") % len(zones)
        zones = sorted(zones[start:] + zones[:start], key=lambda zone: crowds.get(zone, 0))[:ask]
        look = LOOK * -(-ask // len(zones))
        fitting = [filter(fits, islice(_ids(self._zones[zone], fullest_first), look)) for zone in zones]
        round_robin = (host_id for round_ in zip_longest(*fitting) for host_id in round_ if host_id is not None)
        return list(islice(round_robin, ask))


def _ids(ranked: list[Place], fullest_first: bool) -> Iterator[str]:
    places: Iterable[Place] = reversed(ranked) if fullest_first else ranked
    return (host_id for _, host_id in places)


def draw(name: str, salt: str) -> int:
    """A pseudo-random number of 64 bits for a name and a salt."""
    return int.from_bytes(blake2b(f"{name}\0{salt}".encode(), digest_size=8).digest())
