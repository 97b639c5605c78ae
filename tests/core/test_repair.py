"""Repair: the ledger follows what the hosts list (promise 6). Each case: before, listed, after."""

from dataclasses import replace

import pytest

from billet.core.model import Host, Observed, Placement, PlacementState, Resources, VmState
from billet.core.reconcile import expired, repair, to_delete
from billet.core.state import DropPlacement, PutHost, PutPlacement, State, apply

SHAPE = Resources(2, 2048, 0, 1)
RESERVED, STARTED, RELEASING, LOST, GONE, FENCED = PlacementState
PROMISED = Placement("tok", "ns", "vm", SHAPE, "h1", RESERVED)
SHOWN = Observed("U1", "ns", "vm", SHAPE, VmState.PENDING, token="tok")


def after(placement, shown, uids=("U1",), in_hand=()):
    """The placement that repair leaves, "gone" when it drops it, None when it does nothing."""
    state = State()
    if placement:
        apply(state, PutPlacement(placement))
    rows = {row.uid: row for row in shown}
    changes = repair(state, "h1", rows, uids, in_hand, now_s=100.0)
    if not changes:
        return None
    (change,) = changes
    return "gone" if isinstance(change, DropPlacement) else change.placement


def test_a_microvm_that_billet_did_not_place_is_adopted_and_counted():
    adopted = after(None, [SHOWN._replace(token="")])
    assert (adopted.id, adopted.uid, adopted.state, adopted.adopted) == ("U1", "U1", STARTED, True)
    assert adopted.demand == SHAPE


def test_a_reservation_is_settled_by_its_token():
    settled = after(PROMISED, [SHOWN])
    assert (settled.id, settled.uid, settled.state) == ("tok", "U1", STARTED)


def test_what_is_in_hand_is_left_alone():
    assert after(PROMISED, [SHOWN], in_hand={"tok"}) is None


def test_a_started_microvm_that_is_gone_is_lost():
    assert after(replace(PROMISED, state=STARTED, uid="U1"), []).state is LOST


def test_a_lost_microvm_that_is_back_counts_again():
    assert after(replace(PROMISED, state=LOST, uid="U1"), [SHOWN]).state is STARTED


def test_a_delete_is_complete_when_the_host_no_longer_shows_the_microvm():
    """Its token is kept for a while, because a server may send its create again; an adopted one had no create."""
    assert after(replace(PROMISED, state=RELEASING, uid="U1"), []).state is GONE
    assert after(replace(PROMISED, state=RELEASING, uid="U1", adopted=True), []) == "gone"


def test_a_delete_made_on_the_host_itself_is_seen():
    assert (
        after(replace(PROMISED, state=STARTED, uid="U1"), [SHOWN._replace(state=VmState.DELETING)]).state is RELEASING
    )


def test_an_acknowledged_delete_is_not_taken_back_by_an_older_look():
    assert after(replace(PROMISED, state=RELEASING, uid="U1"), [SHOWN]) is None


def test_another_shape_on_the_host_is_the_truth():
    bigger = SHOWN._replace(demand=Resources(4, 4096, 0, 1))
    assert after(replace(PROMISED, state=STARTED, uid="U1"), [bigger]).demand == bigger.demand


def test_the_same_token_on_a_second_host_takes_no_placement_away():
    elsewhere = replace(PROMISED, host="h2", state=STARTED, uid="U0")
    adopted = after(elsewhere, [SHOWN])
    assert (adopted.id, adopted.host, adopted.uid) == ("U1", "h1", "U1")


@pytest.mark.parametrize(("age_s", "dropped"), [(59.0, False), (60.0, True)])
def test_a_reservation_that_came_to_nothing_expires(age_s, dropped):
    state = State()
    apply(state, PutPlacement(replace(PROMISED, changed_at_s=1000.0)))
    changes = expired(state, "h1", {}, [], [], {"tok": age_s}, 1000.0, resolve_after_s=60.0, keep_lost_s=1e9)
    assert changes == ([DropPlacement("tok")] if dropped else [])


def test_a_reservation_does_not_expire_while_its_host_is_still_creating():
    state = State()
    apply(state, PutPlacement(PROMISED))
    assert expired(state, "h1", {}, ["tok"], [], {"tok": 1e9}, 1000.0, resolve_after_s=60.0, keep_lost_s=1e9) == []


def holding(*placements):
    state = State()
    apply(state, PutHost(Host("h1", Resources(64, 65536, 0, 100), Resources(64, 65536, 0, 100))))
    for placement in placements:
        apply(state, PutPlacement(placement))
    return state


def repaired(state, *shown):
    """The state after one look at what the host lists."""
    rows = {row.uid: row for row in shown}
    for change in repair(state, "h1", rows, sorted(rows), (), 100.0):
        apply(state, change)
    return rows


def test_a_second_microvm_with_the_same_token_is_a_microvm_of_its_own():
    """Broken on purpose (a token answers for any microVM): the placement changes its uid at every look."""
    state = holding(replace(PROMISED, state=STARTED, uid="U1"))
    for _ in range(3):
        repaired(state, SHOWN, SHOWN._replace(uid="U2"))
        assert state.by_uid == {"U1": "tok", "U2": "U2"}
        assert state.taken["h1"].vms == 2


@pytest.mark.parametrize("ended", [GONE, RELEASING, FENCED])
def test_a_copied_token_puts_no_strangers_microvm_on_the_delete_list(ended):
    """Broken on purpose (looked up by token): a microVM that was made from a copied spec is deleted."""
    state = holding(replace(PROMISED, id="req-x", state=ended, uid="U1"))
    rows = repaired(state, Observed("U2", "other", "copy", SHAPE, VmState.CREATED, "req-x"))
    assert to_delete(state, "h1", rows, ["U2"], ()) == []
    assert state.of_uid("U2").adopted


@pytest.mark.parametrize(
    ("row", "is_it"), [(SHOWN, True), (SHOWN._replace(namespace="other"), False), (SHOWN._replace(name="x"), False)]
)
def test_a_token_finds_the_reservation_of_the_same_name_only(row, is_it):
    state = holding(PROMISED)
    repaired(state, row)
    assert state.of_uid("U1").id == ("tok" if is_it else "U1")


def test_a_microvm_that_billet_did_not_place_answers_no_request_id():
    """Broken on purpose (adopted under its token): a host that announces a request id answers its client's create."""
    assert after(None, [SHOWN._replace(token="req-abc")]).id == "U1"


@pytest.mark.parametrize("uid", ["tok", "req-abc"])
def test_a_uid_that_is_the_id_of_a_placement_takes_nothing_over(uid):
    """Broken on purpose (adopted under any uid): a host that shows a token as its uid has the placement, or the
    request id of a create to come."""
    state = holding(replace(PROMISED, host="h2", state=STARTED, uid="U0"))
    repaired(state, SHOWN._replace(uid=uid, token=""))
    assert state.by_uid == {"U0": "tok"}
    assert state.placements["tok"].host == "h2"


@pytest.mark.parametrize("ended", [RELEASING, GONE])
def test_a_renamed_host_does_not_take_an_acknowledged_delete_back(ended):
    """Broken on purpose (STARTED on the new name): a microVM whose Delete was acknowledged lives on."""
    state = holding(replace(PROMISED, host="h2", state=ended, uid="U1"))
    rows = repaired(state, SHOWN)
    assert (state.of_uid("U1").state, state.of_uid("U1").host) == (RELEASING, "h1")
    assert to_delete(state, "h1", rows, ["U1"], ()) == ["U1"]


def test_a_copy_with_its_token_does_not_keep_a_reservation():
    """Broken on purpose (any microVM with the token): the room of a create that failed is never given back."""
    state = holding(PROMISED)
    rows = {"U2": SHOWN._replace(uid="U2", name="copy")}
    changes = expired(state, "h1", rows, [], [], {"tok": 60.0}, 1000.0, resolve_after_s=60.0, keep_lost_s=1e9)
    assert changes == [DropPlacement("tok")]
