"""The inventory merges Lists in order, and the boot queue learns from successful boots only."""

from __future__ import annotations

import pytest

from billet.core.model import ZERO, Image, Observed, Resources, VmState
from billet.host.inventory import HostInventory

SHAPE = Resources(1, 1024, 0, 1)
IMAGE = Image("rootfs:1")


class Clock:
    at_s = 0.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


def row(uid: str, state: VmState, *images: Image) -> Observed:
    return Observed(uid, "ns", uid, SHAPE, state, images=images)


@pytest.mark.parametrize("end", [VmState.FAILED, VmState.DELETING])
def test_a_failed_boot_teaches_nothing_and_its_time_is_not_counted(end: VmState) -> None:
    """Broken on purpose (its time is counted): a boot takes 62 s; (it counts as a boot): its image is present."""
    clock = Clock()
    inventory = HostInventory(clock)
    inventory.boot_queue.unpacked(frozenset())

    def lists_at(at_s: float, *rows: Observed) -> None:
        clock.at_s = at_s
        inventory.merge(list(rows), at_s)

    lists_at(1.0, row("a", VmState.PENDING, IMAGE), row("b", VmState.PENDING))
    lists_at(61.0, row("a", end, IMAGE), row("b", VmState.PENDING))
    lists_at(63.0, row("a", end, IMAGE), row("b", VmState.CREATED))
    assert inventory.boot_queue.boots.boot_s == 2.0
    assert inventory.boot_queue.images == 0


def test_an_older_list_does_not_undo_a_newer_one() -> None:
    """A microVM that was deleted in between would come back, and be adopted."""
    inventory = HostInventory(Clock())
    rows = [row("a", VmState.CREATED)]
    assert inventory.merge(rows, 1.0) == (rows, [])
    assert inventory.merge([], 3.0) == ([], ["a"])
    assert inventory.merge(rows, 2.0) == ([], [])
    assert inventory.taken == ZERO
