"""What an agent learns from the boots that it sees, and from those that come to nothing."""

from __future__ import annotations

import pytest

from billet.core.model import Image, Observed, Resources, VmState
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
def test_a_boot_that_came_to_nothing_is_no_boot_and_its_time_nobodys(end: VmState) -> None:
    """Broken on purpose (the clock runs on): a boot takes 62 s; (every end is a boot): the image is here."""
    clock = Clock()
    inventory = HostInventory(clock)

    def lists_at(at_s: float, *rows: Observed) -> None:
        clock.at_s = at_s
        inventory.merge(list(rows), at_s)

    lists_at(1.0, row("a", VmState.PENDING, IMAGE), row("b", VmState.PENDING))
    lists_at(61.0, row("a", end, IMAGE), row("b", VmState.PENDING))
    lists_at(63.0, row("a", end, IMAGE), row("b", VmState.CREATED))
    assert inventory.boot_queue.boots.boot_s == 2.0
    assert IMAGE not in inventory.boot_queue._unpacked
