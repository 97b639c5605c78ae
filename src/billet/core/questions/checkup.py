"""Checkup: inconsistencies in a store's records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from billet.core.model import ZERO, Host, Placement, Resources
from billet.core.state import holds_room


class Finding(NamedTuple):
    """One finding for people. `wrong`: impossible while Billet and the store work correctly."""

    wrong: bool
    text: str


def findings(hosts: Sequence[Host], placements: Sequence[Placement]) -> list[Finding]:
    """All findings, the wrong ones first."""
    found = [*_twins(placements), *_strays(hosts, placements), *_overcommitted(hosts, placements)]
    return sorted(found, key=lambda finding: not finding.wrong)


def _twins(placements: Sequence[Placement]) -> Iterator[Finding]:
    counts = Counter(placement.uid for placement in placements if placement.uid)
    for uid, count in counts.items():
        if count > 1:
            ids = ", ".join(sorted(placement.id for placement in placements if placement.uid == uid))
            yield Finding(True, f"microVM {uid} has {count} placements: {ids}")


def _strays(hosts: Sequence[Host], placements: Sequence[Placement]) -> Iterator[Finding]:
    known = {host.id for host in hosts}
    counts = Counter(placement.host for placement in placements if placement.host not in known)
    for host_id, count in sorted(counts.items()):
        yield Finding(True, f"{count} placements are on host {host_id!r}, which has no record")


def _overcommitted(hosts: Sequence[Host], placements: Sequence[Placement]) -> Iterator[Finding]:
    """More promised than allocatable; not wrong if microVMs created directly on the host were adopted."""
    taken: dict[str, Resources] = {}
    adopted = set()
    for placement in placements:
        if holds_room(placement):
            taken[placement.host] = taken.get(placement.host, ZERO).plus(placement.demand)
            if placement.adopted:
                adopted.add(placement.host)
    for host in hosts:
        over = taken.get(host.id, ZERO).minus(host.allocatable)
        if max(over) > 0:
            parts = ", ".join(f"{n} {name}" for name, n in over._asdict().items() if n > 0)
            why = "; it has adopted microVMs" if host.id in adopted else "; was its allocatable lowered?"
            yield Finding(False, f"host {host.id!r} is overcommitted by {parts}{why}")
