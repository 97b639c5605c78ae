"""Each checker on a small history that keeps its promise, and on changes that break it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.checkers import CHECKERS, check
from chaos.history import History, Kind, Look, Op, Promise, Room, Sample, Vm, World

KEPT = Vm("uid-1", "web", 2, 2048, "CREATED")
ROOM = Room(allocatable=(4, 8192), taken=(2, 2048))


def op(kind: Kind, at_s: float, code: str = "OK", **fields: object) -> Op:
    return Op(kind, "server-1", at_s, ended_s=at_s + 0.5, code=code, **fields)  # type: ignore[arg-type]


def scenario() -> tuple[History, World]:
    """One microVM was made, listed and looked at; another was made and deleted, and is gone."""
    history = History(
        [
            op(Kind.CREATE, 1.0, name="web", uid="uid-1"),
            op(Kind.CREATE, 1.0, name="old", uid="uid-0"),
            op(Kind.CREATE, 1.0, "UNAVAILABLE", name="nowhere", text="no server leads at the moment"),
            op(Kind.LIST, 2.0, listed=frozenset({"uid-0", "uid-1"})),
            op(Kind.DELETE, 3.0, uid="uid-0"),
            op(Kind.GET, 4.0, uid="uid-1"),
            op(Kind.GET, 5.0, "UNKNOWN", uid="uid-0", text="microvm uid-0 not found"),
            op(Kind.LIST, 6.0, listed=frozenset({"uid-1"})),
        ],
        [Sample(2.0, "host-1", [KEPT], 2.1), Sample(2.5, "host-1", [KEPT], 2.6)],
        [Look(2.0, [Promise("uid-1", "web", "host-1", "STARTED")])],
    )
    world = World(
        hosts={"host-1": [KEPT], "host-2": []},
        promises=[Promise("uid-1", "web", "host-1", "STARTED")],
        rooms={"host-1": ROOM, "host-2": replace(ROOM, taken=(0, 0))},
        listed=frozenset({"uid-1"}),
        got={"uid-1": op(Kind.GET, 9.0, uid="uid-1")},
    )
    return history, world


def broken(history: History, world: World) -> set[str]:
    return {name for name, violations in check(history, world).items() if violations}


def test_a_story_in_which_all_is_kept() -> None:
    assert broken(*scenario()) == set()
    assert len(CHECKERS) == len(check(*scenario()))


def test_an_acknowledged_microvm_that_is_on_no_host_is_lost() -> None:
    history, world = scenario()
    world.hosts = {"host-1": [], "host-2": []}
    assert broken(history, world) == {"nothing_acknowledged_is_lost", "ledger_and_hosts_agree"}


def test_an_acknowledged_microvm_that_is_not_listed_is_lost() -> None:
    history, world = scenario()
    world.listed = frozenset()
    assert broken(history, world) == {"nothing_acknowledged_is_lost"}


def test_an_acknowledged_microvm_that_does_not_answer_is_lost() -> None:
    history, world = scenario()
    world.got = {"uid-1": op(Kind.GET, 9.0, "UNAVAILABLE", uid="uid-1")}
    assert broken(history, world) == {"nothing_acknowledged_is_lost"}


def test_a_second_microvm_of_one_create_is_seen_even_if_it_goes_again() -> None:
    history, world = scenario()
    history.samples.append(Sample(3.0, "host-2", [replace(KEPT, uid="uid-2")]))
    assert broken(history, world) == {"nothing_is_made_twice"}


def test_a_microvm_that_is_not_the_one_that_was_acknowledged_was_made_twice() -> None:
    history, world = scenario()
    history.ops[1] = op(Kind.CREATE, 1.0, name="old", uid="uid-0")
    history.samples.append(Sample(3.0, "host-2", [Vm("uid-9", "old", 1, 1024, "CREATED")]))
    assert broken(history, world) == {"nothing_is_made_twice"}


def test_one_microvm_on_two_hosts() -> None:
    history, world = scenario()
    history.samples.append(Sample(3.0, "host-2", [KEPT]))
    assert broken(history, world) == {"nothing_is_made_twice"}


@pytest.mark.parametrize("big", [{"vcpu": 5}, {"memory_mib": 8193}])
def test_a_host_that_had_too_much_for_a_moment(big: dict[str, int]) -> None:
    history, world = scenario()
    history.samples.append(Sample(3.0, "host-1", [replace(KEPT, **big)]))  # type: ignore[arg-type]
    assert broken(history, world) == {"no_host_is_overcommitted"}


@pytest.mark.parametrize(
    "promises",
    [
        [],
        [Promise("uid-1", "web", "host-2", "STARTED")],
        [Promise("uid-1", "web", "host-1", "LOST")],
        [Promise("uid-1", "web", "host-1", "STARTED"), Promise("uid-7", "x", "host-1", "STARTED")],
        [Promise("uid-1", "web", "host-1", "STARTED"), Promise("", "x", "host-1", "RESERVED")],
    ],
)
def test_a_ledger_that_says_otherwise_than_the_hosts(promises: list[Promise]) -> None:
    history, world = scenario()
    world.promises = promises
    assert broken(history, world) - {"a_microvm_has_one_owner"} == {"ledger_and_hosts_agree"}


def test_a_ledger_that_counts_otherwise_than_the_hosts() -> None:
    history, world = scenario()
    world.rooms = {"host-1": ROOM, "host-2": ROOM}
    assert broken(history, world) == {"ledger_and_hosts_agree"}


@pytest.mark.parametrize(
    "lie",
    [
        op(Kind.GET, 4.0, "UNKNOWN", uid="uid-1", text="microvm uid-1 not found"),
        op(Kind.GET, 2.0, "NOT_FOUND", uid="uid-0", text="no such microVM"),  # its Delete is sent a second later
        op(Kind.CREATE, 4.0, "UNAVAILABLE", name="x", text="DNS: domain name not found"),
    ],
)
def test_not_found_for_what_is_there(lie: Op) -> None:
    history, world = scenario()
    history.ops.append(lie)
    assert "not_found_means_gone" in broken(history, world)


def test_a_deleted_microvm_that_stays() -> None:
    history, world = scenario()
    world.hosts = {"host-1": [KEPT], "host-2": [Vm("uid-0", "old", 0, 0, "CREATED")]}
    assert broken(history, world) == {"deleted_stays_deleted", "ledger_and_hosts_agree"}


@pytest.mark.parametrize(
    "sight", [op(Kind.GET, 7.0, uid="uid-0"), op(Kind.LIST, 7.0, listed=frozenset({"uid-0", "uid-1"}))]
)
def test_a_microvm_that_was_called_gone_and_is_seen_again(sight: Op) -> None:
    history, world = scenario()
    history.ops.append(sight)
    assert broken(history, world) == {"deleted_stays_deleted"}


def test_a_list_that_lacks_one() -> None:
    history, world = scenario()
    history.ops.append(op(Kind.LIST, 7.0))
    assert broken(history, world) == {"lists_are_whole"}


def test_an_old_list_may_lack_what_is_younger_and_no_more() -> None:
    history, world = scenario()
    history.ops.append(op(Kind.LIST, 7.0, stale_s=6.0))
    assert broken(history, world) == set()
    history.ops.append(op(Kind.LIST, 7.0, stale_s=5.0))
    assert broken(history, world) == {"lists_are_whole"}


def test_an_error_that_nobody_foresaw() -> None:
    history, world = scenario()
    history.ops.append(op(Kind.GET, 7.0, "INTERNAL", uid="uid-1", text="internal error"))
    assert broken(history, world) == {"errors_are_those_foreseen"}


def test_no_call_is_cancelled_but_by_its_client() -> None:
    """Not even while its server is being stopped."""
    history, world = scenario()
    history.ops.append(op(Kind.GET, 7.0, "CANCELLED", uid="uid-1", text="CANCELLED"))
    assert broken(history, world) == {"errors_are_those_foreseen"}


@pytest.mark.parametrize(("sent_s", "foreseen"), [(3.0, True), (12.0, False)])
def test_a_create_whose_microvm_was_deleted_before_its_answer(sent_s: float, foreseen: bool) -> None:
    history, world = scenario()
    told = "this request has created microVM uid-9 already, which is GONE now"
    history.ops.append(op(Kind.CREATE, 10.0, "FAILED_PRECONDITION", name="seen", text=told))
    history.ops.append(op(Kind.DELETE, sent_s, uid="uid-9"))
    assert broken(history, world) == (set() if foreseen else {"errors_are_those_foreseen"})


@pytest.mark.parametrize("trouble", [{"fallen": ["server-2"]}, {"unrest": "host-3 is AWAY"}])
def test_a_fleet_that_does_not_recover(trouble: dict[str, object]) -> None:
    history, world = scenario()
    for name, value in trouble.items():
        setattr(world, name, value)
    assert broken(history, world) == {"all_is_well_again"}


def test_a_microvm_that_changes_its_host() -> None:
    history, world = scenario()
    history.looks.append(Look(3.0, [Promise("uid-1", "web", "host-2", "STARTED")]))
    assert broken(history, world) == {"a_microvm_has_one_owner"}


def test_a_microvm_with_two_placements() -> None:
    history, world = scenario()
    history.looks.append(Look(3.0, 2 * [Promise("uid-1", "web", "host-1", "STARTED")]))
    assert broken(history, world) == {"a_microvm_has_one_owner"}


def test_a_microvm_that_leaves_its_host_though_no_client_deleted_it() -> None:
    history, world = scenario()
    history.samples.append(Sample(3.0, "host-1", [], 3.1))
    assert broken(history, world) == {"only_clients_delete"}


def test_a_microvm_that_leaves_its_host_after_its_delete_was_sent() -> None:
    history, world = scenario()
    old = Vm("uid-0", "old", 0, 0, "CREATED")
    history.samples += [Sample(2.7, "host-2", [old], 2.8), Sample(2.9, "host-2", [], 3.1)]
    assert broken(history, world) == set()


def test_a_microvm_on_a_machine_that_is_no_host() -> None:
    history, world = scenario()
    history.samples.append(Sample(3.0, "spare-1", [Vm("uid-2", "nowhere", 1, 1024, "CREATED")], 3.1))
    assert broken(history, world) == {"only_hosts_get_microvms"}


def test_a_placement_on_a_machine_that_is_no_host() -> None:
    history, world = scenario()
    history.looks.append(Look(3.0, [Promise("uid-2", "nowhere", "host-1-b", "STARTED")]))
    assert broken(history, world) == {"only_hosts_get_microvms"}


def test_a_copy_that_nobody_notices() -> None:
    history, world = scenario()
    world.unnoticed = ["a clone of host-1"]
    assert broken(history, world) == {"copies_are_noticed"}
