"""Starts child processes for the demo, tests and benchmarks, and stops all of them at the end.

Each child has its own session, so that Ctrl-C reaches only its parent. The kernel kills it when its parent dies, even
by kill -9. Its standard error goes to a log file, which is shown if it fails.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from billet.core.errors import BilletError
from billet.launch import Spawn, spawn

READY_S = 60.0  # generous: a busy machine starts Python slowly
STOP_S = 10.0
TAIL_LINES = 15


class ChildProcess:
    """One child process. `ready` waits for the JSON line that it prints once it serves."""

    def __init__(self, name: str, command: Sequence[str], log: Path, spawn: Spawn = spawn) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self._line = b""
        with log.open("ab") as errors:
            self.popen = spawn(command, errors, True)

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group id."""
        return self.popen.pid

    def running(self) -> bool:
        """Whether it is still running."""
        return self.popen.poll() is None

    def ready(self, timeout_s: float = READY_S) -> dict[str, Any]:
        """Wait for the JSON line and return it. BilletError with the end of the log if it exits or times out."""
        deadline_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            assert self.popen.stdout is not None
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            while b"\n" not in self._line:
                if not selector.select(max(deadline_s - time.monotonic(), 0)):
                    raise BilletError(f"{self.name} was not ready within {timeout_s:g} s\n{self.tail()}")
                chunk = os.read(self.popen.stdout.fileno(), 65536)
                if not chunk:
                    self.popen.wait()
                    raise BilletError(f"{self.name} ended with {self.popen.returncode}\n{self.tail()}")
                self._line += chunk
        addresses: dict[str, Any] = json.loads(self._line.partition(b"\n")[0])
        return addresses

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {self.name}: {line}" for line in lines[-TAIL_LINES:])

    def signal(self, number: int) -> None:
        """Send a signal to it and its children; no error if they have exited."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self, timeout_s: float = STOP_S) -> int:
        """Send SIGTERM, after `timeout_s` SIGKILL; returns the exit code."""
        stop_all([self], timeout_s)
        return self.popen.wait()


def stop_all(processes: Iterable[ChildProcess], timeout_s: float = STOP_S) -> None:
    """Send SIGTERM to all at once, and SIGKILL to those still running after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    running = list(processes)
    for process in running:
        if process.running():
            process.signal(signal.SIGTERM)
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(max(deadline_s - time.monotonic(), 0))
        process.kill()
        if process.popen.stdout:
            process.popen.stdout.close()


class Processes:
    """All child processes of one run. Leaving the `with` block stops them, foundations last."""

    def __init__(self, folder: Path, spawn: Spawn = spawn) -> None:
        self.folder = folder
        self._spawn = spawn
        self.all: list[ChildProcess] = []
        self._foundations: set[str] = set()  # names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_all(process for process in self.all if process.name not in self._foundations)
        stop_all(self.all)

    def start(self, name: str, command: Sequence[str], foundation: bool = False) -> ChildProcess:
        """Start a program that logs to NAME.log. A `foundation` is one that others depend on: it is stopped last."""
        if foundation:
            self._foundations.add(name)
        process = ChildProcess(name, command, self.folder / f"{name}.log", self._spawn)
        self.all.append(process)
        return process

    def restart(self, dead: ChildProcess) -> ChildProcess:
        """Start a process that has exited again, with the same command."""
        self.all.remove(dead)
        return self.start(dead.name, dead.command)

    def billet(self, name: str, *arguments: str) -> ChildProcess:
        """Start a subcommand of Billet with the Python interpreter that runs this."""
        return self.start(name, [sys.executable, "-m", "billet", *arguments])

    def check(self) -> None:
        """Raise BilletError for the first process that has exited unexpectedly."""
        for process in self.all:
            if not process.running():
                raise BilletError(f"{process.name} ended with {process.popen.returncode}\n{process.tail()}")


_draws = itertools.count(random.randrange(1 << 16))  # so that one process never uses a port twice


def free_port() -> int:
    """A currently free port of 127.0.0.1, for programs that cannot choose one themselves.

    The port is below the ephemeral range: the kernel could give an ephemeral port to an outgoing connection before
    the program listens on it. No other process of this user gets it from here until this process ends.
    """
    while True:
        port = 10_000 + next(_draws) % (_first_ephemeral_port() - 10_000)
        with socket.socket() as taken, suppress(OSError):
            fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            taken.bind(("127.0.0.1", port))
            return port


@cache
def _reservations() -> int:
    """An empty file. A process reserves a port by locking the byte at that offset; the lock ends with the process."""
    path = Path(tempfile.gettempdir(), f"billet-ports-{os.getuid()}")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _first_ephemeral_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768  # Linux's own default


def until_healthy(process: ChildProcess, url: str, timeout_s: float = READY_S) -> None:
    """Wait until a URL answers 200, for programs that print no ready line. Raises BilletError."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=1):
            return
        if not process.running() or time.monotonic() > deadline_s:
            raise BilletError(f"{process.name} does not answer at {url}\n{process.tail()}")
        time.sleep(0.05)
