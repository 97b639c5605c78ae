"""Whether the process of a microVM's VMM is there, by its pid file in flintlockd's state directory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from billet.core.model import Observed, VmState
from billet.core.vmm import Vmm

PID_FILES = ("firecracker.pid", "cloudhypervisor.pid")
PROC = Path("/proc")
STATE_AFTER = ")"  # in /proc/PID/stat: the program's name is in parentheses, and may contain some itself


class VmmProbe:
    """Looks for the VMMs of CREATED microVMs. Without access to their pid files, all are UNKNOWN."""

    def __init__(self, state_dir: str) -> None:
        self._folder = state_dir

    def look(self, row: Observed) -> Observed:
        """The microVM, with what its VMM does."""
        return row._replace(vmm=self._of(row)) if row.state is VmState.CREATED else row

    def _of(self, row: Observed) -> Vmm:
        for name in PID_FILES:
            with (
                suppress(OSError, ValueError),
                open(f"{self._folder}/{row.namespace}/{row.name}/{row.uid}/{name}") as file,  # noqa: PTH123  # 10 x faster
            ):
                return Vmm.RUNS if _runs(int(file.read())) else Vmm.DEAD
        return Vmm.UNKNOWN


def _runs(pid: int) -> bool:
    """Whether a process exists, and is no zombie."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(STATE_AFTER)[2].split()[0] not in ("Z", "X")
