"""`python -m benchmarks`: run the benchmarks, print a table, and write a JSON file and a chart."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from benchmarks.plan import PER_HOST_MAX, STORES, Machine, Report, Settings
from benchmarks.run import run_all
from benchmarks.screen import WIDTH, draw, markdown, tables
from billet.accepting import raise_descriptor_limit
from billet.client import Address
from billet.commands.options import CLIENT_OPTIONS, secret
from billet.core.errors import BilletError
from billet.demo.etcd import etcd_program
from billet.demo.walkthrough import stopping_on_signals
from billet.grpc.engine import GRPCIO, OWN, VARIABLE
from billet.settings import check_endpoint

QUICK: dict[str, Any] = {"hosts": [5, 100], "in_flight": [1, 64], "placed": [0], "creates": 300, "repeats": 1}


def numbers(context: click.Context, option: click.Parameter, value: str) -> list[int]:
    """`5,32,100` as a list."""
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not like 1,16,64") from None


def credentials(command: Callable[..., None]) -> Callable[..., None]:
    """The options of Billet's own commands for a token and TLS. Without their variables: those are for a server."""
    for name, default, metavar, text in reversed(CLIENT_OPTIONS[1:]):
        command = click.option(f"--{name}", default=default, metavar=metavar, help=f"For --against: {text}")(command)
    return command


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
@click.option(
    "--agents-per-process",
    type=click.IntRange(1),
    default=250,
    show_default=True,
    help="Number of agents in one process: a fleet of 1,000 hosts has four.",
)
@click.option(
    "--burst",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Measure one burst instead: N creates at once, on a fleet that is started anew for each repeat.",
)
@click.option(
    "--busy-loops",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Number of processes that use the CPU meanwhile and do nothing.",
)
@click.option(
    "--silent-hosts",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Number of hosts whose agents are stopped (SIGSTOP) during each run.",
)
@click.option(
    "--against",
    default="",
    metavar="HOST:PORT",
    help="Another Flintlock endpoint that gets the same load. Its microVMs are deleted again.",
)
@credentials
@click.option("--quick", is_flag=True, help="Smaller runs: about a minute, for a first look.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="benchmarks/results/latest.json",
    show_default=True, help="The JSON file; the table (.md) and the chart (.svg) go beside it.",
)  # fmt: skip
def main(stores: str, quick: bool, out: Path, **values: Any) -> None:
    """Measure creates through Billet: rate, latency, and the balance of the hosts. A single flintlockd, and any other
    Flintlock endpoint, get the same load beside it."""
    console = Console(width=max(Console().width, WIDTH))
    begun_s = time.monotonic()
    try:
        other = other_endpoint(values)
        settings = checked(Settings(stores=stores.split(","), **values | (QUICK if quick else {})))
        raise_descriptor_limit()
        with stopping_on_signals():
            cases = run_all(settings, other, console)
    except BilletError as error:
        console.print(error.text, style="red", highlight=False, markup=False)
        sys.exit(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = Report(machine(), msgspec.to_builtins(settings), cases)
    out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    for table in tables(report):
        console.print(table)
    out.with_suffix(".md").write_text(markdown(report))
    draw(report, out.with_suffix(".svg"))
    console.print(f"{out}, .md and .svg, in {time.monotonic() - begun_s:.0f} s", highlight=False)


def other_endpoint(values: dict[str, Any]) -> Address | None:
    """The endpoint of --against, with the credentials that it takes out of the options. Raises ConfigError."""
    token = secret("token_file", values.pop("token_file"), values.pop("token"))
    files = {name: values.pop(name) for name in ("tls_ca", "tls_cert", "tls_key")}
    if not values["against"]:
        return None
    check_endpoint("--against", values["against"])
    return Address(values["against"], str(token), **files)  # a FileText cannot be encoded


def checked(settings: Settings) -> Settings:
    """The settings, if they can be measured. Raises UsageError."""
    if unknown := set(settings.stores) - set(STORES):
        raise click.BadParameter(f"{', '.join(unknown)}: it is of {', '.join(STORES)}", param_hint="--stores")
    if "etcd" in settings.stores and etcd_program() is None:
        raise click.UsageError("etcd is not on PATH; install etcd-server, or give --stores sqlite")
    if settings.silent_hosts >= min(settings.hosts):
        raise click.UsageError(f"--silent-hosts {settings.silent_hosts} leaves none of {min(settings.hosts)} hosts")
    return settings


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
