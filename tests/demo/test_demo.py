"""`billet demo` as a user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "billet", "demo"]
QUICK = ["--boot-mean-s", "0.05", "--pull-mean-s", "0.05", "--rate", "40"]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "100"}


def left_behind(tmp_path: Path) -> list[str]:
    """Files in the run's folder, and processes that still have its path in their arguments."""
    files = [str(path) for path in tmp_path.iterdir()]
    running = [" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])]
    return files + [line for line in running if str(tmp_path) in line]


def test_demo_runs_and_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [*COMMAND, "--hosts", "3", "--create", "12", "--at-once", "2", *QUICK],
        env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "12/12" in done.stdout
    assert "One auction explained" in done.stdout
    assert " won at " in done.stdout
    assert "time to CREATED, p99" in done.stdout
    assert re.search(r"predicted vs reported +0\.00% +largest of 12 differences", done.stdout)
    assert left_behind(tmp_path) == []


def test_demo_with_json_prints_its_addresses_and_stops_on_sigint(tmp_path):
    command = [*COMMAND, "--hosts", "2", "--json", "--keep", *QUICK]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        addresses = json.loads(demo.stdout.readline())
        assert [host["id"] for host in addresses["hosts"]] == ["host-1", "host-2"]
        listed = subprocess.run(
            [sys.executable, "-m", "billet", "hosts", "-s", addresses["grpc"], "-o", "json"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert [host["state"] for host in json.loads(listed.stdout)] == ["READY", "READY"]
        demo.send_signal(signal.SIGINT)
        assert demo.stdout.read() == ""
    assert demo.returncode == 0
    assert left_behind(tmp_path) == []
