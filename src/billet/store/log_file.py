"""The SQLite file of the auction log: its tables, what is written to them and read from them. No threads here."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from billet.core.errors import ConfigError
from billet.core.events import ROUTINE
from billet.core.feed import OWN, Kind, Record

OUTCOMES = 10  # outcomes of bids kept per auction record kept: a large fleet needs 30 outcomes of each host
EVENTS = 10  # events kept per auction record kept, of the routine ones and of the others
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

SCHEMA = """
CREATE TABLE IF NOT EXISTS auctions (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS names (name TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (name, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_by_seq ON names (seq);
CREATE TABLE IF NOT EXISTS gone (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (seq INTEGER PRIMARY KEY, host TEXT NOT NULL, payload BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outcomes_by_host ON outcomes (host, seq);
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, payload BLOB NOT NULL, routine INTEGER NOT NULL,
    type TEXT NOT NULL, about TEXT NOT NULL, at_s REAL NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_about ON events (about);
CREATE TABLE IF NOT EXISTS positions (term INTEGER PRIMARY KEY, number INTEGER NOT NULL);
DROP TABLE IF EXISTS judged;  -- outcomes as an older Billet kept them; no longer read
"""
TABLES = ("auctions", "gone", "outcomes", "events")
# The two columns that give each record its place in the feed; a file of an older Billet lacks them.
PLACE = """
ALTER TABLE {0} ADD COLUMN term INTEGER NOT NULL DEFAULT 0;
ALTER TABLE {0} ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
"""
INDEXES = """
CREATE INDEX IF NOT EXISTS auctions_by_place ON auctions (term, number);
CREATE INDEX IF NOT EXISTS gone_by_place ON gone (term, number);
CREATE INDEX IF NOT EXISTS outcomes_by_place ON outcomes (term, number);
CREATE INDEX IF NOT EXISTS events_by_place ON events (term, number);
CREATE INDEX IF NOT EXISTS events_by_class ON events (routine, term, number);
"""

PAGE = {
    False: "SELECT seq, payload FROM auctions WHERE seq > ? ORDER BY seq LIMIT ?",
    True: "SELECT seq, payload FROM gone WHERE seq > ? ORDER BY seq LIMIT ?",
}
FOUND = "SELECT term, number, payload FROM names JOIN auctions USING (seq) WHERE name = ? ORDER BY term, number, seq"
LAST = "SELECT term, number, payload FROM auctions ORDER BY term DESC, number DESC, seq DESC LIMIT ?"
ABOUT = "SELECT term, number, payload FROM events WHERE about = ? ORDER BY term, number"
OUTCOMES_OF = "SELECT payload FROM outcomes WHERE host = ? ORDER BY term DESC, number DESC, seq DESC LIMIT ?"
FEED = """
SELECT 1, seq, number, payload, '', '', '', 0.0 FROM auctions WHERE term = :term AND number > :after
UNION ALL SELECT 2, seq, number, payload, '', '', '', 0.0 FROM gone WHERE term = :term AND number > :after
UNION ALL SELECT 3, seq, number, payload, host, '', '', 0.0 FROM outcomes WHERE term = :term AND number > :after
UNION ALL SELECT 4, seq, number, payload, '', type, about, at_s FROM events WHERE term = :term AND number > :after
ORDER BY number LIMIT :most
"""
EVENTS_OF_TERM = (
    "SELECT number, payload FROM events WHERE term = ? AND number > ? AND at_s >= ? ORDER BY number LIMIT ?"
)
NEWEST_EVENTS = """
SELECT term, number, payload FROM events WHERE type IN ({0}) AND at_s >= ? ORDER BY term DESC, number DESC LIMIT ?
"""
DROP_NAMES = "DELETE FROM names WHERE seq IN (SELECT seq FROM auctions ORDER BY term, number, seq LIMIT ?)"
DROP_OLDEST = {
    "auctions": "DELETE FROM auctions WHERE seq IN (SELECT seq FROM auctions ORDER BY term, number, seq LIMIT ?)",
    "gone": "DELETE FROM gone WHERE seq IN (SELECT seq FROM gone ORDER BY term, number, seq LIMIT ?)",
    "outcomes": "DELETE FROM outcomes WHERE seq IN (SELECT seq FROM outcomes ORDER BY term, number, seq LIMIT ?)",
    "events": "DELETE FROM events WHERE seq IN"
    " (SELECT seq FROM events WHERE routine = 0 ORDER BY term, number LIMIT ?)",
    "routine": "DELETE FROM events WHERE seq IN"
    " (SELECT seq FROM events WHERE routine = 1 ORDER BY term, number LIMIT ?)",
}
COUNT = """
SELECT 'auctions', count(*) FROM auctions UNION ALL SELECT 'gone', count(*) FROM gone
UNION ALL SELECT 'outcomes', count(*) FROM outcomes
UNION ALL SELECT 'events', count(*) FROM events WHERE routine = 0
UNION ALL SELECT 'routine', count(*) FROM events WHERE routine = 1
"""


class Damaged(sqlite3.DatabaseError):
    """SQLite's own check has found damage."""


def is_damage(error: Exception) -> bool:
    """Whether the file is damaged. Other errors, such as of permissions, would not go away with a new file."""
    return isinstance(error, Damaged) or getattr(error, "sqlite_errorcode", 0) & 0xFF in DAMAGED


class LogFile:
    """An open file. Raises sqlite3.Error."""

    def __init__(self, path: str, keep: int) -> None:
        self.db = _connect(path)
        self._keep = {"auctions": keep, "gone": keep, "outcomes": OUTCOMES * keep, "events": EVENTS * keep,
                      "routine": EVENTS * keep}  # fmt: skip
        self._seq = _last_seq(self.db)
        self._counts = self._counted()
        self.positions: dict[int, int] = dict(self.db.execute("SELECT term, number FROM positions"))

    @property
    def in_memory(self) -> bool:
        """Whether there is no file behind it."""
        return not self.db.execute("PRAGMA database_list").fetchone()[2]

    def write(self, batch: Iterable[Record]) -> None:
        """Write records, all or none, and drop the oldest of those that are too many."""
        self.db.execute("BEGIN")
        positions: dict[int, int] = {}
        for record in batch:
            self._insert(record)
            if record.term != OWN:
                positions[record.term] = max(
                    record.number, positions.get(record.term, self.positions.get(record.term, 0))
                )
        self.db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?)", positions.items())
        for table, most in self._keep.items():
            self._drop(table, self._counts[table] - most)
        self.db.execute("COMMIT")
        self.positions = {**self.positions, **positions}

    def roll_back(self) -> None:
        """Leave no transaction open for the next batch."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")
        self._seq = _last_seq(self.db)
        self._counts = self._counted()

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def _insert(self, record: Record) -> None:
        place = record.term, record.number
        match record.kind:
            case Kind.AUCTION:
                self._seq += 1
                self.db.execute(
                    "INSERT INTO auctions (seq, payload, term, number) VALUES (?, ?, ?, ?)",
                    (self._seq, record.payload, *place),
                )
                names = [(name, self._seq) for name in record.names]
                self.db.executemany("INSERT OR IGNORE INTO names VALUES (?, ?)", names)
                self._counts["auctions"] += 1
            case Kind.END:
                self.db.execute("INSERT INTO gone (payload, term, number) VALUES (?, ?, ?)", (record.payload, *place))
                self._counts["gone"] += 1
            case Kind.OUTCOME:
                self.db.execute(
                    "INSERT INTO outcomes (host, payload, term, number) VALUES (?, ?, ?, ?)",
                    (record.host, record.payload, *place),
                )
                self._counts["outcomes"] += 1
            case Kind.EVENT:
                routine = record.type in ROUTINE
                self.db.execute(
                    "INSERT INTO events (payload, routine, type, about, at_s, term, number)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (record.payload, routine, record.type, record.about, record.at_s, *place),
                )
                self._counts["routine" if routine else "events"] += 1

    def _drop(self, table: str, count: int) -> None:
        if count <= 0:
            return
        if table == "auctions":
            self.db.execute(DROP_NAMES, (count,))
        self.db.execute(DROP_OLDEST[table], (count,))
        self._counts[table] -= count

    def _counted(self) -> Counter[str]:
        return Counter(dict(self.db.execute(COUNT)))

    def feed(self, term: int, after: int, most: int) -> Iterator[Record]:
        """The records of a term after a number, in their order."""
        rows = self.db.execute(FEED, {"term": term, "after": after, "most": most})
        for kind, seq, number, payload, host, type_, about, at_s in rows:
            names: Sequence[str] = ()
            if kind == Kind.AUCTION:
                names = [row[0] for row in self.db.execute("SELECT name FROM names WHERE seq = ?", (seq,))]
            yield Record(Kind(kind), payload, term, number, tuple(names), host, type_, about, at_s)


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
        for table in TABLES:
            if "number" not in {column[1] for column in db.execute(f"PRAGMA table_info({table})")}:
                db.executescript(PLACE.format(table))
        db.executescript(INDEXES)
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise Damaged(" ".join(verdict.split()))
        _last_seq(db)  # fails for a file with other tables
    except BaseException:
        db.close()
        raise
    return db


def _last_seq(db: sqlite3.Connection) -> int:
    newest: Any = db.execute("SELECT coalesce(max(seq), 0) FROM auctions").fetchone()[0]
    return int(newest)
