"""Creates microVMs at a steady rate and polls the hosts until each is CREATED. Used with Billet and static list."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from billet.client import Client
from billet.core.errors import BilletError
from billet.demo.workload import HostSize, Shape, spec_of
from billet.wire.pb.flintlock_pb2 import (
    CreateMicroVMRequest,
    CreateMicroVMResponse,
    ListMicroVMsRequest,
    ListMicroVMsResponse,
)
from billet.wire.pb.flintlock_types_pb2 import MicroVM, MicroVMStatus

TICK_S = 0.05  # interval at which the hosts are polled, and so the precision of the times
PATIENCE_S = 180.0  # the run fails after this long without progress


@dataclass(slots=True)
class HostLoad:
    """Totals of one flintlockd's microVM list."""

    size: HostSize
    vcpu: int = 0
    memory_mib: int = 0
    vms: int = 0
    created: int = 0

    @property
    def share(self) -> float:
        """The larger of the shares of vCPU and memory, 0 = idle, 1 = full, above 1 = overcommitted."""
        return max(self.vcpu / self.size.vcpu, self.memory_mib / self.size.memory_mib)

    def update(self, listed: Sequence[MicroVM]) -> None:
        """Recompute the totals from a list."""
        self.vcpu = sum(vm.spec.vcpu for vm in listed)
        self.memory_mib = sum(vm.spec.memory_in_mb for vm in listed)
        self.vms = len(listed)
        self.created = sum(vm.status.state == MicroVMStatus.CREATED for vm in listed)


@dataclass(slots=True)
class LoadRun:
    """Progress and results of one run. Times are seconds of the monotonic clock."""

    shapes: Sequence[Shape]
    loads: list[HostLoad]
    sent_s: dict[str, float] = field(default_factory=dict)  # name -> time at which the create was sent
    uid: dict[str, str] = field(default_factory=dict)  # name -> uid, from the create's reply
    refused: dict[str, str] = field(default_factory=dict)  # name -> error text
    took_s: dict[str, float] = field(
        default_factory=dict
    )  # name -> seconds from sending the create to seeing CREATED

    @property
    def done(self) -> bool:
        """Whether every microVM is CREATED or refused."""
        return len(self.took_s) + len(self.refused) == len(self.shapes)

    @property
    def cov(self) -> float:
        """Coefficient of variation of the hosts' utilisation; 0 = all equally full."""
        shares = [load.share for load in self.loads]
        return pstdev(shares) / fmean(shares) if any(shares) else 0.0

    @property
    def fullest(self) -> float:
        """Utilisation of the fullest host."""
        return max(load.share for load in self.loads)

    @property
    def overcommitted(self) -> list[HostLoad]:
        """The hosts with more allocated than they have."""
        return [load for load in self.loads if load.share > 1]

    def percentile_s(self, share: float) -> float:
        """The given percentile (`share`, 0 to 1) of the times to CREATED, in seconds."""
        times = sorted(self.took_s.values())
        return times[min(int(share * len(times)), len(times) - 1)] if times else 0.0


def run_load(
    shapes: Sequence[Shape],
    hosts: Mapping[str, tuple[HostSize, Client]],
    choose: Callable[[Shape], Client],
    rate_per_s: float,
    at_once: int,
    show: Callable[[LoadRun], None],
) -> LoadRun:
    """Send creates at `rate_per_s`, `at_once` together, without waiting for replies; return when all are done.

    Raises BilletError after PATIENCE_S without progress.
    """
    run = LoadRun(shapes, [HostLoad(size) for size, _ in hosts.values()])
    pending: dict[str, tuple[Client, Future[CreateMicroVMResponse]]] = {}
    begun_s = progress_s = time.monotonic()
    while not run.done:
        now_s = time.monotonic()
        due = min((int((now_s - begun_s) * rate_per_s / at_once) + 1) * at_once, len(shapes))
        for shape in shapes[len(run.sent_s) : due]:
            client = choose(shape)
            run.sent_s[shape.name] = time.monotonic()
            request = CreateMicroVMRequest(microvm=spec_of(shape))
            pending[shape.name] = client, client.begin("CreateMicroVM", request, CreateMicroVMResponse)
        before = len(run.sent_s), len(run.took_s), len(run.refused)
        _collect(run, pending)
        _poll_hosts(run, hosts)
        show(run)
        if before != (len(run.sent_s), len(run.took_s), len(run.refused)) or pending:
            progress_s = now_s
        if now_s - progress_s > PATIENCE_S:
            raise BilletError(f"{len(shapes) - len(run.took_s)} microVMs were not CREATED in {PATIENCE_S:g} s")
        time.sleep(max(0.0, TICK_S - (time.monotonic() - now_s)))
    return run


def _collect(run: LoadRun, pending: dict[str, tuple[Client, Future[CreateMicroVMResponse]]]) -> None:
    for name, (client, call) in list(pending.items()):
        if not call.done():
            continue
        del pending[name]
        try:
            run.uid[name] = client.finish(call).microvm.spec.uid
        except BilletError as error:
            run.refused[name] = error.text


def _poll_hosts(run: LoadRun, hosts: Mapping[str, tuple[HostSize, Client]]) -> None:
    """Ask all flintlockds directly and at the same time."""
    calls = [
        (client, client.begin("ListMicroVMs", ListMicroVMsRequest(), ListMicroVMsResponse))
        for _, client in hosts.values()
    ]
    for load, (client, call) in zip(run.loads, calls, strict=True):
        listed = client.finish(call).microvm
        load.update(listed)
        now_s = time.monotonic()
        for vm in listed:
            name = vm.spec.id
            if vm.status.state == MicroVMStatus.CREATED and name in run.uid and name not in run.took_s:
                run.took_s[name] = now_s - run.sent_s[name]
