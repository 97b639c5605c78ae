"""Keeps the records of the latest auctions in an SQLite file beside the store, written by a thread."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from billet.core.errors import ConfigError
from billet.store.sqlite_file import Inodes, inodes

log = structlog.get_logger()

MAX_UNWRITTEN = 5_000  # above that, the oldest records are dropped
WRITE_EVERY_S = 0.2
OUTCOMES = 10  # outcomes of bids kept per auction record kept: a large fleet needs 30 outcomes of each host
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

SCHEMA = """
CREATE TABLE IF NOT EXISTS auctions (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS names (name TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (name, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_by_seq ON names (seq);
CREATE TABLE IF NOT EXISTS gone (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (seq INTEGER PRIMARY KEY, host TEXT NOT NULL, payload BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outcomes_by_host ON outcomes (host, seq);
DROP TABLE IF EXISTS judged;  -- outcomes as an older Billet kept them; no longer read
"""


_PAGE = {
    False: "SELECT seq, payload FROM auctions WHERE seq > ? ORDER BY seq LIMIT ?",
    True: "SELECT seq, payload FROM gone WHERE seq > ? ORDER BY seq LIMIT ?",
}


class Unwritten(NamedTuple):
    """A record that is not on disk yet: of an auction (with names), an outcome (with a host), or a microVM's end."""

    names: tuple[str, ...]
    payload: bytes
    host: str = ""


class AuctionLog:
    """The last `keep` records (0 = none). `append` returns at once; a thread writes batches.

    The file is optional: one that cannot be read is moved aside and replaced by a new one, and never stops a server.
    """

    def __init__(self, path: str | Path, keep: int = 10_000) -> None:
        self._path, self._keep = Path(path), keep
        # Two threads append and take out without a lock; the deque itself bounds its length atomically.
        self._unwritten: deque[Unwritten] = deque(maxlen=MAX_UNWRITTEN)
        self._overflowed = 0  # only changed by callers of append
        self._failed = 0  # only changed by the writer thread
        self._writing: tuple[Unwritten, ...] = ()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # for the database; the queue needs none
        self._db = self._open()
        self._inodes = self._inodes_now()
        self._seq = _last_seq(self._db)
        self._thread = threading.Thread(target=self._work, name="auction-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The number of records lost because they came too fast or could not be written."""
        return self._overflowed + self._failed

    def append(self, key: str, names: Sequence[str], payload: bytes) -> None:
        """Keep an auction's record, which is found by its key or any of its names."""
        self._append(Unwritten((key, *names), payload))

    def append_gone(self, payload: bytes) -> None:
        """Keep the record of a microVM's end; the last `keep` are kept."""
        self._append(Unwritten((), payload))

    def append_outcome(self, host: str, payload: bytes) -> None:
        """Keep the outcome of a bid of this host that won; the last OUTCOMES x `keep` are kept."""
        self._append(Unwritten((), payload, host))

    def outcomes(self, host: str, count: int) -> list[bytes]:
        """The newest `count` outcomes of this host's bids that are on disk, the oldest first."""
        query = "SELECT payload FROM outcomes WHERE host = ? ORDER BY seq DESC LIMIT ?"
        with self._lock:
            return [row[0] for row in self._all(query, (host, count))][::-1]

    def _append(self, item: Unwritten) -> None:
        if not self._keep:
            return
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self._overflowed += 1
        self._unwritten.append(item)
        if not self._wake.is_set():
            self._wake.set()

    def find(self, name: str) -> list[bytes]:
        """The records with this key or name, the newest first."""
        with self._lock:
            fresh = [*self._writing, *self._unwritten]
            rows = self._rows(
                "SELECT payload FROM names JOIN auctions USING (seq) WHERE name = ? ORDER BY seq DESC", name
            )
        return [item.payload for item in reversed(fresh) if name in item.names] + rows

    def last(self, count: int) -> list[bytes]:
        """The newest records, the newest first."""
        with self._lock:
            fresh = [*self._writing, *self._unwritten]
            rows = self._rows("SELECT payload FROM auctions ORDER BY seq DESC LIMIT ?", count)
        return ([item.payload for item in reversed(fresh) if item.names] + rows)[:count]

    def page(self, after: int, limit: int, gone: bool = False) -> tuple[list[bytes], int]:
        """At most `limit` records (or ends) on disk with a number above `after`, the oldest first.

        Also returns the `after` of the next page, 0 = there is none.
        """
        with self._lock:
            rows = self._all(_PAGE[gone], (after, limit))
        return [row[1] for row in rows], rows[-1][0] if len(rows) == limit else 0

    def close(self) -> None:
        """Write all records and stop the thread."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=10.0)
        with self._lock:
            self._db.close()

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                self._write()
            except Exception as error:  # whatever it is, the next batch may be written
                log.warning("auction records not written", path=str(self._path), error=repr(error))
                with suppress(Exception):  # the records of this batch are lost in any case
                    self._give_up(error)
            if self._closing.is_set() and not self._unwritten:
                return
            self._closing.wait(WRITE_EVERY_S)  # records that arrive meanwhile join the next batch

    def _write(self) -> None:
        with self._lock:
            batch = [self._unwritten.popleft() for _ in range(len(self._unwritten))]
            self._writing = tuple(batch)
        with self._lock:
            self._stay_in_place()
            self._db.execute("BEGIN")
            for item in batch:
                if item.host:
                    self._db.execute("INSERT INTO outcomes (host, payload) VALUES (?, ?)", (item.host, item.payload))
                    continue
                if not item.names:
                    self._db.execute("INSERT INTO gone (payload) VALUES (?)", (item.payload,))
                    continue
                self._seq += 1
                self._db.execute("INSERT INTO auctions VALUES (?, ?)", (self._seq, item.payload))
                self._db.executemany(
                    "INSERT OR IGNORE INTO names VALUES (?, ?)", [(n, self._seq) for n in item.names]
                )
            self._db.execute("DELETE FROM names WHERE seq <= ?", (self._seq - self._keep,))
            self._db.execute("DELETE FROM auctions WHERE seq <= ?", (self._seq - self._keep,))
            self._db.execute("DELETE FROM gone WHERE seq <= (SELECT max(seq) FROM gone) - ?", (self._keep,))
            kept = (OUTCOMES * self._keep,)
            self._db.execute("DELETE FROM outcomes WHERE seq <= (SELECT max(seq) FROM outcomes) - ?", kept)
            self._db.execute("COMMIT")
            self._writing = ()

    def _stay_in_place(self) -> None:
        """Open the file anew if another program has deleted or replaced it: the old one is lost with all in it."""
        now = self._inodes_now()
        if now == self._inodes:
            return
        log.warning(
            "auction records were deleted or replaced while in use; opening the file anew", path=str(self._path)
        )
        self._db.close()
        if now[0] != self._inodes[0] and now[1] == self._inodes[1]:  # another file, and the old file's journal
            self._drop_journal()
        self._db = self._open()
        self._inodes = self._inodes_now()
        self._seq = max(self._seq, _last_seq(self._db))

    def _inodes_now(self) -> Inodes:
        """Those of the file and its journal; none for records that are kept in memory."""
        return inodes(self._path) if self._db.execute("PRAGMA database_list").fetchone()[2] else ()

    def _drop_journal(self) -> None:
        """Or SQLite would replay the old journal into a new file."""
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        """Drop the batch that failed, and leave no transaction open for the next one."""
        with self._lock:
            self._failed += len(self._writing)
            self._writing = ()
            if _is_damage(error):
                self._db.close()
                self._db = self._start_new_file(error)
                self._inodes = self._inodes_now()
            elif self._db.in_transaction:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")

    def _rows(self, query: str, given: str | int) -> list[bytes]:
        return [row[0] for row in self._all(query, (given,))]

    def _all(self, query: str, given: tuple[str | int, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query, given).fetchall()
        except sqlite3.Error as error:
            log.warning("auction records cannot be read", path=str(self._path), error=str(error))
            return []

    def _open(self) -> sqlite3.Connection:
        try:
            return _connect(str(self._path))
        except sqlite3.Error as error:
            return self._start_new_file(error) if _is_damage(error) else self._in_memory(error)

    def _start_new_file(self, error: Exception) -> sqlite3.Connection:
        aside = self._path.with_name(f"{self._path.name}.unreadable")
        log.warning("auction records are damaged; starting a new file", error=str(error), moved_to=str(aside))
        try:
            self._path.replace(aside)
            self._drop_journal()
            return _connect(str(self._path))
        except (OSError, sqlite3.Error) as second:
            return self._in_memory(second)

    def _in_memory(self, error: Exception) -> sqlite3.Connection:
        log.warning("auction records are kept in memory only", path=str(self._path), error=str(error))
        return _connect(":memory:")


def read_file(path: str | Path) -> tuple[list[bytes], list[bytes]]:
    """All auction records and all ends of microVMs in a file, the oldest first. Raises ConfigError."""
    try:
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as db:
            records = [row[0] for row in db.execute("SELECT payload FROM auctions ORDER BY seq")]
            with suppress(sqlite3.OperationalError):  # a file from before ends were recorded
                return records, [row[0] for row in db.execute("SELECT payload FROM gone ORDER BY seq")]
            return records, []
    except sqlite3.Error as error:
        raise ConfigError(f"the records in {path} cannot be read: {error}") from None


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")  # a power cut may lose auction records, nothing else
        db.executescript(SCHEMA)
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise _Damaged(" ".join(verdict.split()))
        _last_seq(db)  # fails for a file with other tables
    except BaseException:
        db.close()
        raise
    return db


def _last_seq(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(seq), 0) FROM auctions").fetchone()[0])


class _Damaged(sqlite3.DatabaseError):
    """SQLite's own check has found damage."""


def _is_damage(error: Exception) -> bool:
    """Whether the file is damaged. Other errors, such as of permissions, would not go away with a new file."""
    return isinstance(error, _Damaged) or getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED
