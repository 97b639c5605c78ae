"""What the machine says of itself: psutil, and PSI where the kernel has it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from billet.control.agent import Measured
from billet.core.model import Resources

MIB = 1024 * 1024
PSI = Path("/proc/pressure")


class Machine:
    """The machine that the agent runs on. `state_dir` is where flintlockd keeps its microVMs' files."""

    def __init__(self, state_dir: str) -> None:
        self._disk = existing(Path(state_dir))
        psutil.cpu_percent()  # the first call only sets the mark from which the next one measures

    def capacity(self, max_vms: int) -> Resources:
        """What the machine has."""
        disk_mib = psutil.disk_usage(str(self._disk)).total // MIB
        return Resources(os.cpu_count() or 1, psutil.virtual_memory().total // MIB, disk_mib, max_vms)

    def measure(self) -> Measured:
        """What it looks like now. Cheap: a few files of /proc, no waiting."""
        memory = psutil.virtual_memory()
        return Measured(
            cpu_share=psutil.cpu_percent() / 100.0,
            memory_used_mib=(memory.total - memory.available) // MIB,
            disk_free_mib=psutil.disk_usage(str(self._disk)).free // MIB,
            pressure=max(stalled("cpu"), stalled("memory"), stalled("io")),
        )


def stalled(resource: str) -> float:
    """The share of the last 10 s in which some task waited for a resource, 0 to 1; 0 where there is no PSI."""
    try:
        line = (PSI / resource).read_text().splitlines()[0]
    except (OSError, IndexError):
        return 0.0
    return parse_psi(line)


def parse_psi(line: str) -> float:
    """`some avg10=1.23 avg60=...` as a share, 0 to 1."""
    for part in line.split():
        name, _, value = part.partition("=")
        if name == "avg10":
            return float(value) / 100.0
    return 0.0


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists, which lies on the same disk."""
    while not path.exists():
        path = path.parent
    return path
