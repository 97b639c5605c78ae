"""The ledger and the store change together: room is taken early, given back late, and only by the one who leads."""

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


async def test_a_claim_that_was_surely_not_written_gives_its_room_back(
    leading: tuple[SqliteStore, Ledger], tmp_path: Path
) -> None:
    """Another program holds the database; SQLite gives up, having written nothing."""
    _, ledger = leading
    other = sqlite3.connect(tmp_path / "billet.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError):
        await ledger.claim([PutPlacement(PLACEMENT)])
    assert ledger.state.room("h1") == ROOM
    other.execute("ROLLBACK")
    other.close()
    assert not ledger.over.is_set(), "the reign goes on"
    await ledger.claim([PutPlacement(PLACEMENT)])
    assert ledger.state.room("h1").vcpu == 6


async def test_a_failed_claim_on_a_known_placement_restores_what_was_known(
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


async def test_promise_3_a_deposed_leader_writes_nothing_and_throws_its_state_away(tmp_path: Path) -> None:
    """It still believes in itself; the store refuses its term, and from then on the ledger refuses everything."""
    path = tmp_path / "billet.db"
    old_store, old = await lead(path, "old")
    await old_store.resign(old.term)  # as when its lease ran out without its knowing
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


async def test_what_is_committed_is_what_a_new_leader_loads(tmp_path: Path) -> None:
    store, ledger = await lead(tmp_path / "billet.db")
    await ledger.finish([PutHost(Host("h1", ROOM, ROOM, zone="z", labels={"a": "b"}))])
    await ledger.claim([PutPlacement(PLACEMENT)])
    await store.close()
    store, again = await lead(tmp_path / "billet.db")
    assert (again.state.hosts, again.state.placements) == (ledger.state.hosts, ledger.state.placements)
    assert again.state.taken == ledger.state.taken
    await store.close()


async def test_holding_a_placement_stirs_the_reconciler_when_it_is_let_go() -> None:
    store = SqliteStore("unused.db")
    ledger = Ledger(State(), store, None)  # type: ignore[arg-type]
    with ledger.hold("p1"):
        assert set(ledger.in_hand) == {"p1"}
        assert not ledger.stir.is_set()
    assert not ledger.in_hand
    assert ledger.stir.is_set()


class SlowStore:
    """A store whose answers the test gives, one for each commit. No real one can be made to refuse just the first."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[int]] = []

    async def commit(self, term: Term, changes: Sequence[Change]) -> int:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


async def test_promise_2_a_refused_claim_takes_nothing_back_that_another_has_built_on() -> None:
    """An adoption is refused while the Delete of the same microVM is being written: its room stays taken."""
    store = SlowStore()
    ledger = Ledger(State(), store, Term(1, Leader("a", "", "")))  # type: ignore[arg-type]  # nothing else is asked
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


async def test_promise_3_a_leader_that_cannot_read_the_store_makes_way_for_another(tmp_path: Path) -> None:
    """Else everybody would wait behind a term that nobody serves, its lease renewed for ever."""
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
