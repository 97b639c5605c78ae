"""The file of the embedded store: made, opened, checked, and what SQLite says of it in words that help."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from billet.core.errors import StoreCorrupt, StoreError

SCHEMA_VERSION = 2  # files of 1 hold a table more, which nobody reads
APPLICATION_ID = 0x42494C54  # "BILT", in the header of the file
FULL_BYTES = 1 << 16  # with less room than this, an error is put down to it
LITTLE_BYTES = 64 << 20  # with less room than this, or than the file takes, a person should know
BUSY_S = 5.0  # how long another process's transaction is waited for

SCHEMA = """
CREATE TABLE records (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER, leader BLOB, revision INTEGER);
INSERT INTO meta VALUES (1, 0, NULL, 0);
"""


def connect(path: Path, create: bool) -> sqlite3.Connection:
    """The file, opened. Raises StoreError, and what SQLite raises, for `explain`."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder: make it, or give another --store")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"{folder} cannot be written to: give the server's user the right, or another --store")
    if not create and not path.exists():
        raise StoreError(f"there is no {path}: mend --store, or --data-dir where relative paths start")
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_S)
    try:
        _check(path, db)
        _keep_a_journal(db)
        db.execute("PRAGMA synchronous=FULL")
    except BaseException:
        db.close()
        raise
    return db


def _check(path: Path, db: sqlite3.Connection) -> None:
    """Make the tables of a new file; refuse one that is damaged, foreign, or of a newer Billet."""
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        said = " ".join(verdict.split())  # SQLite takes several lines
        raise StoreCorrupt(f"{path} is damaged ({said}): move it away and restore a backup")
    if not _tables(db):
        _make_tables(db)
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreCorrupt(f"{path} is the database of another program: give another --store")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreCorrupt(f"{path} was written by a newer Billet (schema {version}): upgrade this one")


def explain(path: Path, error: sqlite3.Error) -> StoreError:
    """What SQLite says, in one line, with what to do."""
    match code_of(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return StoreCorrupt(f"{path} is not a Billet store ({error}): move it away and restore a backup")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreError(f"{path} cannot be written to ({error}): mend its permissions")
        # SQLite calls it an error of the disk when there is no room for its index of the journal.
        case code if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and free_bytes(path) < FULL_BYTES):
            return StoreError(f"the disk of {path} is full: make room; nothing was written")
        case _:
            return StoreError(f"{path}: {error}")


def little_room(path: Path, size_bytes: int) -> tuple[str, ...]:
    """A line when the disk will soon be full."""
    left_bytes = free_bytes(path)
    if left_bytes >= max(LITTLE_BYTES, size_bytes):
        return ()
    return (f"the disk of {path} has {left_bytes >> 20} MiB left: make room",)


def free_bytes(path: Path) -> int:
    """The room that is left on the disk for us."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize


def _tables(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _make_tables(db: sqlite3.Connection) -> None:
    """Unless another opener does so at the same time; then wait for it."""
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


def _keep_a_journal(db: sqlite3.Connection) -> None:
    """WAL. Changing over, SQLite does not wait for another opener by itself."""
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
    """Leave no transaction open."""
    if db.in_transaction:
        with suppress(sqlite3.Error):  # the first error is the one to tell
            db.execute("ROLLBACK")


def code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for what Python's module says of itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
