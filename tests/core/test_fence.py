"""Fencing: a dead host's placements are given up, and none of its microVMs survives the host's return."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.model import Host, Observed, Placement, PlacementState, Resources, VmState
from billet.core.reconcile import expired, is_clean, is_released, overdue, release, repair, to_delete
from billet.core.state import PutHost, PutPlacement, State, apply, check

ROOM = Resources(64, 65536, 1000, 100)
SHAPE = Resources(1, 1024, 0, 1)
NOW_S = 1000.0

placements = st.lists(
    st.tuples(
        st.sampled_from([state for state in PlacementState if state is not PlacementState.FENCED]),
        st.sampled_from(["dead", "other"]),
    ),
    max_size=8,
).map(
    lambda drawn: [
        Placement(f"p{n}", "ns", "vm", SHAPE, host, state, uid="" if state is PlacementState.RESERVED else f"U{n}")
        for n, (state, host) in enumerate(drawn)
    ]
)


def state_with(placed):
    state = State()
    for name in ("dead", "other"):
        apply(state, PutHost(Host(name, ROOM, ROOM)))
    for placement in placed:
        apply(state, PutPlacement(placement))
    return state


def fence(state, in_hand=()):
    for change in release(state, "dead", in_hand, NOW_S):
        apply(state, change)


@given(placements)
def test_a_fence_gives_all_the_room_of_its_host_back_and_no_other_hosts(placed):
    state = state_with(placed)
    others = state.taken.get("other")
    fence(state)
    check(state)
    assert is_released(state, "dead")
    assert state.room("dead") == ROOM
    assert state.taken.get("other") == others
    assert {p.id for p in state.placements.values()} == {p.id for p in placed}, "nothing is forgotten"


@given(placements, st.sets(st.integers(0, 7)))
def test_what_is_in_hand_is_released_only_once_it_is_not(placed, numbers):
    state, in_hand = state_with(placed), {f"p{n}" for n in numbers}
    fence(state, in_hand)
    for placement in placed:
        if placement.id in in_hand:
            assert state.placements[placement.id] == placement
    fence(state)
    assert is_released(state, "dead")


@given(placements, st.data())
def test_a_host_that_comes_back_is_clean_only_when_nothing_of_what_was_released_is_on_it(placed, data):
    """It comes back with some of its microVMs, those of reservations that nobody heard of among them, and with others
    that are its own. It deletes what it is told, one at a time; at any moment somebody may look."""
    state = state_with(placed)
    fence(state)
    released = {p.id for p in placed if p.host == "dead" and p.state is not PlacementState.GONE}
    shown = data.draw(st.sets(st.sampled_from(sorted(released)))) if released else set()
    rows = {
        f"U{name[1:]}": Observed(f"U{name[1:]}", "ns", "vm", SHAPE, VmState.CREATED, token=name) for name in shown
    }
    rows["MINE"] = Observed("MINE", "ns", "mine", SHAPE, VmState.CREATED)
    for _ in range(2 * len(rows) + 2):
        known = {p.uid for p in state.placements.values() if p.host == "dead" and p.uid}
        for change in [
            *repair(state, "dead", rows, sorted({*rows, *known}), (), NOW_S),
            *expired(state, "dead", rows, (), (), dict.fromkeys(state.placements, 60.0), NOW_S, 60.0, 1e9),
        ]:
            apply(state, change)
        check(state)
        assert is_clean(state, "dead") == (rows.keys() == {"MINE"}), "neither too early nor too late"
        doomed = to_delete(state, "dead", rows, sorted(rows), ())
        assert set(doomed) == rows.keys() - {"MINE"}
        if doomed:
            del rows[data.draw(st.sampled_from(doomed))]
    assert rows.keys() == {"MINE"}
    there = {p.uid for p in state.placements.values() if p.host == "dead" and p.state is not PlacementState.GONE}
    assert there == {"MINE"}


@pytest.mark.parametrize(
    ("away_s", "fenced"),
    [
        ({"a": 59.0}, []),
        ({"a": 60.0}, ["a"]),
        ({"a": 60.0, "b": 61.0}, ["a", "b"]),
        ({"a": 60.0, "b": 59.0}, ["a"]),
        ({"a": 60.0, "b": 60.0, "c": 1.0}, []),  # three of four: rather the leader is cut off
        ({}, []),
    ],
)
def test_a_host_is_fenced_by_itself_only_when_most_others_are_here(away_s, fenced):
    state = State()
    for name in "abcd":
        apply(state, PutHost(Host(name, ROOM, ROOM)))
    assert overdue(state, away_s, 60.0) == fenced


def test_a_host_is_fenced_again_only_when_there_is_something_to_release():
    state = state_with([])
    apply(state, PutHost(Host("dead", ROOM, ROOM, fenced=True)))
    assert overdue(state, {"dead": 99.0}, 60.0) == []
    left = Placement("p1", "ns", "vm", SHAPE, "dead", PlacementState.STARTED, uid="U1")
    apply(state, PutPlacement(left))
    assert overdue(state, {"dead": 99.0}, 60.0) == ["dead"]
    apply(state, PutPlacement(replace(left, state=PlacementState.FENCED)))
    assert overdue(state, {"dead": 99.0}, 60.0) == []
