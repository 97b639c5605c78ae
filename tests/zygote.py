"""Start Billet's processes by forking one that has imported Billet already.

Python and the imports take a server 0.8 s of CPU, an agent and a fake 0.5 s each; a fork takes 0.02 s. The child is
an ordinary process: its own pid, session, log and environment, a child of the test (`wait` works; it dies with the
test), and nothing is shared. The demo, the benchmarks and the tests of the command line start `python -m billet`.

The test asks over a socket and passes stdout and stderr of the child. The zygote forks twice and the first fork
ends at once, so that the kernel makes the second one a child of the test process, a declared subreaper.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from billet.cli import COMMANDS
from billet.launch import Child, spawn

CHECKOUT = Path(__file__).parents[1]
PYTHON_M = [sys.executable, "-m"]
MODULES = ("billet", "billet.fake", "tests.together")  # what it can run
# None of these starts a thread or a gRPC channel when it is imported: both would not survive a fork.
PRELOAD = (
    *(target.module for target in COMMANDS.values()), "billet.node", "billet.node_agent", "billet.store.etcd",
    "billet.fake.server", "uvloop", "uvicorn.lifespan.off", "uvicorn.protocols.http.h11_impl",
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ADOPTED_WITHIN_S = 30.0


class Forked:
    """The part of subprocess.Popen that `billet.launch.Child` asks for."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._ended = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._reap(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        code = self._reap(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _reap(self, timeout_s: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                poll = select.poll()
                poll.register(self._ended, select.POLLIN)
                if poll.poll(None if timeout_s is None else timeout_s * 1000):
                    self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                    os.close(self._ended)
            return self.returncode


class Zygote:
    """The test's side. The zygote starts with the first process and ends when the test process does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    def spawn(
        self, command: Sequence[str], stderr: IO[bytes] | None = None, start_new_session: bool = False
    ) -> Child:
        """As billet.launch.spawn; a program that is not Billet's is started as that does it."""
        if sys.platform != "linux" or list(command[:2]) != PYTHON_M or command[2] not in MODULES:
            return spawn(command, stderr, start_new_session)
        out, child_out = os.pipe()
        request = {
            "module": command[2], "arguments": list(command[3:]), "session": start_new_session,
            "starter": os.getpid(), "folder": str(Path.cwd()), "environment": dict(os.environ),
        }  # fmt: skip
        with self._lock:
            ours = self._socket = self._socket or self._start()
            socket.send_fds(ours, [json.dumps(request).encode()], [child_out, stderr.fileno() if stderr else 2])
            os.close(child_out)
            pid = int(ours.recv(64))
        return Forked(pid, os.fdopen(out, "rb"))

    def run(self, *arguments: str, module: str = "billet") -> subprocess.CompletedProcess[str]:
        """Run `billet`, or another of its modules, to its end, as subprocess.run does."""
        with tempfile.TemporaryFile() as errors:
            process = self.spawn([*PYTHON_M, module, *arguments], errors)
            assert process.stdout
            with process.stdout:
                said = process.stdout.read().decode()
            code = process.wait()
            errors.seek(0)
            return subprocess.CompletedProcess(arguments, code, said, errors.read().decode())

    def _start(self) -> socket.socket:
        if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError("the kernel knows no PR_SET_CHILD_SUBREAPER")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [*PYTHON_M, __name__, str(theirs.fileno())]
        subprocess.Popen(
            command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        return ours


ZYGOTE = Zygote()


def next_child(requests: socket.socket) -> dict[str, Any]:
    """Fork for each request. Returns in each child; the zygote itself ends when the test process has."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 20, 2)
        if not message:
            sys.exit()
        middle = os.fork()
        if not middle:
            if os.fork():
                os._exit(0)
            request: dict[str, Any] = json.loads(message)
            become(request, requests, *descriptors)
            return request
        os.waitpid(middle, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: dict[str, Any], requests: socket.socket, stdout: int, stderr: int) -> None:
    """Make this process what its starter asked for, and tell it the pid."""
    if request["session"]:
        os.setsid()
    deadline_s = time.monotonic() + ADOPTED_WITHIN_S
    while os.getppid() != request["starter"]:  # the process in between has not ended yet
        if time.monotonic() > deadline_s:
            os._exit(1)
        time.sleep(0.0002)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != request["starter"]:
        os._exit(1)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.close(stdout)
    os.close(stderr)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    requests.send(str(os.getpid()).encode())
    requests.close()


def main() -> NoReturn:
    requests = socket.socket(fileno=int(sys.argv[1]))
    for module in PRELOAD:
        importlib.import_module(module)
    gc.freeze()
    request = next_child(requests)
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main()
