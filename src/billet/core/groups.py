"""Who is where, by group: what the ledger knows for `spread`, `apart` and `near`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from billet.core.model import Group, Placement
from billet.core.wishes import groups_of


class Census(NamedTuple):
    """How many of one group there are: in all, on each host, in each zone."""

    total: int
    hosts: Mapping[str, int]
    zones: Mapping[str, int]


class Groups:
    """Placements that hold room, by group and host. A change costs O(groups of the placement), at most five."""

    def __init__(self) -> None:
        self._members: dict[Group, dict[str, dict[str, str]]] = {}  # group -> host -> names by placement id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Groups) and self._members == other._members

    def add(self, placement: Placement) -> None:
        """A placement holds room on its host from now on."""
        for group in groups_of(placement.namespace, placement.name, placement.labels):
            hosts = self._members.setdefault(group, {})
            hosts.setdefault(placement.host, {})[placement.id] = f"{placement.namespace}/{placement.name}"

    def remove(self, placement: Placement) -> None:
        """It does not any more."""
        for group in groups_of(placement.namespace, placement.name, placement.labels):
            hosts = self._members[group]
            del hosts[placement.host][placement.id]
            if not hosts[placement.host]:
                del hosts[placement.host]
            if not hosts:
                del self._members[group]

    def one(self, group: Group, host_id: str) -> str:
        """The name of the one that has been longest on a host, "" when none of the group is there."""
        here = self._members.get(group, {}).get(host_id)
        return next(iter(here.values())) if here else ""

    def hosts(self, group: Group) -> Iterable[str]:
        """The hosts that have one of a group."""
        return self._members.get(group, {})

    def census(self, group: Group, zone_of: Callable[[str], str]) -> Census:
        """Count a group. O(hosts that have one of it)."""
        hosts = {host_id: len(here) for host_id, here in self._members.get(group, {}).items()}
        zones: Counter[str] = Counter()
        for host_id, count in hosts.items():
            zones[zone_of(host_id)] += count
        return Census(sum(hosts.values()), hosts, zones)
