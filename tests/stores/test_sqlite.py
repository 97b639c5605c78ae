"""What only a file can do to us: damage, strangers, rights, a second opener."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreCorrupt, StoreError
from billet.core.state import PutPlacement
from billet.ports import Store, Term
from billet.store.sqlite import SqliteStore
from tests.stores.backends import ME, SOON_S, contents, placement, written


async def failure_of(store: Store) -> StoreError:
    """What opening says: one line, without the words that mean a missing microVM."""
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    assert "\n" not in caught.value.text
    assert "not found" not in caught.value.text.lower()
    return caught.value


async def filled(path: Path, count: int = 2_000) -> None:
    store = SqliteStore(path)
    await store.open()
    term = await store.campaign(ME)
    await store.commit(term, [PutPlacement(placement(n)) for n in range(count)])
    await store.close()


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "billet.db"
    path.write_bytes(b"My shopping list: butter, bread, a rack of servers.\n" * 200)
    before = path.read_bytes()
    failure = await failure_of(SqliteStore(path))
    assert isinstance(failure, StoreCorrupt)
    assert f"{path} is not a Billet store" in failure.text
    assert path.read_bytes() == before


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "billet.db"
    await filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 4] + b"\xa5" * (len(whole) // 2) + whole[len(whole) * 3 // 4 :])
    failure = await failure_of(SqliteStore(path))
    assert isinstance(failure, StoreCorrupt)
    assert "restore a backup" in failure.text


async def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "billet.db"
    await filled(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert isinstance(await failure_of(SqliteStore(path)), StoreCorrupt)


async def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "billet.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()
    before = path.read_bytes()
    assert "another program" in (await failure_of(SqliteStore(path))).text
    assert path.read_bytes() == before


async def test_a_file_of_a_newer_billet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "billet.db"
    await filled(path, 1)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "upgrade" in (await failure_of(SqliteStore(path))).text


async def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    assert "is not a folder: create it" in (await failure_of(SqliteStore(tmp_path / "nowhere" / "billet.db"))).text


async def test_a_folder_without_the_right_to_write_is_said(tmp_path: Path) -> None:
    folder = Path("/proc/self")  # where root may not write either
    if os.geteuid():
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    assert "cannot be written to" in (await failure_of(SqliteStore(folder / "billet.db"))).text


async def test_a_path_that_is_a_folder_is_said(tmp_path: Path) -> None:
    assert str(tmp_path) in (await failure_of(SqliteStore(tmp_path))).text


class Connection(sqlite3.Connection):
    """A connection whose next COMMIT fails with `code`, after or before the disk has it."""

    code = 0
    got_through = False
    after_commit: Callable[[], None] | None = None

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.code:
            super().execute("COMMIT" if self.got_through else "ROLLBACK")
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode, self.code = self.code, 0
            raise error
        cursor = super().execute(sql, *args)
        if sql == "COMMIT" and self.after_commit:
            self.after_commit()
        return cursor


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Connection]:
    """The connections that stores have opened since."""
    opened: list[Connection] = []
    connect = sqlite3.connect

    def kept(*args: Any, **kwargs: Any) -> Connection:
        opened.append(connect(*args, factory=Connection, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", kept)
    return opened


async def leading(folder: Path) -> tuple[SqliteStore, Term]:
    store = SqliteStore(folder / "billet.db")
    await store.open()
    return store, await store.campaign(ME)


async def test_a_full_disk_fails_the_commit_and_keeps_what_was_there(
    tmp_path: Path, connections: list[Connection]
) -> None:
    store, term = await leading(tmp_path)
    await store.commit(term, [PutPlacement(placement(0))])
    db = connections[0]
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        await store.commit(term, [PutPlacement(placement(n)) for n in range(1, 2_000)])
    db.execute("PRAGMA max_page_count = 100000")
    await store.commit(term, [PutPlacement(placement(1))])
    assert contents(await store.load()) == written(PutPlacement(placement(0)), PutPlacement(placement(1)))
    await store.close()


@pytest.mark.parametrize("got_through", [True, False])
async def test_a_disk_that_fails_in_the_commit_itself_leaves_the_outcome_unknown(
    tmp_path: Path, connections: list[Connection], got_through: bool
) -> None:
    store, term = await leading(tmp_path)
    db = connections[0]
    db.code, db.got_through = sqlite3.SQLITE_IOERR_FSYNC, got_through
    with pytest.raises(CommitOutcomeUnknown, match="check the disk"):
        await store.commit(term, [PutPlacement(placement(0))])
    await store.commit(term, [PutPlacement(placement(1))])
    numbers = (0, 1) if got_through else (1,)
    assert contents(await store.load()) == written(*(PutPlacement(placement(n)) for n in numbers))
    await store.close()


async def test_a_commit_that_finds_the_file_busy_was_not_written(
    tmp_path: Path, connections: list[Connection]
) -> None:
    store, term = await leading(tmp_path)
    connections[0].code = sqlite3.SQLITE_BUSY
    with pytest.raises(StoreError) as caught:
        await store.commit(term, [PutPlacement(placement(0))])
    assert not isinstance(caught.value, CommitOutcomeUnknown)
    await store.close()


@pytest.mark.parametrize("attempt", range(5))
async def test_a_new_file_may_be_opened_by_several_at_once(tmp_path: Path, attempt: int) -> None:
    stores = [SqliteStore(tmp_path / "billet.db") for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].commit(await stores[0].campaign(ME), [PutPlacement(placement(0))])
    for store in stores:
        assert contents(await store.load()) == written(PutPlacement(placement(0)))
        await store.close()


async def test_a_copy_taken_while_it_is_open_holds_what_was_acknowledged(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    term = await store.campaign(ME)
    await store.commit(term, [PutPlacement(placement(0))])
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda folder, names: {"copy"} & set(names))
    copy = SqliteStore(tmp_path / "copy" / "billet.db")
    await copy.open()
    assert contents(await copy.load()) == written(PutPlacement(placement(0)))
    assert await copy.leader() is None, "its lock was not copied"
    await copy.close()
    await store.close()


async def deleted(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()


async def replaced(path: Path) -> None:
    """As `cp -p` from a backup or `rsync` do: a new file is renamed to the old one's name."""
    await filled(path.with_name("other.db"), 1)
    path.with_name("other.db").rename(path)


async def journal_deleted(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


async def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir()


LOSSES = [deleted, replaced, journal_deleted, folder_moved]


@pytest.mark.parametrize("lose", LOSSES)
async def test_promise_4_nothing_is_acknowledged_into_a_file_that_is_gone(tmp_path: Path, lose: Any) -> None:
    """Broken on purpose (commits do not look at the path): all goes on, and a restart has lost every one of them."""
    (tmp_path / "data").mkdir()
    store, term = await leading(tmp_path / "data")
    await store.commit(term, [PutPlacement(placement(0))])
    await lose(store.path)
    with pytest.raises(StaleTerm, match=r"was deleted or replaced while it was in use: stop this server"):
        await store.commit(term, [PutPlacement(placement(1))])
    await asyncio.wait_for(store.ended(term), SOON_S)
    await store.resign(term)
    with pytest.raises(StoreError, match=r"move .*billet\.db\.saved, which has the content"):
        await asyncio.wait_for(store.campaign(ME), SOON_S)
    await store.close()
    saved = SqliteStore(tmp_path / "data" / "billet.db.saved")
    await saved.open()
    assert contents(await saved.load()) == written(PutPlacement(placement(0)))
    await saved.close()


def checkpoint(path: Path) -> None:
    """Move the journal's content into the file, as tools for backups do."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def overwritten(path: Path) -> None:
    """As `cp` from a backup does: the file stays, with other content."""
    checkpoint(path)
    await filled(path.with_name("other.db"), 1)
    shutil.copyfile(path.with_name("other.db"), path)


async def cut(path: Path) -> None:
    checkpoint(path)
    os.truncate(path, 0)


async def journal_cut(path: Path) -> None:
    os.truncate(path.with_name(f"{path.name}-wal"), 0)


@pytest.mark.parametrize("lose", [overwritten, cut, journal_cut])
async def test_promise_4_nothing_is_acknowledged_into_a_file_that_was_overwritten(tmp_path: Path, lose: Any) -> None:
    """Broken on purpose (only the inode is looked at): commits go on, and the next start finds a damaged file."""
    store, term = await leading(tmp_path)
    await store.commit(term, [PutPlacement(placement(n)) for n in range(100)])
    ended = asyncio.create_task(store.ended(term))
    await lose(store.path)
    with pytest.raises(
        StaleTerm, match="deleted or replaced while it was in use: stop this server, restore a backup"
    ):
        await store.commit(term, [PutPlacement(placement(1))])
    await asyncio.wait_for(ended, SOON_S)
    await store.close()


async def test_another_program_that_writes_no_record_is_no_loss(tmp_path: Path) -> None:
    store, term = await leading(tmp_path)
    for n in range(3):
        await store.commit(term, [PutPlacement(placement(n))])
        checkpoint(store.path)
    assert len((await store.load()).changes) == 3
    await store.close()


async def test_files_that_vanish_during_a_commit_leave_its_outcome_unknown(
    tmp_path: Path, connections: list[Connection]
) -> None:
    store, term = await leading(tmp_path)
    connections[0].after_commit = lambda: store.path.unlink()
    with pytest.raises(CommitOutcomeUnknown, match="deleted or replaced"):
        await store.commit(term, [PutPlacement(placement(0))])
    await store.close()


async def test_a_leader_without_commits_notices_that_its_file_is_gone(tmp_path: Path) -> None:
    store, term = await leading(tmp_path)
    ended = asyncio.create_task(store.ended(term))
    store.path.unlink()
    await asyncio.wait_for(ended, SOON_S)
    await store.close()


async def test_another_program_that_opens_and_closes_the_file_is_no_loss(tmp_path: Path) -> None:
    store, term = await leading(tmp_path)
    for n in range(3):
        other = SqliteStore(store.path)
        await other.open()
        await other.load()
        await other.close()
        await store.commit(term, [PutPlacement(placement(n))])
    await store.close()
