"""The ledger changes with the store: room is taken before the commit, given back after it, by the leader only."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from billet.core.errors import StaleTerm, StoreError
from billet.core.model import Host, Placement, PlacementState, Resources
from billet.core.state import Change, DropPlacement, PutHost, PutPlacement, State, check, load
from billet.leader.ledger import Ledger, elected
from billet.ports import Leader, Term
from billet.store.sqlite import SqliteStore

ROOM = Resources(8, 8192, 1000, 10)
PLACEMENT = Placement("p1", "ns", "vm", Resources(2, 2048, 0, 1), "h1", PlacementState.RESERVED)


async def lead(path: Path, name: str = "a") -> tuple[SqliteStore, Ledger]:
    store = SqliteStore(path)
    await store.open()
    term = await store.campaign(Leader(name, "", ""))
    snapshot = await store.load()
    return store, Ledger(load(snapshot.changes), store, term)


@pytest.fixture
async def leading(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, Ledger]]:
    store, ledger = await lead(tmp_path / "billet.db")
    await ledger.finish([PutHost(Host("h1", ROOM, ROOM))])
    yield store, ledger
    await store.close()


async def test_promise_2_room_is_taken_before_the_commit(leading: tuple[SqliteStore, Ledger]) -> None:
    """Broken on purpose (apply after the commit): two auctions that run at once both see the room."""
    _, ledger = leading
    claiming = asyncio.create_task(ledger.claim([PutPlacement(PLACEMENT)]))
    await asyncio.sleep(0)  # the commit has begun and cannot be done yet
    assert not claiming.done()
    assert ledger.state.room("h1").vcpu == 6
    await claiming
    assert ledger.state.room("h1").vcpu == 6


async def test_promise_2_room_comes_back_only_after_the_commit(leading: tuple[SqliteStore, Ledger]) -> None:
    _, ledger = leading
    await ledger.claim([PutPlacement(PLACEMENT)])
    releasing = asyncio.create_task(ledger.finish([DropPlacement("p1")]))
    await asyncio.sleep(0)
    assert not releasing.done()
    assert ledger.state.room("h1").vcpu == 6
    await releasing
    assert ledger.state.room("h1").vcpu == 8


async def test_a_claim_that_was_not_written_gives_its_room_back(
    leading: tuple[SqliteStore, Ledger], tmp_path: Path
) -> None:
    """Another process locks the database, so SQLite fails without writing."""
    _, ledger = leading
    other = sqlite3.connect(tmp_path / "billet.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError):
        await ledger.claim([PutPlacement(PLACEMENT)])
    assert ledger.state.room("h1") == ROOM
    other.execute("ROLLBACK")
    other.close()
    assert not ledger.over.is_set(), "the term goes on"
    await ledger.claim([PutPlacement(PLACEMENT)])
    assert ledger.state.room("h1").vcpu == 6


async def test_a_failed_claim_restores_the_earlier_placement(
    leading: tuple[SqliteStore, Ledger], tmp_path: Path
) -> None:
    _, ledger = leading
    lost = replace(PLACEMENT, state=PlacementState.LOST, uid="U1")
    await ledger.finish([PutPlacement(lost)])
    other = sqlite3.connect(tmp_path / "billet.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError):
        await ledger.claim([PutPlacement(replace(lost, state=PlacementState.STARTED))])
    other.close()
    assert ledger.state.placements["p1"] == lost
    check(ledger.state)


async def test_promise_3_a_deposed_leader_writes_nothing_and_its_term_is_over(tmp_path: Path) -> None:
    """It does not know yet that it is deposed. The store refuses its term; then the ledger refuses every change."""
    path = tmp_path / "billet.db"
    old_store, old = await lead(path, "old")
    await old_store.resign(old.term)  # as if its lease had expired unnoticed
    new_store, new = await lead(path, "new")
    assert new.term.number > old.term.number
    with pytest.raises(StaleTerm):
        await old.claim([PutPlacement(PLACEMENT)])
    assert old.over.is_set()
    with pytest.raises(StaleTerm):
        await old.finish([DropPlacement("p1")])
    assert load((await new_store.load()).changes).placements == {}
    await old_store.close()
    await new_store.close()


async def test_a_new_leader_loads_what_was_committed(tmp_path: Path) -> None:
    store, ledger = await lead(tmp_path / "billet.db")
    await ledger.finish([PutHost(Host("h1", ROOM, ROOM, zone="z", labels={"a": "b"}))])
    await ledger.claim([PutPlacement(PLACEMENT)])
    await store.close()
    store, again = await lead(tmp_path / "billet.db")
    assert (again.state.hosts, again.state.placements) == (ledger.state.hosts, ledger.state.placements)
    assert again.state.taken == ledger.state.taken
    await store.close()


async def test_the_reconciler_wakes_when_work_on_a_placement_ends() -> None:
    store = SqliteStore("unused.db")
    ledger = Ledger(State(), store, None)  # type: ignore[arg-type]
    async with ledger.hold("p1"):
        assert set(ledger.in_hand) == {"p1"}
        assert not ledger.wake.is_set()
    assert not ledger.in_hand
    assert ledger.wake.is_set()


class SlowStore:
    """A store whose answers the test gives, one per commit: no real store can be made to refuse only the first."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[int]] = []

    async def commit(self, term: Term, changes: Sequence[Change], within_s: float = 0.0) -> int:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


async def test_promise_2_a_refused_claim_does_not_undo_a_later_change() -> None:
    """An adoption is refused while a delete of the same microVM is being written: its room stays taken."""
    store = SlowStore()
    ledger = Ledger(State(), store, Term(1, Leader("a", "", "")))  # type: ignore[arg-type]  # only commit() is called
    started = replace(PLACEMENT, state=PlacementState.STARTED, uid="U1", adopted=True)
    adopting = asyncio.create_task(ledger.claim([PutPlacement(started)]))
    await asyncio.sleep(0)
    releasing = replace(started, state=PlacementState.RELEASING)
    deleting = asyncio.create_task(ledger.claim([PutPlacement(releasing)]))
    await asyncio.sleep(0)
    store.answers[0].set_exception(StoreError("out of space"))
    with pytest.raises(StoreError):
        await adopting
    assert ledger.state.placements["p1"] == releasing
    store.answers[1].set_result(2)
    await deleting
    assert ledger.state.placements["p1"] == releasing
    check(ledger.state)


async def test_promise_3_a_leader_that_cannot_load_the_store_resigns(tmp_path: Path) -> None:
    """Otherwise its lease would be renewed for ever, and no server would serve."""
    first, second = SqliteStore(tmp_path / "billet.db"), SqliteStore(tmp_path / "billet.db")
    await first.open()
    await second.open()

    async def broken() -> None:
        raise StoreError("it does not answer")

    first.load = broken  # type: ignore[assignment]
    with pytest.raises(StoreError, match="does not answer"):
        await elected(first, Leader("a", "", ""), 0)
    async with asyncio.timeout(30):
        ledger = await elected(second, Leader("b", "", ""), 0)
    assert ledger.term.leader.id == "b"
    await second.close()
    await first.close()
