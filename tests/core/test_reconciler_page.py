"""docs/reconciler.md says each case and its outcome. Each row of its first table is set up, and done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from billet.core.model import REQUESTED, Observed, Placement, PlacementState, Resources, VmState
from billet.core.reconcile import KEEP_DELETED_S, expired, repair, to_delete
from billet.core.state import PutPlacement, State, apply, check

PAGE = Path(__file__).parents[2] / "docs" / "reconciler.md"
RESOLVE_AFTER_S, KEEP_LOST_S = 60.0, 86_400.0
NOW_S = 1e9
SHAPE = Resources(2, 2048, 0, 1)
LARGER = Resources(4, 4096, 0, 1)


@dataclass(frozen=True)
class Row:
    case: str
    before: str
    shown: str
    after: str
    sent: str


def rows() -> list[Row]:
    lines = PAGE.read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("| case | the ledger has |")) + 2
    end = next(n for n, line in enumerate(lines) if n > begin and not line.startswith("|"))
    return [Row(*(cell.strip() for cell in line.split("|")[1:-1])) for line in lines[begin:end]]


def placement_of(text: str) -> Placement | None:
    """ "FENCED, without uid, older" as a placement."""
    name, *more = text.split(", ")
    if name == "nothing":
        return None
    state = PlacementState(name)
    made = Placement(
        "req-1" if "requested" in more else "tok", "ns", "vm", SHAPE, "h1", state,
        uid="" if "without uid" in more or state is PlacementState.RESERVED else "U1",
        changed_at_s=NOW_S - KEEP_LOST_S + (1.0 if "younger" in more else 0.0),
    )  # fmt: skip
    assert set(more) <= {"without uid", "older", "younger", "in hand", "elsewhere", "requested", "adopted"}, text
    made = replace(made, adopted="adopted" in more)
    return replace(made, host="h2") if "elsewhere" in more else made


def shown_of(text: str) -> dict[str, Observed]:
    if text.startswith(("nothing", "its token among")):
        return {}
    uid = "U2" if text.startswith("another") else "U1"
    row = Observed(
        uid, "ns", "vm",
        LARGER if "larger" in text else SHAPE,
        VmState.DELETING if "DELETING" in text else VmState.CREATED,
        token="tok" if "token" in text else "",
    )  # fmt: skip
    return {uid: row}


def deleted_of(text: str) -> dict[str, Observed]:
    token = "tok" if "token" in text else ""
    return {"U1": Observed("U1", "ns", "vm", SHAPE, VmState.DELETING, token)} if "by order" in text else {}


def said(state: State) -> str:
    """The placements in the words of the page."""
    texts = []
    for placement in sorted(state.placements.values(), key=lambda p: p.uid):
        words = [placement.state.value]
        words += ["elsewhere"] if placement.host != "h1" else []
        words += ["adopted"] if placement.adopted else []
        words += ["requested"] if placement.id.startswith(REQUESTED) else []
        words += ["larger"] if placement.demand == LARGER else []
        texts.append(", ".join(words))
    return "; ".join(texts) or "nothing"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.case)
def test_a_case_of_the_page_comes_out_as_it_says(row: Row) -> None:
    state = State()
    placement = placement_of(row.before)
    if placement:
        apply(state, PutPlacement(placement))
    shown = shown_of(row.shown)
    deleted = deleted_of(row.shown)
    uids = sorted({*shown, *deleted, *([placement.uid] if placement and placement.uid else [])})
    in_hand = {"tok"} if "in hand" in row.before else set()
    limit_s = KEEP_DELETED_S if row.before.startswith("GONE") else RESOLVE_AFTER_S
    idle_s = {"tok": limit_s - (1.0 if "younger" in row.before else 0.0)}
    creating = {"tok"} if "among the creates" in row.shown else set()
    sent = []
    if "not in full" not in row.shown:  # the reconciler does not even ask before a host has told everything
        changes = repair(state, "h1", shown, uids, in_hand, NOW_S, deleted)
        changes += expired(state, "h1", shown, creating, in_hand, idle_s, NOW_S, RESOLVE_AFTER_S, KEEP_LOST_S)
        for change in changes:
            apply(state, change)
        sent = to_delete(state, "h1", shown, uids, in_hand)
        check(state)
    assert said(state) == row.after
    assert sent == (list(shown) if row.sent == "Delete" else [])
    if shown and "FENCED" in row.before and "elsewhere" not in row.before:
        assert state.of_uid(next(iter(shown))) is not None, "its uid is known, and so a Get says that it is gone"


def test_every_state_of_a_placement_is_on_the_page() -> None:
    assert {row.before.split(",")[0] for row in rows()} == {"nothing", *(state.value for state in PlacementState)}
