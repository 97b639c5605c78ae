"""Which change of the state is which event, and which events a caller wants."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.events import (
    Event,
    EventType,
    Wanted,
    drained,
    known,
    of_change,
    refused,
    unknown_types,
)
from billet.core.model import Host, Placement, PlacementState, Reason, Resources
from billet.core.state import DropHost, DropPlacement, PutHost, PutPlacement, State, apply, load
from billet.wire.events import decode_event, encode_event

ROOM, SHAPE = Resources(8, 8192, 0, 9), Resources(1, 1024, 0, 1)
RESERVED, STARTED, RELEASING, LOST, GONE, FENCED = PlacementState
HOST = Host("h1", ROOM, ROOM)
# What becomes of a placement in one step, and the event. Any other step is none.
STEPS = {
    (RESERVED, STARTED): "microvm-placed",
    (None, STARTED): "microvm-placed",
    (LOST, STARTED): "microvm-found",
    (RELEASING, GONE): "microvm-deleted",
    (RELEASING, None): "microvm-deleted",
    **{(was, LOST): "microvm-lost" for was in (None, RESERVED, STARTED, RELEASING, GONE, FENCED)},
    **{(was, FENCED): "microvm-fenced" for was in (None, RESERVED, STARTED, RELEASING, GONE, LOST)},
}


def placement(state: PlacementState, **more: object) -> Placement:
    return replace(Placement("a1", "ns", "vm", SHAPE, "h1", state, uid="u1"), **more)  # type: ignore[arg-type]


def event_of(state: State, change: PutHost | DropHost | PutPlacement | DropPlacement) -> str:
    before = known(state, change)
    apply(state, change)
    event = of_change(before, change, 5.0)
    return event.type if event else ""


@pytest.mark.parametrize("was", [None, *PlacementState])
@pytest.mark.parametrize("now", [None, *PlacementState])
def test_each_step_of_a_placement_is_the_event_of_the_table(
    was: PlacementState | None, now: PlacementState | None
) -> None:
    """Broken on purpose (LOST to LOST is an event; a drop of a GONE placement is a delete): fails."""
    state = load([PutHost(HOST), *([PutPlacement(placement(was))] if was else [])])
    found = event_of(state, PutPlacement(placement(now)) if now else DropPlacement("a1"))
    assert found == STEPS.get((was, now), "")


def test_a_host_comes_is_changed_and_goes() -> None:
    state = State()
    assert event_of(state, PutHost(HOST)) == "host-joined"
    assert event_of(state, PutHost(replace(HOST, labels={"a": "b"}))) == ""
    assert event_of(state, PutHost(replace(HOST, cordoned=True))) == "host-cordoned"
    assert event_of(state, PutHost(HOST)) == "host-uncordoned"
    assert event_of(state, PutHost(replace(HOST, fenced=True))) == "host-fenced"
    assert event_of(state, PutHost(HOST)) == "host-clean"
    assert event_of(state, PutPlacement(placement(STARTED, adopted=True))) == "microvm-adopted"
    assert event_of(state, DropHost("h1")) == "host-removed"


def test_a_cordoned_host_is_drained_when_its_last_microvm_has_gone() -> None:
    """Broken on purpose (a host that is not cordoned; one with a microVM left): fails."""
    first, second = placement(RELEASING), placement(STARTED, id="a2", uid="u2")
    state = load([PutHost(HOST), PutPlacement(first), PutPlacement(second)])

    def end(one: Placement) -> Event | None:
        apply(state, DropPlacement(one.id))
        return drained(state, one, 5.0)

    apply(state, DropPlacement(second.id))
    assert end(first) is None, "it is not cordoned"
    apply(state, PutPlacement(first))
    apply(state, PutPlacement(second))
    apply(state, PutHost(replace(HOST, cordoned=True)))
    assert end(first) is None, "there is another"
    assert end(placement(LOST)) is None, "it held no room"
    last = end(second)
    assert last
    assert (last.type, last.host) == ("host-drained", "h1")


def test_a_refusal_has_its_reasons_counted_and_a_quota_is_no_refusal() -> None:
    kind, text = refused("no host can take it", {Reason.NO_VCPU: 1, Reason.NO_MEMORY: 3})
    assert (kind, text) == ("microvm-refused", "3 hosts: not enough memory; 1 host: not enough vCPU")
    assert refused("namespace q is over its quota: 1 vCPU", {})[0] == "quota-hit"


def test_a_filter_matches_types_by_their_first_words_and_microvms_by_any_name() -> None:
    event = Event("microvm-failed", 5.0, "", "h1", "ns", "vm", "u1", "a1")
    for wanted in (Wanted(), Wanted({"microvm"}), Wanted({"host", "microvm-failed"}), Wanted(host="h1"),
                   *(Wanted(microvm=name) for name in ("u1", "a1", "vm", "ns/vm"))):  # fmt: skip
        assert wanted.matches(event), wanted
    for other in (Wanted({"micro"}), Wanted({"host"}), Wanted(host="h2"), Wanted(microvm="vm2"),
                  Wanted({"microvm"}, "h2"), Wanted(microvm="ns")):  # fmt: skip
        assert not other.matches(event), other
    assert unknown_types(["microvm", "microvm-failed", "micro", "x"]) == ["micro", "x"]


texts = st.text(max_size=8)
event_types = st.sampled_from(list(EventType))
events = st.builds(
    Event, event_types.map(str), st.floats(0, 2e9), texts, texts, texts, texts, texts, texts,
    st.none() | st.floats(0, 1e6), st.integers(0, 16), st.none() | st.dictionaries(texts, st.integers(1, 9)), texts,
)  # fmt: skip


@given(events)
def test_an_event_is_stored_and_read(event: Event) -> None:
    """Broken on purpose (0 counts as empty): an `after_s` of 0 is lost."""
    assert decode_event(encode_event(event)) == event
