"""Who is where, by group: what the ledger knows for `spread`, `apart` and `near`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from billet.core.model import Group, Placement
from billet.core.wishes import groups_of


class Groups:
    """Placements that hold room, by group and host, and counted by zone. A change costs O(groups of the placement),
    at most five; a question O(1), however large the group."""

    def __init__(self) -> None:
        self._members: dict[Group, dict[str, dict[str, str]]] = {}  # group -> host -> names by placement id
        self._zones: dict[Group, Counter[str]] = {}
        self._totals: Counter[Group] = Counter()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Groups) and vars(self) == vars(other)

    def add(self, placement: Placement, zone: str) -> None:
        """A placement holds room on its host from now on, in this zone."""
        for group in groups_of(placement.namespace, placement.name, placement.labels):
            hosts = self._members.setdefault(group, {})
            hosts.setdefault(placement.host, {})[placement.id] = f"{placement.namespace}/{placement.name}"
            self._zones.setdefault(group, Counter())[zone] += 1
            self._totals[group] += 1

    def remove(self, placement: Placement, zone: str) -> None:
        """It does not any more; `zone` is the one with which it was added."""
        for group in groups_of(placement.namespace, placement.name, placement.labels):
            hosts, zones = self._members[group], self._zones[group]
            del hosts[placement.host][placement.id]
            zones[zone] -= 1
            self._totals[group] -= 1
            if not hosts[placement.host]:
                del hosts[placement.host]
            if not zones[zone]:
                del zones[zone]
            if not hosts:
                del self._members[group], self._zones[group], self._totals[group]

    def one(self, group: Group, host_id: str) -> str:
        """The name of the one that has been longest on a host, "" when none of the group is there."""
        here = self._members.get(group, {}).get(host_id)
        return next(iter(here.values())) if here else ""

    def hosts(self, group: Group) -> Iterable[str]:
        """The hosts that have one of a group."""
        return self._members.get(group, {})

    def total(self, group: Group) -> int:
        """How many of a group there are."""
        return self._totals.get(group, 0)

    def here(self, group: Group, host_id: str) -> int:
        """How many of them are on a host."""
        return len(self._members.get(group, {}).get(host_id, ()))

    def in_zone(self, group: Group, zone: str) -> int:
        """How many of them are in a zone."""
        return self._zones[group].get(zone, 0) if group in self._zones else 0
