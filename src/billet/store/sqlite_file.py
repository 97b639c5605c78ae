"""The embedded store's file: creates, opens and checks it, and explains SQLite's errors."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from billet.core.errors import NOTHING_WRITTEN, StoreCorrupt, StoreError

SCHEMA_VERSION = 2  # files of version 1 have one more table, which is not read
APPLICATION_ID = 0x42494C54  # "BILT", in the header of the file
FULL_BYTES = 1 << 16  # with less free space than this, an IO error counts as a full disk
LITTLE_BYTES = 64 << 20  # with less free space than this, or than the file's size, vitals warn
BUSY_S = 5.0  # how long to wait for another process's transaction

SCHEMA = """
CREATE TABLE records (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER, leader BLOB, revision INTEGER);
INSERT INTO meta VALUES (1, 0, NULL, 0);
"""


def connect(path: Path, create: bool) -> sqlite3.Connection:
    """Open the file. Raises StoreError, and sqlite3.Error for `explain`."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder: create it, or set another --store")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"{folder} cannot be written to: correct its permissions, or set another --store")
    if not create and not path.exists():
        raise StoreError(f"{path} does not exist: correct --store, or --data-dir, where relative paths start")
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
    try:
        _check(path, db)
        _use_wal(db)
        db.execute("PRAGMA synchronous=FULL")
        _tables(db)  # creates the journal, so that `inodes` sees it
    except BaseException:
        db.close()
        raise
    return db


def _check(path: Path, db: sqlite3.Connection) -> None:
    """Create the tables of a new file. Raises StoreCorrupt if it is damaged, foreign, or of a newer Billet."""
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        said = " ".join(verdict.split())  # SQLite's text has several lines
        raise StoreCorrupt(f"{path} is damaged ({said}): move it away and restore a backup")
    if not _tables(db):
        _make_tables(db)
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreCorrupt(f"{path} is the database of another program: set another --store")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreCorrupt(f"{path} was written by a newer Billet (schema {version}): upgrade this one")


def explain(path: Path, error: sqlite3.Error) -> StoreError:
    """SQLite's error as a one-line StoreError that says what to do."""
    match code_of(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return StoreCorrupt(f"{path} is not a Billet store ({error}): move it away and restore a backup")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreError(f"{path} cannot be written to ({error}): correct its permissions")
        # SQLite reports IOERR when there is no space for the index of its journal.
        case code if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and free_bytes(path) < FULL_BYTES):
            return StoreError(f"the disk of {path} is full: free space on it{NOTHING_WRITTEN}")
        case _:
            return StoreError(f"{path}: {error}")


Inodes = tuple[tuple[int, int] | None, ...]


def inodes(path: Path) -> Inodes:
    """Device and inode of the file, of its journal and of the journal's index; None where there is none.

    They stay the same while a connection is open, unless another program deletes or replaces the files.
    """
    found: list[tuple[int, int] | None] = []
    for suffix in ("", "-wal", "-shm"):
        try:
            status = os.stat(f"{path}{suffix}")  # noqa: PTH116  # twice for each commit, and a Path costs more than it
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


Stamps = tuple[tuple[int, int], ...]


def stamps(path: Path) -> Stamps:
    """Size and time of the last write, of the file and of its journal. Only who writes into them changes these."""
    found = []
    for suffix in ("", "-wal"):
        with suppress(OSError):
            status = os.stat(f"{path}{suffix}")  # noqa: PTH116  # as above
            found.append((status.st_size, status.st_mtime_ns))
    return tuple(found)


def fingerprints(path: Path) -> dict[str, int] | None:
    """A hash of each record as the files have it now, read anew: none of damaged files, None if it cannot be told."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=BUSY_S, uri=True)) as db:
            return {key: hash(value) for key, value in db.execute("SELECT key, value FROM records")}
    except sqlite3.Error as error:
        cut = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ
        damaged = code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
        return {} if cut or damaged else None


def save(path: Path, db: sqlite3.Connection) -> str:
    """Write what a connection still holds of deleted files to a new file beside them; returns what to do with it."""
    saved = path.with_name(f"{path.name}.saved")
    try:
        saved.unlink(missing_ok=True)
        with closing(sqlite3.connect(saved)) as copy:
            db.backup(copy)
    except (OSError, sqlite3.Error) as error:
        return f"restore a backup (the content could not be saved: {error})"
    return f"move {saved}, which has the content, to {path} (without an old -wal or -shm), or restore a backup"


def little_room(path: Path, size_bytes: int) -> tuple[str, ...]:
    """A warning when the disk will soon be full."""
    left_bytes = free_bytes(path)
    if left_bytes >= max(LITTLE_BYTES, size_bytes):
        return ()
    return (f"the disk of {path} has {left_bytes >> 20} MiB left: free space on it",)


def free_bytes(path: Path) -> int:
    """Free bytes on the file's disk, for this user."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize


def _tables(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _make_tables(db: sqlite3.Connection) -> None:
    """Create the tables, unless another process does so at the same moment."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if not _tables(db):
            for statement in SCHEMA.split(";")[:-1]:
                db.execute(statement)
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        roll_back(db)
        raise


def _use_wal(db: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite does not wait by itself while another process opens the file."""
    deadline_s = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.Error as error:
            if code_of(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)


def roll_back(db: sqlite3.Connection) -> None:
    """Roll back the open transaction, if there is one."""
    if db.in_transaction:
        with suppress(sqlite3.Error):  # the first error is the one to report
            db.execute("ROLLBACK")


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's module itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
