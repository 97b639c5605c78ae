"""Measures the machine, with psutil and the kernel's files. A metric that is unavailable is None, never 0."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from billet.core.model import Resources
from billet.core.pressure import Stalls, smoothed
from billet.core.report import MachineFacts
from billet.host.agent import Measured

MIB = 1024 * 1024
PSI = Path("/proc/pressure")
KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
PROGRAMS = {"firecracker": "firecracker", "cloudhypervisor": "cloud-hypervisor-static"}
OTHER_PROGRAMS = {"cloudhypervisor": "cloud-hypervisor"}


class MachineProbe:
    """Measures the machine that the agent runs on. `state_dir` is flintlockd's state directory."""

    def __init__(self, state_dir: str) -> None:
        self.has_pool = False  # volumes are in a thin pool
        self.pool_free_mib: int | None = None  # free space in that pool; None = unknown
        self._disk = existing(Path(state_dir))
        self.stands_in = (
            None if self._disk == Path(state_dir) else self._disk
        )  # measured instead, while state_dir is missing
        self._stalls = {name: Stalled(PSI / name) for name in Stalls._fields}
        self._memory_counts = self._disk_counts = True
        psutil.cpu_percent()  # the first call only starts the measurement

    def capacity(self, max_vms: int) -> Resources:
        """The machine's total resources, with this many microVM slots."""
        disk_mib = psutil.disk_usage(str(self._disk)).total // MIB
        return Resources(os.cpu_count() or 1, psutil.virtual_memory().total // MIB, disk_mib, max_vms)

    def is_said_to_have(self, memory: bool, disk: bool) -> None:
        """The operator has set memory or disk. The machine's own free amount then no longer limits it."""
        self._memory_counts, self._disk_counts = not memory, not disk

    def measure(self) -> Measured:
        """Measure now. Cheap: reads a few files of /proc and does not wait."""
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
        """The machine's CPU model, KVM and providers, and which metrics are unavailable, and why."""
        model = cpu_model()
        kvm = os.access(KVM, os.R_OK | os.W_OK)
        providers = tuple(name for name in PROGRAMS if _installed(name))
        return MachineFacts(model, kvm, providers or None, tuple(self._unavailable(model, kvm, providers)))

    def _unavailable(self, model: str | None, kvm: bool, providers: tuple[str, ...]) -> Iterator[str]:
        if not PSI.is_dir():
            yield "pressure of CPU, memory and IO: the kernel has no /proc/pressure (PSI)"
        if not self._memory_counts:
            yield "free memory: not measured, because --memory-mib is set"
        if not self._disk_counts and not self.has_pool:
            yield "free space for volumes: not measured, because --disk-mib is set"
        if model is None:
            yield "CPU model: /proc/cpuinfo does not contain it"
        if not kvm:
            yield "KVM: /dev/kvm is missing or may not be opened by this user"
        if not providers:
            yield "providers: neither firecracker nor cloud-hypervisor is on the agent's PATH"


class Stalled:
    """The share of time in which some task waited for one resource, smoothed (core/pressure.py)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._share: float | None = None
        self._total_us, self._at_s = 0, 0.0

    def share(self, now_s: float) -> float | None:
        """The share, 0 to 1, up to this monotonic time; None without PSI."""
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
    """Parse `some avg10=1.23 avg60=... total=456` into a share, 0 to 1, and microseconds. Raises ValueError."""
    values = dict(part.split("=", 1) for part in text.partition("\n")[0].split()[1:])
    if not text.startswith("some ") or not {"avg10", "total"} <= set(values):
        raise ValueError(text)
    return float(values["avg10"]) / 100.0, int(values["total"])


def cpu_model() -> str | None:
    """The CPU model's name, None when the kernel does not show it."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in named if name), None)


def _installed(provider: str) -> bool:
    return any(shutil.which(names.get(provider, "")) for names in (PROGRAMS, OTHER_PROGRAMS))


def existing(path: Path) -> Path:
    """The folder itself, or its nearest existing parent, which is on the same disk."""
    while not path.exists():
        path = path.parent
    return path
