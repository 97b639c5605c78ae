"""Start a child process that ends when its parent does, even after kill -9."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Protocol

# Runs in the child before the real program. A preexec_fn would run between fork and exec, which is not safe in a
# process with gRPC's threads. PR_SET_PDEATHSIG is 1. The parent may have died before it is set, hence the check.
LAUNCH = """
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def ends_with_parent(command: Sequence[str]) -> list[str]:
    """The command line for a child that the kernel kills when this process, or the thread that starts it, dies."""
    return [sys.executable, "-ISc", LAUNCH, str(os.getpid()), *command]


class Child(Protocol):
    """A process that was started: the part of subprocess.Popen that its starter needs."""

    pid: int
    stdout: IO[bytes] | None
    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""


Spawn = Callable[[Sequence[str], IO[bytes] | None, bool], Child]  # command, stderr (None: ours), start a session


def spawn(command: Sequence[str], stderr: IO[bytes] | None = None, start_new_session: bool = False) -> Child:
    """Start a process that ends with this one. Its standard output is a pipe."""
    return subprocess.Popen(
        ends_with_parent(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
        start_new_session=start_new_session,
    )  # fmt: skip
