"""`python -m benchmarks.large_fleet`: what the hosts of a fleet cost one leader, by their number.

The server is `billet server` with its default settings, SQLite, and TLS on the link. Its hosts are virtual
(virtual_agents.py): real links, hellos and reports, and no flintlockd. Three moments of each fleet are measured: all
hosts join; only reports come; creates come too. Compare the fleets with each other, not with another run.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import virtual_agents
from benchmarks.__main__ import numbers
from benchmarks.cluster import TOKEN, start_module, start_server
from benchmarks.endpoint import Endpoint
from benchmarks.figures import percentile
from billet.accepting import raise_descriptor_limit
from billet.client import FLEET, Address
from billet.core.errors import BilletError
from billet.demo.processes import Processes
from billet.demo.workload import Shape, spec_of
from billet.grpc.health import SERVICE as HEALTH
from billet.wire.pb.fleet_pb2 import READY, HostsReply, HostsRequest
from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest

JOINED_S = 600.0  # until all hosts of the largest fleet are in, on a busy machine
PING_EVERY_S = 0.05


class Options(NamedTuple):
    """What is measured of each fleet."""

    agents_per_process: int
    placed: int  # on each host
    report_interval_s: float
    link_tls: bool
    seconds: float
    creates: int
    in_flight: int


class Quiet(NamedTuple):
    """A leader to which only reports come. `delays_ms`: how long calls that do nothing took, while it had others."""

    cpu_share: float  # of one core
    delays_ms: list[float]
    oldest_report_s: float  # of any host, at the end


class Creates(NamedTuple):
    """Creates that were sent while reports came. CPU without what the reports cost."""

    latencies_ms: list[float]
    cpu_ms: float


class Figures(NamedTuple):
    """One fleet."""

    hosts: int
    joined_s: float
    dials: int
    joined_cpu_s: float
    memory_mib: float
    hosts_reply_s: float
    quiet: Quiet
    one: Creates
    many: Creates


class Fleet:
    """One fleet as its client sees it, and the server's process."""

    def __init__(self, endpoint: Endpoint, server: psutil.Process, hosts: int) -> None:
        self._endpoint, self._server, self._hosts = endpoint, server, hosts
        self._created = 0

    def cpu_s(self) -> float:
        """What the server has used, user and system."""
        times = self._server.cpu_times()
        return float(times.user + times.system)

    def memory_mib(self) -> float:
        """The server's resident memory."""
        return float(self._server.memory_info().rss / (1 << 20))

    async def until_ready(self) -> float:
        """Wait until every host may bid; how long the reply about all of them takes then."""
        deadline_s = time.monotonic() + JOINED_S
        while True:
            begun_s = time.monotonic()
            ready = sum(host.state == READY for host in (await self._views()).hosts)
            took_s = time.monotonic() - begun_s
            if ready == self._hosts:
                return took_s
            if time.monotonic() > deadline_s:
                raise BilletError(f"{ready} hosts of {self._hosts} may bid after {JOINED_S:.0f} s")
            await asyncio.sleep(max(0.2, 10 * took_s))

    async def _views(self) -> HostsReply:
        return HostsReply.FromString(await self._endpoint.call(f"{FLEET}Hosts", HostsRequest().SerializeToString()))

    async def quiet(self, seconds: float) -> Quiet:
        """Only reports come."""
        before_s, begun_s, delays_ms = self.cpu_s(), time.monotonic(), []
        while time.monotonic() < begun_s + seconds:
            called_s = time.perf_counter()
            await self._endpoint.call(f"/{HEALTH}/Check", b"")
            delays_ms.append((time.perf_counter() - called_s) * 1e3)
            await asyncio.sleep(PING_EVERY_S)
        share = (self.cpu_s() - before_s) / (time.monotonic() - begun_s)
        return Quiet(share, delays_ms, max(host.report_age_s for host in (await self._views()).hosts))

    async def creates(self, count: int, in_flight: int, quiet: Quiet) -> Creates:
        """Creates come, so many at once."""
        names = [f"one-{self._created + n}" for n in range(count)]
        self._created += count
        requests = [CreateMicroVMRequest(microvm=spec_of(Shape(n, 1, 1024))).SerializeToString() for n in names]
        before_s, begun_s = self.cpu_s(), time.monotonic()
        latencies_ms = await self._endpoint.crowd(requests, in_flight)
        used_s = self.cpu_s() - before_s - quiet.cpu_share * (time.monotonic() - begun_s)
        return Creates(latencies_ms, max(used_s, 0.0) / count * 1e3)


@contextmanager
def joining(hosts: int, options: Options) -> Iterator[tuple[str, psutil.Process, Processes, virtual_agents.Order]]:
    """A server, and what its agents are to be."""
    with TemporaryDirectory(prefix="billet-bench-") as folder, Processes(Path(folder)) as processes:
        server, said = start_server(processes, "sqlite:///billet.db", options.link_tls)
        ca = str(Path(folder) / "pki" / "ca.crt") if options.link_tls else ""
        vms = options.placed + 100 + 4 * options.creates // hosts
        order = virtual_agents.Order(
            0,
            hosts,
            options.placed,
            said["link"],
            TOKEN,
            ca,
            vms,
            1024 * (vms + 1),
            vms,
            options.report_interval_s,
            3,
        )
        yield said["grpc"], psutil.Process(server.pid), processes, order
        processes.check()


async def measure(hosts: int, options: Options) -> Figures:
    """One fleet from its first host on."""
    with joining(hosts, options) as (grpc, server, processes, order):
        endpoint = Endpoint(Address(grpc))
        await endpoint.connect()
        fleet, begun_s = Fleet(endpoint, server, hosts), time.monotonic()
        begun_cpu_s = fleet.cpu_s()
        dials = await asyncio.to_thread(start_agents, processes, order, options.agents_per_process)
        reply_s = await fleet.until_ready()
        joined_s, joined_cpu_s = time.monotonic() - begun_s, fleet.cpu_s() - begun_cpu_s
        quiet = await fleet.quiet(options.seconds)
        one = await fleet.creates(options.creates // 3, 1, quiet)
        many = await fleet.creates(options.creates, options.in_flight, quiet)
        memory_mib = fleet.memory_mib()
        await endpoint.close()
        return Figures(hosts, joined_s, dials, joined_cpu_s, memory_mib, reply_s, quiet, one, many)


def start_agents(processes: Processes, order: virtual_agents.Order, per_process: int) -> int:
    """All agents, in as many processes as they need. Returns how often they had to dial, once all have joined."""
    starts = range(order.first, order.end, per_process)
    children = [
        start_module(
            processes,
            "virtual_agents",
            f"agents-{start}",
            virtual_agents.part(order, start, min(start + per_process, order.end)),
        )
        for start in starts
    ]
    return sum(int(child.ready(JOINED_S)["dials"]) for child in children)


def table(rows: Sequence[Figures], options: Options) -> Table:
    """The figures; ratios are to the first fleet, per host where that makes sense."""
    shown = Table("", *(f"{row.hosts} hosts" for row in rows))

    def line(name: str, values: Sequence[str]) -> None:
        shown.add_row(name, *values)

    line("reports per second", [f"{row.hosts / options.report_interval_s:.0f}" for row in rows])
    line("server's CPU, share of a core", [f"{row.quiet.cpu_share:.2f}" for row in rows])
    per_report = [row.quiet.cpu_share / row.hosts * options.report_interval_s * 1e6 for row in rows]
    line("server's CPU per report, us", [f"{us:.0f} ({us / per_report[0]:.2f})" for us in per_report])
    line("delay of a call that does nothing, p50 / p99 / most, ms", [spread(row.quiet.delays_ms) for row in rows])
    line("oldest report, s", [f"{row.quiet.oldest_report_s:.1f}" for row in rows])
    line("all have joined after, s", [f"{row.joined_s:.1f}" for row in rows])
    line("dials per host", [f"{row.dials / row.hosts:.2f}" for row in rows])
    line("server's CPU per join, ms", [f"{row.joined_cpu_s / row.hosts * 1e3:.2f}" for row in rows])
    line("server's memory, MiB", [f"{row.memory_mib:.0f}" for row in rows])
    line("the reply about all hosts takes, s", [f"{row.hosts_reply_s:.2f}" for row in rows])
    for title, creates in (
        ("1 in flight", [row.one for row in rows]),
        (f"{options.in_flight} in flight", [row.many for row in rows]),
    ):
        line(f"create, {title}: p50 / p99 / most, ms", [spread(one.latencies_ms) for one in creates])
        cost = [f"{one.cpu_ms:.2f} ({one.cpu_ms / creates[0].cpu_ms:.2f})" for one in creates]
        line(f"server's CPU per create, {title}, ms", cost)
    return shown


def spread(values_ms: Sequence[float]) -> str:
    """Median, p99 and largest."""
    return f"{percentile(values_ms, 0.5):.1f} / {percentile(values_ms, 0.99):.1f} / {max(values_ms):.1f}"


@click.command()
@click.option("--hosts", callback=numbers, default="100,1000,3000", show_default=True, help="Numbers of hosts.")
@click.option("--agents-per-process", default=2500, show_default=True, help="Number of agents in one process.")
@click.option("--placed", default=10, show_default=True, help="MicroVMs on each host.")
@click.option("--report-interval-s", default=2.0, show_default=True, help="Seconds between two reports of a host.")
@click.option("--link-tls/--no-link-tls", default=True, show_default=True, help="TLS between server and agents.")
@click.option("--seconds", default=20.0, show_default=True, help="Seconds for which only reports come.")
@click.option("--creates", default=300, show_default=True, help="Creates at --in-flight; a third of it one by one.")
@click.option("--in-flight", default=64, show_default=True, help="Number of concurrent creates.")
def large_fleet(hosts: list[int], **values: object) -> None:
    """Print what fleets of these sizes cost one leader."""
    options = Options(**values)  # type: ignore[arg-type]
    raise_descriptor_limit()
    rows = []
    for count in hosts:
        rows.append(asyncio.run(measure(count, options)))
        click.echo(f"{count} hosts measured; load average {os.getloadavg()[0]:.1f}", err=True)
    Console(width=140).print(table(rows, options))


if __name__ == "__main__":
    large_fleet()
