"""`python -m benchmarks`: run the benchmarks, print a table, and write a JSON file and a chart."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import figures
from benchmarks.cluster import encoded, running, until_counted, using_grpc
from benchmarks.plan import PER_HOST_MAX, STORES, Case, Fleet, Machine, Measured, Plan, Report, Run, Settings
from benchmarks.screen import WIDTH, draw, markdown, table
from billet.core.errors import BilletError
from billet.demo.cluster import BootTimes, FakeHost
from billet.demo.cluster import start_fakes as start_floor
from billet.demo.etcd import etcd_program
from billet.demo.processes import Processes
from billet.demo.walkthrough import stopping_on_signals
from billet.demo.workload import HostSize
from billet.grpc.engine import GRPCIO, OWN, VARIABLE

WARM_UP = 20  # creates at least, before each run
ONE_IN_FLIGHT_SHARE = 3  # runs with one in flight make a third of the creates: they take the longest
QUICK: dict[str, Any] = {"hosts": [5, 100], "in_flight": [1, 64], "placed": [0], "creates": 300, "repeats": 1}


def numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    """`5,32,100` as a list."""
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not like 1,16,64") from None


@click.command()
@click.option("--hosts", callback=numbers, default="5,32,100", show_default=True, help="Numbers of hosts.")
@click.option(
    "--in-flight",
    callback=numbers,
    default="1,16,64",
    show_default=True,
    help="Numbers of concurrent creates, comma-separated.",
)
@click.option("--stores", default="sqlite,etcd", show_default=True, help="Stores: sqlite, etcd.")
@click.option(
    "--placed", callback=numbers, default="0,10000", show_default=True,
    help=f"MicroVMs placed before the run. Cases with more than {PER_HOST_MAX} per host are skipped.",
)  # fmt: skip
@click.option("--creates", default=600, show_default=True, help="Creates per run; a third with one in flight.")
@click.option("--repeats", default=3, show_default=True, help="Runs per case; the median is reported.")
@click.option("--link-tls/--no-link-tls", default=True, show_default=True, help="TLS between server and agents.")
@click.option(
    "--fake-grpc", type=click.Choice([OWN, GRPCIO]), default=OWN, show_default=True,
    help=f"The fakes' implementation of gRPC. Billet's own is that of {VARIABLE}.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Smaller runs: under a minute, for a first look.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="benchmarks/results/latest.json",
    show_default=True, help="The JSON file; the table (.md) and the chart (.svg) go beside it.",
)  # fmt: skip
def main(stores: str, quick: bool, out: Path, **values: Any) -> None:
    """Measure creates per second and latency (ms) through Billet and of a single flintlockd."""
    chosen = stores.split(",")
    if unknown := set(chosen) - set(STORES):
        raise click.BadParameter(f"{', '.join(unknown)}: it is of {', '.join(STORES)}", param_hint="--stores")
    settings = Settings(stores=chosen, **values | (QUICK if quick else {}))
    console = Console(width=max(Console().width, WIDTH))
    if "etcd" in chosen and etcd_program() is None:
        raise click.UsageError("etcd is not on PATH; install etcd-server, or give --stores sqlite")
    begun_s = time.monotonic()
    try:
        with stopping_on_signals():
            cases = run_all(settings, console)
    except BilletError as error:
        console.print(error.text, style="red", highlight=False, markup=False)
        sys.exit(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = Report(machine(), msgspec.to_builtins(settings), cases)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    console.print(table(report))
    out.with_suffix(".md").write_text(markdown(report))
    draw(report, out.with_suffix(".svg"))
    console.print(f"{out}, .md and .svg, in {time.monotonic() - begun_s:.0f} s", highlight=False)


def run_all(settings: Settings, console: Console) -> list[Case]:
    """Every fleet, one after another, beside one floor that stands all the time."""
    fleets = settings.fleets()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    cases: list[Case] = []
    with (
        TemporaryDirectory(prefix="billet-bench-floor-") as folder,
        Processes(Path(folder)) as processes,
        Progress(*columns, console=console) as progress,
    ):
        runs = 2 * settings.repeats * len(settings.in_flight)
        shown = progress.add_task("", total=runs * len(fleets))
        with using_grpc(settings.fake_grpc):
            floor = start_floor(processes, [HostSize("floor", 1, 1, 1)], BootTimes(0.0, 0.0, 0.0, seed=1), "fake")[0]
        for fleet in fleets:
            progress.update(shown, description=describe(fleet))
            measured = []
            for one in measure(settings, fleet, floor):
                measured.append(one)
                progress.advance(shown)
            cases += figures.cases(fleet, measured)
    return cases


def measure(settings: Settings, fleet: Fleet, floor: FakeHost) -> Iterator[Measured]:
    """All runs of one fleet. BilletError when the ledger does not count afterwards what was created."""
    creates = [(in_flight, *amounts(settings, in_flight)) for in_flight in settings.in_flight] * settings.repeats
    total = fleet.placed + sum(count + warm_up for _, count, warm_up in creates)
    capacity = 100 + 3 * total // fleet.hosts
    with running(fleet, capacity, settings.link_tls, settings.fake_grpc) as cluster:
        runs = [
            Run(target, address, in_flight, count, warm_up)
            for in_flight, count, warm_up in creates
            for target, address in (("floor", floor.flintlock), ("billet", cluster.grpc))
        ]
        plan = Plan(runs, {"floor": {"fakes": floor.process.pid}, "billet": cluster.pids})
        yield from carry_out(plan)
        until_counted(cluster.grpc, fleet.hosts, total)


def amounts(settings: Settings, in_flight: int) -> tuple[int, int]:
    """Creates of one run, and those before its clock starts."""
    share = ONE_IN_FLIGHT_SHARE if in_flight == 1 else 1
    return max(settings.creates // share, 1), max(min(WARM_UP, settings.creates), in_flight)


def carry_out(plan: Plan) -> Iterator[Measured]:
    """Have a client of its own carry out the plan: what it says after each run."""
    with TemporaryDirectory(prefix="billet-bench-client-") as folder, Processes(Path(folder)) as processes:
        client = processes.start("client", [sys.executable, "-m", "benchmarks.client", encoded(plan)])
        assert client.popen.stdout is not None
        for _ in plan.runs:
            line = client.popen.stdout.readline()
            if not line:
                client.popen.wait()
                raise BilletError(f"the client ended with {client.popen.returncode}\n{client.tail()}")
            yield msgspec.json.decode(line, type=Measured)


def describe(fleet: Fleet) -> str:
    """A fleet in a few words."""
    placed = f", {fleet.placed} placed" if fleet.placed else ""
    return f"{fleet.hosts} hosts{placed}, {fleet.store}"


def machine() -> Machine:
    """This machine, without its name."""
    return Machine(
        cores=os.cpu_count() or 1,
        cpu=cpu_model(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        grpcio=version("grpcio"),
        measured_at=time.strftime("%Y-%m-%d"),
    )


def cpu_model() -> str:
    """What Linux calls the processor; "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
