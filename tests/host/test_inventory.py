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


def row(uid: str, state: VmState, *images: Image, retry: int = 0) -> Observed:
    return Observed(uid, "ns", uid, SHAPE, state, retry=retry, images=images)


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


def test_a_microvm_whose_boot_has_failed_waits_aside() -> None:
    """It waits for up to 1,100 s, and others go on. Before: it counted as the next boot all that time."""
    clock = Clock()
    inventory = HostInventory(clock)
    inventory.merge([row("a", VmState.PENDING), row("b", VmState.PENDING)], 1.0)
    assert (inventory.next_boots(), inventory.boot_queue.pending) == (["a", "b"], 2)
    clock.at_s = 30.0
    inventory.merge([row("a", VmState.PENDING, retry=1), row("b", VmState.PENDING)], 30.0)
    assert (inventory.next_boots(), inventory.boot_queue.pending) == (["b"], 1)
    clock.at_s = 32.0
    inventory.merge([row("a", VmState.PENDING, retry=1), row("b", VmState.CREATED)], 32.0)
    assert inventory.boot_queue.boots.boot_s == 2.0, "the time of the failed boot is no boot time"
    clock.at_s = 60.0
    inventory.merge([row("a", VmState.CREATED, retry=1), row("b", VmState.CREATED)], 60.0)
    assert inventory.boot_queue.boots.boot_s == 2.0
    assert inventory.boot_queue.pending == 0


def test_boots_are_looked_at_in_the_order_in_which_they_began_to_wait() -> None:
    """Broken on purpose (a row that is seen again goes to the end): b is looked at before a, which boots now."""
    inventory = HostInventory(Clock())
    inventory.merge([row("a", VmState.PENDING), row("b", VmState.PENDING), row("c", VmState.CREATED)], 1.0)
    inventory.put(row("a", VmState.PENDING, IMAGE))
    assert inventory.next_boots() == ["a", "b"]
    inventory.put(row("a", VmState.CREATED, IMAGE))
    inventory.merge([], 2.0)
    assert inventory.next_boots() == []


def deleting(first: int, last: int = 40) -> list[Observed]:
    return [row(f"d{n}", VmState.DELETING) for n in range(first, last)]


def test_deletes_that_wait_are_part_of_the_queue() -> None:
    """Before: a host with a hundred Deletes in its queue foretold a boot as if it were idle."""
    clock = Clock()
    inventory = HostInventory(clock)
    queue = inventory.boot_queue

    def lists_at(at_s: float, *rows: Observed) -> None:
        clock.at_s = at_s
        inventory.merge(list(rows), at_s)

    lists_at(1.0, row("a", VmState.PENDING))
    lists_at(1.5, row("a", VmState.CREATED))
    assert queue.boots.boot_s == 0.5
    lists_at(10.0, *deleting(0))
    assert queue.facts(None, 10.0).ahead_s == 0.0, "how long a Delete takes is not known yet"
    lists_at(12.0, *deleting(10))
    assert queue.facts(None, 12.0).ahead_s == pytest.approx(30 * 0.2)
    lists_at(14.0, *deleting(20), row("b", VmState.PENDING))
    assert queue.facts(None, 14.0).ahead_s == pytest.approx(20 * 0.2 + 0.5)
    lists_at(16.0, *deleting(30), row("b", VmState.PENDING))
    lists_at(18.0, row("b", VmState.PENDING))
    lists_at(18.5, row("b", VmState.CREATED))
    assert queue.boots.boot_s == pytest.approx(0.5), "the Deletes before it are no part of its boot"
    assert queue.facts(None, 18.5).ahead_s == 0.0


def test_a_removal_that_fails_waits_aside_too() -> None:
    inventory = HostInventory(Clock())
    inventory.merge([row("a", VmState.DELETING), row("b", VmState.DELETING, retry=1)], 1.0)
    assert inventory.boot_queue.deletes.waiting == 1
