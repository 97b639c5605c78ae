"""What the machine says of itself: psutil, and the kernel's own files. What it does not say is None, never 0."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from billet.core.model import Resources
from billet.core.pressure import Stalls, smoothed
from billet.host.agent import Measured
from billet.ports import MachineFacts

MIB = 1024 * 1024
PSI = Path("/proc/pressure")
KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
PROGRAMS = {"firecracker": "firecracker", "cloudhypervisor": "cloud-hypervisor-static"}
OTHER_PROGRAMS = {"cloudhypervisor": "cloud-hypervisor"}


class MachineProbe:
    """The machine that the agent runs on. `state_dir` is where flintlockd keeps its microVMs' files."""

    def __init__(self, state_dir: str) -> None:
        self.has_pool = False  # volumes are in a thin pool,
        self.pool_free_mib: int | None = None  # and it has so much room; None = not known
        self._disk = existing(Path(state_dir))
        self.stands_in = None if self._disk == Path(state_dir) else self._disk  # measured, where state_dir is absent
        self._stalls = {name: Stalled(PSI / name) for name in Stalls._fields}
        self._memory_counts = self._disk_counts = True
        psutil.cpu_percent()  # the first call only sets the mark from which the next one measures

    def capacity(self, max_vms: int) -> Resources:
        """What the machine has."""
        disk_mib = psutil.disk_usage(str(self._disk)).total // MIB
        return Resources(os.cpu_count() or 1, psutil.virtual_memory().total // MIB, disk_mib, max_vms)

    def is_said_to_have(self, memory: bool, disk: bool) -> None:
        """The operator says how much there is. Then what is free on the machine cannot be held against it."""
        self._memory_counts, self._disk_counts = not memory, not disk

    def measure(self) -> Measured:
        """What it looks like now. Cheap: a few files of /proc, no waiting."""
        memory = psutil.virtual_memory()
        disk_free_mib = psutil.disk_usage(str(self._disk)).free // MIB
        now_s = time.monotonic()
        in_files_mib = disk_free_mib if self._disk_counts else None
        return Measured(
            cpu_share=psutil.cpu_percent() / 100.0,
            memory_used_mib=(memory.total - memory.available) // MIB,
            disk_free_mib=disk_free_mib,
            stalls=Stalls(*(stalled.share(now_s) for stalled in self._stalls.values())),
            memory_free_mib=memory.available // MIB if self._memory_counts else None,
            volumes_free_mib=self.pool_free_mib if self.has_pool else in_files_mib,
        )

    def describe(self) -> MachineFacts:
        """What the machine is, and which facts it cannot give. Looked at once, at the start."""
        model = cpu_model()
        kvm = os.access(KVM, os.R_OK | os.W_OK)
        providers = tuple(name for name in PROGRAMS if _installed(name))
        return MachineFacts(model, kvm, providers or None, tuple(self._lacks(model, kvm, providers)))

    def _lacks(self, model: str | None, kvm: bool, providers: tuple[str, ...]) -> Iterator[str]:
        if not PSI.is_dir():
            yield "pressure of CPU, memory and IO: this kernel has no /proc/pressure (PSI)"
        if not self._memory_counts:
            yield "memory that is truly free: --memory-mib is given, so that it is not measured"
        if not self._disk_counts and not self.has_pool:
            yield "room for volumes that is truly free: --disk-mib is given, so that it is not measured"
        if model is None:
            yield "CPU model: /proc/cpuinfo does not name it"
        if not kvm:
            yield "KVM: /dev/kvm is not there, or not ours to open"
        if not providers:
            yield "providers: neither firecracker nor cloud-hypervisor is on this agent's PATH"


class Stalled:
    """How much of the time some task waited for one resource, smoothed (core/pressure.py)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._share: float | None = None
        self._total_us, self._at_s = 0, 0.0

    def share(self, now_s: float) -> float | None:
        """The share, 0 to 1, up to this moment of a monotonic clock; None where there is no PSI."""
        try:
            avg10, total_us = parse_psi(self._path.read_text())
        except (OSError, ValueError):
            return None
        span_s = now_s - self._at_s
        if self._share is None:
            self._share = avg10
        elif span_s > 0:
            newest = min(1.0, (total_us - self._total_us) / (span_s * 1e6))
            self._share = smoothed(self._share, newest, span_s)
        self._total_us, self._at_s = total_us, now_s
        return self._share


def parse_psi(text: str) -> tuple[float, int]:
    """`some avg10=1.23 avg60=... total=456` as a share, 0 to 1, and microseconds. ValueError when it is not that."""
    values = dict(part.split("=", 1) for part in text.partition("\n")[0].split()[1:])
    if not text.startswith("some ") or not {"avg10", "total"} <= set(values):
        raise ValueError(text)
    return float(values["avg10"]) / 100.0, int(values["total"])


def cpu_model() -> str | None:
    """The model's name, None where the kernel does not give it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in named if name), None)


def _installed(provider: str) -> bool:
    return any(shutil.which(names.get(provider, "")) for names in (PROGRAMS, OTHER_PROGRAMS))


def existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists, which lies on the same disk."""
    while not path.exists():
        path = path.parent
    return path
