"""Where the members of each group are: the ledger's index for `spread`, `apart` and `near`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from billet.core.constraints import groups_of, soft_groups
from billet.core.model import Auction, Group, GroupKind, Host, Peers, Placement


class Counted(NamedTuple):
    """A preference, and its group's members: those on each host, and their number in each zone and in total."""

    preference: str
    group: Group
    hosts: Mapping[str, Mapping[str, str]]
    zones: Mapping[str, int]
    total: int


def domain(host_id: str, host: Host | None) -> str:
    """A host's failure domain: its zone, or the host itself if it has none."""
    return (host.zone if host else "") or f"host {host_id}"


class Groups:
    """Placements that hold room, by group and host, and counted by zone.

    A change costs O(groups of the placement), at most five; a lookup O(1), however large the group.
    """

    def __init__(self) -> None:
        self._members: dict[Group, dict[str, dict[str, str]]] = {}  # group -> host -> names by placement id
        self._zones: dict[Group, Counter[str]] = {}
        self._totals: Counter[Group] = Counter()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Groups) and vars(self) == vars(other)

    def add(self, placement: Placement, zone: str) -> list[Group]:
        """Add a placement that holds room on its host, in this zone. Returns its groups."""
        found = list(groups_of(placement.namespace, placement.name, placement.labels))
        for group in found:
            hosts = self._members.setdefault(group, {})
            hosts.setdefault(placement.host, {})[placement.id] = f"{placement.namespace}/{placement.name}"
            self._zones.setdefault(group, Counter())[zone] += 1
            self._totals[group] += 1
        return found

    def remove(self, placement: Placement, zone: str) -> list[Group]:
        """Remove a placement; `zone` is the one that it was added with. Returns its groups."""
        found = list(groups_of(placement.namespace, placement.name, placement.labels))
        for group in found:
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
        return found

    def oldest(self, group: Group, host_id: str) -> str:
        """The name of the group's oldest member on a host, "" if there is none."""
        here = self._members.get(group, {}).get(host_id)
        return next(iter(here.values())) if here else ""

    def apart_from(self, auction: Auction) -> Counted | None:
        """The group from which `apart` keeps this microVM away; None if it has no members."""
        group = Group(auction.namespace, GroupKind.APART, auction.constraints.apart)
        return self.of(group, "apart") if group in self._members else None

    def apart(self, auction: Auction, host_id: str) -> str:
        """The name of a microVM on a host from which `apart` keeps this one away, "" if there is none."""
        apart = auction.constraints.apart
        return self.oldest(Group(auction.namespace, GroupKind.APART, apart), host_id) if apart else ""

    def counted(self, auction: Auction) -> list[Counted]:
        """An auction's preferences whose groups have members."""
        return [self.of(group, preference) for preference, group in soft_groups(auction) if group in self._members]

    def of(self, group: Group, preference: str = "") -> Counted:
        """A group's members."""
        zones: Mapping[str, int] = self._zones.get(group, {})
        return Counted(preference, group, self._members.get(group, {}), zones, self._totals[group])


def peers_on(counted: Sequence[Counted], host_id: str, zone: str) -> tuple[Peers, ...]:
    """The counts by which these preferences are scored on a host of this zone."""
    return tuple(
        Peers(preference, len(hosts.get(host_id, ())), zones.get(zone, 0), total)
        for preference, _, hosts, zones, total in counted
    )
