"""Run everything that was asked for, fleet by fleet."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import figures
from benchmarks.cluster import running, start_module, until_counted, using_grpc
from benchmarks.plan import BILLET, FLOORS, OTHER, Case, Fleet, Measured, Plan, Settings, Target
from billet.client import Address
from billet.core.errors import BilletError
from billet.demo.cluster import BootTimes, start_fakes
from billet.demo.processes import Processes
from billet.demo.workload import HostSize


def run_all(settings: Settings, other: Address | None, console: Console) -> list[Case]:
    """Every fleet, one after another, beside the floors and the other endpoint, which stand all the time."""
    fleets, loads = settings.fleets(), settings.loads()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    measured: dict[Fleet, list[Measured]] = {}
    with floors() as beside, Progress(*columns, console=console) as progress:
        if other:
            beside.append(Target(OTHER, other))
        shown = progress.add_task("", total=(len(beside) + 1) * len(loads) * len(fleets))
        for fleet in fleets:
            progress.update(shown, description=describe(fleet))
            for one in measure(settings, fleet, beside):
                measured.setdefault(fleet, []).append(one)
                progress.advance(shown)
    return [case for fleet, of_fleet in measured.items() for case in figures.cases(fleet, of_fleet)]


@contextmanager
def floors() -> Iterator[list[Target]]:
    """One bare fake flintlockd on each implementation of gRPC."""
    size, boots = [HostSize("floor", 1, 1, 1)], BootTimes(0.0, 0.0, 0.0, seed=1)
    with TemporaryDirectory(prefix="billet-bench-floors-") as folder, Processes(Path(folder)) as processes:
        targets = []
        for engine in FLOORS:
            with using_grpc(engine):
                fake = start_fakes(processes, size, boots, engine)[0]
            targets.append(Target(engine, Address(fake.flintlock), {"fakes": [fake.process.pid]}))
        yield targets


def measure(settings: Settings, fleet: Fleet, beside: list[Target]) -> Iterator[Measured]:
    """All runs of one fleet. BilletError when the ledger does not count afterwards what was created."""
    loads = settings.loads()
    total = fleet.placed + sum(load.creates + load.warm_up for load in loads)
    capacity = 100 + 3 * total // fleet.hosts
    with running(fleet, capacity, settings) as cluster, busy(settings.busy_loops):
        billet = Target(BILLET, Address(cluster.grpc), cluster.pids)
        # The other endpoint comes last, so that Billet stays right beside the floors.
        targets = sorted([*beside, billet], key=lambda target: target.name == OTHER)
        failed = 0
        for one in carry_out(Plan(f"bench-{secrets.token_hex(3)}", targets, loads, cluster.silent)):
            failed += one.failed
            yield one
        until_counted(cluster.grpc, fleet.hosts, total, unknown=failed)


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """So many processes that do nothing but use a core."""
    with TemporaryDirectory(prefix="billet-bench-busy-") as folder, Processes(Path(folder)) as processes:
        for n in range(loops):
            processes.start(f"busy-{n}", [sys.executable, "-c", "while True: pass"])
        yield
        processes.check()


def carry_out(plan: Plan) -> Iterator[Measured]:
    """Have a client of its own carry out the plan: what it says after each run."""
    with TemporaryDirectory(prefix="billet-bench-client-") as folder, Processes(Path(folder)) as processes:
        client = start_module(processes, "client", "client", plan)
        assert client.popen.stdout is not None
        for _ in range(len(plan.loads) * len(plan.targets)):
            line = client.popen.stdout.readline()
            if not line:
                client.popen.wait()
                raise BilletError(f"the client ended with {client.popen.returncode}\n{client.tail()}")
            yield msgspec.json.decode(line, type=Measured)
        if client.popen.wait():
            raise BilletError(f"the client ended with {client.popen.returncode}\n{client.tail()}")


def describe(fleet: Fleet) -> str:
    """A fleet in a few words."""
    placed = f", {fleet.placed} placed" if fleet.placed else ""
    return f"{fleet.hosts} hosts{placed}, {fleet.store}"
