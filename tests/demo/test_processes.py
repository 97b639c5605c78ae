"""Child processes are started, awaited, and always stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from billet.core.errors import BilletError
from billet.demo.processes import Processes

SERVE = "import json, time; print(json.dumps({'grpc': 'x:1'}), flush=True); time.sleep(600)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def gone(pid: int, timeout_s: float = 60.0) -> bool:
    """Whether a process exits, or becomes a zombie, in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_the_ready_line_is_read_and_the_process_is_stopped(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("child", python(SERVE))
        assert child.ready() == {"grpc": "x:1"}
        processes.check()
    assert not psutil.pid_exists(child.pid)


def test_a_process_that_ends_before_it_is_ready_shows_the_end_of_its_log(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("child", python("raise SystemExit('no disk left')"))
        with pytest.raises(BilletError, match=r"child ended with 1\n  child: no disk left"):
            child.ready()
        with pytest.raises(BilletError, match="child ended"):
            processes.check()


def test_a_process_without_a_ready_line_times_out(tmp_path):
    with Processes(tmp_path) as processes:
        child = processes.start("child", python("import time; time.sleep(600)"))
        with pytest.raises(BilletError, match="not ready within"):
            child.ready(timeout_s=0.2)


def test_a_process_that_ignores_sigterm_is_killed(tmp_path):
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SERVE}"
    with Processes(tmp_path) as processes:
        child = processes.start("child", python(code))
        child.ready()
        assert child.stop(timeout_s=0.2) == -signal.SIGKILL


def test_grandchildren_end_too(tmp_path):
    code = """
import json, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"pid": other.pid}), flush=True)
time.sleep(600)
"""
    with Processes(tmp_path) as processes:
        pid = processes.start("child", python(code)).ready()["pid"]
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_kill_9_of_the_parent_ends_its_children(tmp_path: Path):
    code = f"""
import time
from pathlib import Path
from billet.demo.processes import Processes
processes = Processes(Path({str(tmp_path)!r}))
child = processes.start("child", [{sys.executable!r}, "-c", {SERVE!r}])
child.ready()
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(starter.pid, signal.SIGKILL)
    assert gone(pid)
