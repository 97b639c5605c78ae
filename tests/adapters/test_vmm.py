"""The probe of VMMs: real processes, and pid files as flintlockd writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from billet.adapters.vmm import VmmProbe
from billet.core.model import Observed, Resources, VmState
from billet.core.vmm import Vmm

ROW = Observed("U1", "ns", "vm", Resources(1, 1024, 0, 1), VmState.CREATED)


def pid_file(folder: Path, pid: int, name: str = "firecracker.pid") -> None:
    home = folder / "ns" / "vm" / "U1"
    home.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(f"{pid}\n")


def test_a_vmm_that_runs_and_one_that_is_dead(tmp_path: Path) -> None:
    pid_file(tmp_path, os.getpid())
    assert VmmProbe(str(tmp_path)).look(ROW).vmm is Vmm.RUNS
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has waited for it
    pid_file(tmp_path, child.pid)
    assert VmmProbe(str(tmp_path)).look(ROW).vmm is Vmm.DEAD
    child.wait()
    assert VmmProbe(str(tmp_path)).look(ROW).vmm is Vmm.DEAD


def test_without_a_pid_file_nothing_is_known(tmp_path: Path) -> None:
    assert VmmProbe(str(tmp_path)).look(ROW).vmm is Vmm.UNKNOWN
    pid_file(tmp_path, os.getpid(), "cloudhypervisor.pid")
    assert VmmProbe(str(tmp_path)).look(ROW).vmm is Vmm.RUNS
    pending = ROW._replace(state=VmState.PENDING)
    assert VmmProbe(str(tmp_path)).look(pending).vmm is Vmm.UNKNOWN
