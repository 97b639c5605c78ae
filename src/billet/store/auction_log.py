"""Keeps the records of the latest auctions, and the events, in an SQLite file beside the store, written by a thread.

Each server has such a file. What it records while it leads, and what it copies of other servers, stand in it side by
side (docs/adr/0045).
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from billet.core.feed import OWN, Kind, Positions, Record, ahead
from billet.store import log_file
from billet.store.log_file import LogFile, is_damage, read_file
from billet.store.sqlite_file import Inodes, inodes

__all__ = ["AuctionLog", "read_file"]

log = structlog.get_logger()

MAX_UNWRITTEN = 5_000  # above that, the oldest records are dropped
WRITE_EVERY_S = 0.2
FLUSH_S = 10.0  # longest wait for the writer
PAGE_BYTES = 2 << 20  # of records that one answer to another server has; its limit is 4 MiB
PAGE_RECORDS = 2_000  # the same in records


class AuctionLog:
    """The last `keep` records (0 = none). `append` returns at once; a thread writes batches.

    The file is optional: one that cannot be read is moved aside and replaced by a new one, and never stops a server.
    """

    def __init__(self, path: str | Path, keep: int = 10_000) -> None:
        self.wrote: Callable[[], None] = lambda: None  # called by the writer's thread after each batch
        self._path, self._keep = Path(path), keep
        # Two threads append and take out without a lock; the deque itself bounds its length atomically.
        self._unwritten: deque[Record] = deque(maxlen=MAX_UNWRITTEN)
        self._overflowed = 0  # only changed by callers of append
        self._failed = 0  # only changed by the writer thread
        self._writing: tuple[Record, ...] = ()
        self._wake = threading.Event()
        self._hurry = threading.Event()  # ends the pause between two batches
        self._closing = threading.Event()
        self._flushing: deque[threading.Event] = deque()
        self._lock = threading.Lock()  # for the database; the queue needs none
        self._file = self._open()
        self._inodes = self._inodes_now()
        self._positions: dict[int, int] = dict(self._file.positions)  # of all records so far, written or not
        self._thread = threading.Thread(target=self._work, name="auction-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """The number of records lost because they came too fast or could not be written."""
        return self._overflowed + self._failed

    # What this server records.

    def append(self, key: str, names: Sequence[str], payload: bytes, term: int = OWN) -> None:
        """Keep an auction's record, which is found by its key or any of its names."""
        self.add(Record(Kind.AUCTION, payload, term, names=(key, *names)))

    def append_gone(self, payload: bytes, term: int = OWN) -> None:
        """Keep the record of a microVM's end; the last `keep` are kept."""
        self.add(Record(Kind.END, payload, term))

    def append_outcome(self, host: str, payload: bytes, term: int = OWN) -> None:
        """Keep the outcome of a bid of this host that won; the last OUTCOMES x `keep` are kept."""
        self.add(Record(Kind.OUTCOME, payload, term, host=host))

    def add(self, record: Record) -> None:
        """Keep a record as the next one of its term, which this server leads or has led."""
        if self._keep:
            self._append(record._replace(number=self._positions.get(record.term, 0) + 1))

    def _append(self, record: Record) -> None:
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self._overflowed += 1
        self._positions[record.term] = record.number
        self._unwritten.append(record)
        if not self._wake.is_set():
            self._wake.set()

    # What it copies.

    @property
    def positions(self) -> Positions:
        """How far it has come in each term."""
        return self._positions

    @property
    def written(self) -> Positions:
        """The same of what is on disk, and so can be read."""
        return self._file.positions

    def take(self, records: Iterable[Record], up_to: Positions) -> None:
        """Keep another server's records, as far as they are new. It has none between them, and up to `up_to`."""
        if not self._keep:
            return
        for record in records:
            if record.term != OWN and record.number > self._positions.get(record.term, 0):
                self._append(record)
        for term, number in up_to.items():
            if term != OWN and number > self._positions.get(term, 0):
                self._append(Record(Kind.POSITION, b"", term, number))

    def since(self, have: Positions) -> tuple[list[Record], dict[int, int]]:
        """The records on disk that another server lacks, and how far it has come with them."""
        records: list[Record] = []
        up_to: dict[int, int] = {}
        size = 0
        for term, after in ahead(written := self.written, have).items():
            with self._lock, self._reading():
                for record in self._file.feed(term, after, PAGE_RECORDS - len(records)):
                    if records and size + len(record.payload) > PAGE_BYTES:
                        break
                    size += len(record.payload)
                    records.append(record)
                    up_to[term] = record.number
                else:
                    if len(records) < PAGE_RECORDS:
                        up_to[term] = written[term]
                        continue
            break
        return records, up_to

    def flush(self) -> None:
        """Return when all that was appended before is on disk, or is lost."""
        done = threading.Event()
        self._flushing.append(done)
        self._wake.set()
        self._hurry.set()
        done.wait(FLUSH_S)

    # What is read.

    def outcomes(self, host: str, count: int) -> list[bytes]:
        """The newest `count` outcomes of this host's bids, the oldest first."""
        with self._lock:
            fresh = [item.payload for item in (*self._writing, *self._unwritten) if item.host == host]
            rows = [row[0] for row in self._all(log_file.OUTCOMES_OF, (host, count))][::-1]
        return (rows + fresh)[-count:]

    def find(self, name: str) -> list[bytes]:
        """The records with this key or name, the newest first."""
        with self._lock:
            fresh = [item for item in (*self._writing, *self._unwritten) if name in item.names]
            rows = self._all(log_file.FOUND, (name,))
        return _in_order(rows, fresh)[::-1]

    def last(self, count: int) -> list[bytes]:
        """The newest records, the newest first."""
        with self._lock:
            fresh = [item for item in (*self._writing, *self._unwritten) if item.kind is Kind.AUCTION]
            rows = self._all(log_file.LAST, (count,))[::-1]
        return _in_order(rows, fresh)[::-1][:count]

    def about(self, auction: str) -> list[bytes]:
        """The events of a microVM, by the id of its auction, the oldest first."""
        with self._lock:
            fresh = [item for item in (*self._writing, *self._unwritten) if item.about == auction]
            rows = self._all(log_file.ABOUT, (auction,))
        return _in_order(rows, fresh)

    def newest_events(self, types: Collection[str], since_s: float, count: int) -> list[bytes]:
        """The newest events of these types, the oldest first."""
        query = log_file.NEWEST_EVENTS.format(", ".join("?" * len(types)))
        with self._lock:
            fresh = [
                item for item in (*self._writing, *self._unwritten) if item.type in types and item.at_s >= since_s
            ]
            rows = self._all(query, (*types, since_s, count))[::-1]
        return _in_order(rows, fresh)[-count:]

    def events(
        self, have: Positions, since_s: float, count: int, terms: int
    ) -> tuple[list[tuple[int, int, bytes]], dict[int, int], bool]:
        """At most `count` events on disk after these positions, with term and number; `terms`: see `ahead`.

        Also returns how far they go, and whether there are more.
        """
        found: list[tuple[int, int, bytes]] = []
        up_to: dict[int, int] = {}
        for term, after in ahead(written := self.written, have, terms).items():
            most = count - len(found)
            with self._lock:
                rows = self._all(log_file.EVENTS_OF_TERM, (term, after, since_s, most))
            found += [(term, number, payload) for number, payload in rows]
            if len(rows) == most:
                up_to[term] = rows[-1][0]
                return found, up_to, True
            up_to[term] = written[term]
        return found, up_to, False

    def page(self, after: int, limit: int, gone: bool = False) -> tuple[list[bytes], int]:
        """At most `limit` records (or ends) on disk with a number above `after`, the oldest first.

        Also returns the `after` of the next page, 0 = there is none.
        """
        with self._lock:
            rows = self._all(log_file.PAGE[gone], (after, limit))
        return [row[1] for row in rows], rows[-1][0] if len(rows) == limit else 0

    def close(self) -> None:
        """Write all records and stop the thread."""
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        self._thread.join(timeout=10.0)
        with self._lock:
            self._file.close()

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            asked = len(self._flushing)
            try:
                self._write()
            except Exception as error:  # whatever it is, the next batch may be written
                log.warning("auction records not written", path=str(self._path), error=repr(error))
                with suppress(Exception):  # the records of this batch are lost in any case
                    self._give_up(error)
            for _ in range(asked):
                self._flushing.popleft().set()
            self.wrote()
            if self._closing.is_set() and not self._unwritten:
                return
            self._hurry.wait(WRITE_EVERY_S)  # records that arrive meanwhile join the next batch
            self._hurry.clear()

    def _write(self) -> None:
        with self._lock:
            self._writing = tuple(self._unwritten.popleft() for _ in range(len(self._unwritten)))
        with self._lock:
            self._stay_in_place()
            self._file.write(self._writing)
            self._writing = ()

    def _stay_in_place(self) -> None:
        """Open the file anew if another program has deleted or replaced it: the old one is lost with all in it."""
        now = self._inodes_now()
        if now == self._inodes:
            return
        log.warning(
            "auction records were deleted or replaced while in use; opening the file anew", path=str(self._path)
        )
        self._file.close()
        if now[0] != self._inodes[0] and now[1] == self._inodes[1]:  # another file, and the old file's journal
            self._drop_journal()
        self._file = self._open()
        self._inodes = self._inodes_now()

    def _inodes_now(self) -> Inodes:
        """Those of the file and its journal; none for records that are kept in memory."""
        return () if self._file.in_memory else inodes(self._path)

    def _drop_journal(self) -> None:
        """Or SQLite would replay the old journal into a new file."""
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        """Drop the batch that failed, and leave no transaction open for the next one."""
        with self._lock:
            self._failed += len(self._writing)
            self._writing = ()
            if is_damage(error):
                self._file.close()
                self._file = self._start_new_file(error)
                self._inodes = self._inodes_now()
            else:
                with suppress(sqlite3.Error):
                    self._file.roll_back()

    def _all(self, query: str, given: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        with self._reading():
            return self._file.db.execute(query, given).fetchall()
        return []

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What cannot be read is logged, and is not there."""
        try:
            yield
        except sqlite3.Error as error:
            log.warning("auction records cannot be read", path=str(self._path), error=str(error))

    def _open(self) -> LogFile:
        try:
            return LogFile(str(self._path), self._keep)
        except sqlite3.Error as error:
            return self._start_new_file(error) if is_damage(error) else self._in_memory(error)

    def _start_new_file(self, error: Exception) -> LogFile:
        aside = self._path.with_name(f"{self._path.name}.unreadable")
        log.warning("auction records are damaged; starting a new file", error=str(error), moved_to=str(aside))
        try:
            self._path.replace(aside)
            self._drop_journal()
            return LogFile(str(self._path), self._keep)
        except (OSError, sqlite3.Error) as second:
            return self._in_memory(second)

    def _in_memory(self, error: Exception) -> LogFile:
        log.warning("auction records are kept in memory only", path=str(self._path), error=str(error))
        return LogFile(":memory:", self._keep)


def _in_order(rows: Iterable[tuple[int, int, bytes]], fresh: Iterable[Record]) -> list[bytes]:
    """The payloads of rows and of records that are not written yet, by their place in the feed."""
    placed = [*rows, *((item.term, item.number, item.payload) for item in fresh)]
    return [payload for _, _, payload in sorted(placed, key=lambda place: place[:2])]
