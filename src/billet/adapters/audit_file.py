"""Appends lines to a file that other tools rotate. Lines that cannot be written wait, and the log says so."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from billet.core.errors import ConfigError
from billet.log_throttle import LogThrottle

log = structlog.get_logger()

MAX_WAITING = 100_000  # lines in memory while none can be written, about 30 MiB; later ones are lost and counted
BATCH = 500  # lines written at once
RETRY_S = 1.0
CLOSE_S = 5.0  # how long the end of the process waits for the last lines
STDOUT = "-"


class AuditFile:
    """Lines for a file, in their order. `append` returns at once; a thread writes.

    A file that was renamed or deleted, as logrotate does, is made anew before the next lines. A line is whole in one
    file: if the disk was full in the middle of it, it is written again, and the torn piece has a line of its own.
    """

    def __init__(self, path: str, loss: Callable[[int], bytes]) -> None:
        """`path` "-" = standard output. `loss` makes the line that says how many were lost before it.

        Raises ConfigError if the file cannot be opened.
        """
        self._loss = loss
        self._path = Path(path)
        self._fd = sys.stdout.fileno() if path == STDOUT else -1
        self._is_file = path != STDOUT
        self._torn = False  # the file ends in the middle of a line
        self._waiting: deque[bytes] = deque()
        self._batch: list[bytes] = []  # of the writer; taken out of `_waiting`, not written yet
        self._lock = threading.Lock()  # for `_waiting` and `_lost`
        self._lost = 0  # lines that the log does not mention yet
        self._throttle = LogThrottle()
        self._wake, self._closing = threading.Event(), threading.Event()
        try:
            self._open()
        except OSError as error:
            raise ConfigError(
                f"--audit-log {path} cannot be written: {error.strerror}; correct that, or name another file"
            ) from None
        self._thread = threading.Thread(target=self._work, name="audit-log", daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> None:
        """Write a line, which has no end of line itself, as soon as possible."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self._lost += 1
            else:
                self._waiting.append(line)
        if not self._wake.is_set():
            self._wake.set()

    def close(self) -> None:
        """Write what waits, if it can be written, and stop."""
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_S)
        if lost := len(self._waiting) + len(self._batch) + self._lost:
            log.error("audit log is incomplete", path=str(self._path), lost=lost)

    # The writer.

    def _work(self) -> None:
        failing = False
        while True:
            if failing:
                self._closing.wait(RETRY_S)
            else:
                self._wake.wait()
                self._wake.clear()
            ending = self._closing.is_set()
            try:
                self._write_all()
                if failing:
                    failing = False
                    self._throttle.recovered("file")
                    self._tell(log.info, "audit log is written again")
            except OSError as error:
                failing = True
                self._say(error)
            if ending:
                return

    def _write_all(self) -> None:
        """Write what waits. Raises OSError; then the batch is kept for the next try."""
        while self._batch or self._take():
            self._open()
            self._write()

    def _take(self) -> list[bytes]:
        with self._lock:
            self._batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if self._lost and not self._waiting:
                self._batch.append(self._loss(self._lost))
                self._lost = 0
        return self._batch

    def _write(self) -> None:
        start = b"\n" if self._torn else b""
        data = start + b"".join(line + b"\n" for line in self._batch)
        written = data[: os.write(self._fd, data)]
        whole = written[len(start) :].count(b"\n")
        del self._batch[:whole]
        self._torn = not written.endswith(b"\n")

    def _open(self) -> None:
        """Open the file, unless it is open and still the one of this name."""
        if not self._is_file:
            return
        with suppress(FileNotFoundError):
            if self._fd >= 0 and os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                return
        new = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = new
        size = os.fstat(new).st_size
        self._torn = size > 0 and os.pread(new, 1, size - 1) != b"\n"  # an earlier process ended in a line

    def _say(self, error: OSError) -> None:
        if self._throttle.should_log("file", error.strerror or "", time.monotonic()):
            waiting = len(self._waiting) + len(self._batch)
            self._tell(log.error, "audit log not written, lines wait", error=error.strerror, waiting=waiting)

    def _tell(self, say: Callable[..., object], event: str, **facts: object) -> None:
        with suppress(OSError):  # the disk of the log may be the same
            say(event, path=str(self._path), **facts)
