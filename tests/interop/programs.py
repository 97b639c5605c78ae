"""Run the Go programs, the tools, and Python processes of the interop tests."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from billet.grpc.engine import GRPCIO, chosen
from billet.launch import ends_with_parent
from tests.interop.toolchain import BIN, CHECKOUT

ENDS_WITHIN_S = 60.0  # generous: the machine may be busy
POLL_S = 0.02
# Programs speak to this machine only.
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}


@dataclass
class Done:
    """A program that has ended, and the JSON objects that it printed."""

    code: int
    lines: list[dict[str, Any]]
    errors: str

    @property
    def last(self) -> dict[str, Any]:
        assert self.lines, self.errors
        return self.lines[-1]


def run(program: str, *arguments: str) -> Done:
    """Run one of our Go programs to its end."""
    done = tool(program, *arguments)
    return Done(done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr)


def tool(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of .tools/interop/bin to its end, for its text."""
    return command(str(BIN / program), *arguments)


def command(*line: str, folder: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    """Run any program to its end, for its text."""
    return subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=ENDS_WITHIN_S, check=False, env=ENVIRONMENT
    )


class Running:
    """A program that prints JSON lines and reads commands."""

    def __init__(self, line: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            ends_with_parent(line), cwd=CHECKOUT, text=True, env=ENVIRONMENT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._errors: list[str] = []
        for target in (self._read_lines, self._read_errors):
            threading.Thread(target=target, daemon=True).start()

    def next(self) -> dict[str, Any]:
        """The next object that it prints."""
        line = self._lines.get(timeout=ENDS_WITHIN_S)
        assert line is not None, f"it ended: {''.join(self._errors)}"
        return line

    def until(self, key: str) -> dict[str, Any]:
        """The next object that has this key."""
        while key not in (line := self.next()):
            pass
        return line

    def tell(self, text: str) -> None:
        """Give it a line of input."""
        assert self.process.stdin
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(ENDS_WITHIN_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _read_lines(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr
        self._errors.extend(self.process.stderr)


@contextmanager
def running(*line: str) -> Iterator[Running]:
    """Run a program until the block ends."""
    started = Running(line)
    try:
        yield started
    finally:
        started.kill()


def fault(row: int, what: str) -> pytest.MarkDecorator:
    """Marks a test of what Billet is known to do wrong: `row` of the list of faults in the transport."""
    return pytest.mark.xfail(reason=f"row {row}: {what}", strict=False)


def grpcio_fault(what: str) -> pytest.MarkDecorator:
    """Marks a test of what grpcio does wrong; Billet's own engine passes it."""
    return pytest.mark.xfail(chosen() == GRPCIO, reason=f"grpcio: {what}", strict=False)


def go_program(program: str, *arguments: str) -> list[str]:
    """The command line of one of our Go programs."""
    return [str(BIN / program), *arguments]


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line of one of the Python processes."""
    return [sys.executable, "-m", module, *arguments]


def wait_until(true: Callable[[], Any], what: str, within_s: float = 30.0) -> Any:
    """Poll until this gives something true, and return it."""
    deadline_s = time.monotonic() + within_s
    while not (found := true()):
        assert time.monotonic() < deadline_s, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)
    return found
