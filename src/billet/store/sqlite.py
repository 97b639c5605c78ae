"""The embedded store for one server: SQLite with WAL and synchronous=FULL.

All IO happens in one thread, so the event loop never waits for the disk. A lock on a file beside the database makes
sure that only one server leads; the kernel releases it when the process ends, however it ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from billet.core.access import Credential
from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError
from billet.core.state import Change
from billet.ports import Leader, Snapshot, Term
from billet.store import sqlite_file
from billet.store.engine import Vitals
from billet.store.groupcommit import GroupCommit, Writes
from billet.store.records import CREDENTIALS, decode, read_credentials, read_leader
from billet.store_watch import Health, Member

LOOK_S = 1.0  # pause between looks whether the files are still in place; each commit looks as well
LOCK_POLL_S = 0.1  # pause between attempts to get the lock, and between looks at the leader

SURELY_UNDONE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}

T = TypeVar("T")


class SqliteStore:
    """ports.Store in one file, at `path`."""

    def __init__(self, path: str | Path, create: bool = True) -> None:
        """`create`: make a missing file."""
        self.path, self._create = Path(path), create
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._db: sqlite3.Connection | None = None
        self._inodes: sqlite_file.Inodes = ()
        self._stamps: sqlite_file.Stamps = ()  # of the files after this store has last written into them
        self._written: dict[str, int] | None = {}  # a hash of each record, as this leader has written or loaded it
        self._moved = ""  # what to do about the files, once another program has deleted, replaced or overwritten them
        self._lock: IO[str] | None = None
        self._term: Term | None = None
        self._over = asyncio.Event()
        self.group = GroupCommit(self._write)

    # Opening and closing.

    async def open(self) -> None:
        """See ports.Store."""
        await self._run(self._open)

    def _open(self) -> None:
        self._db = sqlite_file.connect(self.path, self._create)
        self._inodes = sqlite_file.inodes(self.path)

    async def close(self) -> None:
        """See ports.Store."""
        await self.group.close()
        try:
            if self._term:
                await self.resign(self._term)
        finally:
            with suppress(StoreError):  # already closed
                await self._run(self._close)
            self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._db:
            self._db.close()
            self._db = None

    # Election.

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        """See ports.Store. Waits while another process, or another store in this one, holds the lock."""
        try:
            lock = self._lock_path.open("w")
        except OSError as error:
            raise StoreError(
                f"{self._lock_path} cannot be written to ({error.strerror}): correct its permissions"
            ) from None
        try:
            while not _try_lock(lock):  # noqa: ASYNC110  # the kernel does not notify
                await asyncio.sleep(LOCK_POLL_S)
            number = await self._finish(self._run(self._begin_term, me, above))
        except BaseException:
            lock.close()
            raise
        self._lock, self._over = lock, asyncio.Event()
        self._term = Term(number, me)
        return self._term

    async def _finish(self, begun: Coroutine[Any, Any, int]) -> int:
        """Finish despite a cancellation: the thread would go on anyway, but without the lock."""
        work = asyncio.create_task(begun)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def _begin_term(self, me: Leader, above: int) -> int:
        self._check_in_place(StoreError)
        leader = msgspec.json.encode(me)
        with self._connection() as db:
            (number,) = db.execute(
                "UPDATE meta SET term = max(term, ?) + 1, leader = ? RETURNING term", (above, leader)
            ).fetchone()
        self._written = sqlite_file.fingerprints(self.path)
        self._stamps = sqlite_file.stamps(self.path)
        return int(number)

    async def resign(self, term: Term) -> None:
        """See ports.Store."""
        if self._term != term:
            return
        await self.group.close()
        self._term = None
        try:
            await self._run(self._end_term, term.number)
        finally:
            if self._lock:
                self._lock.close()
                self._lock = None
            self._over.set()

    def _end_term(self, number: int) -> None:
        if self._moved:
            return  # the files are not what was written
        with self._connection() as db:
            db.execute("UPDATE meta SET leader = NULL WHERE term = ?", (number,))

    async def ended(self, term: Term) -> None:
        """See ports.Store. The lock lasts as long as the process; only `resign` or losing the files ends a term."""
        while self._term == term and not self._over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._over.wait()
            try:
                await self._run(self._check_content, StaleTerm)
            except StoreError:
                return

    async def leader(self) -> Leader | None:
        """See ports.Store. A stored leader without a lock was killed."""
        value = await self._run(lambda: self._connection().execute("SELECT leader FROM meta").fetchone()[0])
        return read_leader(value) if value and (self._lock or self._is_locked()) else None

    async def leaders(self) -> AsyncIterator[Leader | None]:
        """See ports.Store. Polls, because SQLite does not report changes by other processes."""
        last, first = None, True
        while True:
            try:
                now = await self.leader()
            except StoreError:
                self._connection()
                now = None
            if now != last or first:
                last, first = now, False
                yield now
            await asyncio.sleep(LOCK_POLL_S)

    async def depose(self, leader: Leader) -> None:
        """See ports.Store. Nothing to do: the kernel has released a dead leader's lock."""

    def _is_locked(self) -> bool:
        try:
            with self._lock_path.open() as lock:
                return not _try_lock(lock, fcntl.LOCK_SH)
        except OSError:
            return False

    async def contested(self, term: Term) -> bool:
        """See ports.Store. Never: a file is for one server."""
        return False

    # Reading and writing.

    async def load(self) -> Snapshot:
        """See ports.Store."""
        revision, records = await self.records()
        return Snapshot(revision, [decode(key, value) for key, value in records.items()])

    async def credentials(self) -> list[Credential]:
        """See ports.Store."""
        return read_credentials(await self._run(self._read_credentials))

    def _read_credentials(self) -> dict[str, bytes]:
        query = "SELECT key, value FROM records WHERE key BETWEEN ? AND ?"
        return dict(self._connection().execute(query, (CREDENTIALS, CREDENTIALS + "~")).fetchall())

    async def records(self) -> tuple[int, dict[str, bytes]]:
        """See engine.Engine."""
        return await self._run(self._records)

    def _records(self) -> tuple[int, dict[str, bytes]]:
        with self._connection() as db:
            db.execute("BEGIN")
            revision = db.execute("SELECT revision FROM meta").fetchone()[0]
            rows = db.execute("SELECT key, value FROM records").fetchall()
            db.execute("COMMIT")
        return revision, dict(rows)

    async def vitals(self) -> Vitals:
        """See engine.Engine."""
        return await self._run(self._vitals)

    async def health(self) -> Health:
        """See engine.Engine."""
        try:
            leader, vitals = await self.leader(), await self.vitals()
            await self._run(self._check_in_place, StoreError)
        except StoreError as error:
            return Health(error.text, (Member(str(self.path), False),))
        version = vitals.engine.removeprefix("SQLite ")
        member = Member(str(self.path), True, True, version, vitals.size_bytes, vitals.used_bytes)
        return Health("", (member,), (leader,) if leader else (), vitals.troubles)

    def _vitals(self) -> Vitals:
        db = self._connection()
        names = ("page_size", "page_count", "freelist_count")
        page_bytes, pages, free = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        term = db.execute("SELECT term FROM meta").fetchone()[0]
        size_bytes, used_bytes = pages * page_bytes, (pages - free) * page_bytes
        troubles = sqlite_file.little_room(self.path, size_bytes)
        return Vitals(f"SQLite {sqlite3.sqlite_version}", term, size_bytes, used_bytes, troubles)

    async def commit(self, term: Term, changes: Sequence[Change], within_s: float = 0.0) -> int:
        """See ports.Store."""
        return await self.group.commit(term.number, changes, within_s)

    async def write(self, term: Term, writes: Writes) -> int:
        """See engine.Engine."""
        return await self.group.write(term.number, writes)

    async def _write(self, term: int, writes: Writes) -> int:
        return await self._run(self._transact, term, writes)

    def _transact(self, term: int, writes: Writes) -> int:
        """Run one transaction: compare the term, write the records, increase the revision."""
        db = self._connection()
        self._check_content(StaleTerm)
        db.execute("BEGIN IMMEDIATE")
        try:
            current, leader, revision = db.execute(
                "SELECT term, leader, revision + ? FROM meta", (bool(writes),)
            ).fetchone()
            if current != term or leader is None:  # no leader: the term was resigned and no other has begun
                raise StaleTerm(f"term {term} has ended")
            puts = [(key, value) for key, value in writes.items() if value is not None]
            drops = [(key,) for key, value in writes.items() if value is None]
            db.executemany(
                "INSERT INTO records VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", puts
            )
            db.executemany("DELETE FROM records WHERE key = ?", drops)
            db.execute("UPDATE meta SET revision = ?", (revision,))
        except BaseException:
            sqlite_file.roll_back(db)
            raise
        self._commit(db)
        self._check_in_place(CommitOutcomeUnknown)  # before it is acknowledged
        if self._written is not None:
            self._written.update((key, hash(value)) for key, value in puts)
            for (key,) in drops:
                self._written.pop(key, None)
        if self._stamps:
            self._stamps = sqlite_file.stamps(self.path)
        return int(revision)

    def _check_in_place(self, error: type[StoreError]) -> None:
        """Raise this error once another program has deleted or replaced the files, because commits would be lost.

        It stays so until the server is started again: what the files hold now may not be what was acknowledged.
        """
        if not self._moved and sqlite_file.inodes(self.path) != self._inodes:
            self._moved = sqlite_file.save(self.path, self._connection())
        if self._moved:
            raise error(f"{self.path} was deleted or replaced while it was in use: stop this server, {self._moved}, "
                        "and start it again")  # fmt: skip

    def _check_content(self, error: type[StoreError]) -> None:
        """Raise this error if another program has overwritten or cut the files, as `cp` of a backup does.

        One that has only moved the journal's content into the file, as backup tools do, has changed no record. While
        the disk is full, it may be impossible to tell: then the next commit looks again.
        """
        self._check_in_place(error)
        if sqlite_file.stamps(self.path) == self._stamps:
            return
        found, self._stamps = sqlite_file.fingerprints(self.path), ()
        if found is None:
            return
        if self._written is not None and found != self._written:
            self._moved = "restore a backup"
            self._check_in_place(error)
        self._written, self._stamps = found, sqlite_file.stamps(self.path)

    def _commit(self, db: sqlite3.Connection) -> None:
        """COMMIT. If the disk fails in it, the transaction may be in the journal, and the next start finds it."""
        try:
            db.execute("COMMIT")
        except sqlite3.Error as error:
            sqlite_file.roll_back(db)
            if sqlite_file.code_of(error) in SURELY_UNDONE:
                raise
            self._written = None  # with or without this transaction
            raise CommitOutcomeUnknown(f"{self.path}: a commit broke off ({error}): check the disk") from None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"{self.path} is not open")
        return self._db

    async def _run(self, work: Callable[..., T], *args: object) -> T:
        """Run `work` in the store's thread. SQLite's errors become StoreError with a one-line text."""
        try:
            doing = asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except RuntimeError:  # the thread was shut down
            raise StoreError(f"{self.path} is not open") from None
        try:
            return await doing
        except sqlite3.Error as error:
            raise sqlite_file.explain(self.path, error) from None


def _try_lock(lock: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
