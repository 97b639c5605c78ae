"""The steps of the demo: start a cluster, create microVMs, explain an auction, compare with the static list."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live

from billet.client import Address, Client
from billet.core.accuracy import Errors, errors
from billet.core.errors import BilletError, ConfigError
from billet.demo import screen
from billet.demo.cluster import BootTimes, Cluster, FakeHost, leader, start_cluster, start_fakes
from billet.demo.load import LoadRun, run_load
from billet.demo.processes import Processes
from billet.demo.workload import HostSize, Shape, draw_shapes, host_sizes, static_choice
from billet.show.explain import auction_report
from billet.wire.auction_records import decode_outcomes
from billet.wire.pb.fleet_pb2 import AccuracyReply, AccuracyRequest, ExplainReply, ExplainRequest

STATIC_TITLE = "The same microVMs and hosts, chosen by a static list (crc32 % N)"


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """Options of `billet demo`. `create` microVMs are sent at `rate_per_s`, `at_once` together."""

    hosts: int
    servers: int
    store: str
    create: int
    rate_per_s: float
    at_once: int
    boots: BootTimes
    keep: bool
    json: bool

    def __post_init__(self) -> None:
        """Raise ConfigError for several servers on SQLite, which supports only one."""
        if self.store.startswith("sqlite") and self.servers > 1:
            raise ConfigError("--store sqlite is for one server; use --store etcd with --servers 3")


def run_demo(settings: DemoSettings) -> None:
    """Run the demo. Removes its processes and files in any case."""
    with stopping_on_signals(), tempfile.TemporaryDirectory(prefix="billet-demo-") as folder:
        console = Console(quiet=settings.json)
        with Processes(Path(folder)) as processes:
            _run_steps(settings, processes, console)
        console.print(screen.ENDED, highlight=False, soft_wrap=True)


def _run_steps(settings: DemoSettings, processes: Processes, console: Console) -> None:
    shapes = draw_shapes(settings.create, settings.boots.seed)
    sizes = host_sizes(settings.hosts, sum(shape.vcpu for shape in shapes))
    console.print(_opening(settings, sizes), highlight=False)
    with console.status("starting the processes"):
        cluster = start_cluster(processes, sizes, settings.boots, settings.servers, settings.store)
    if settings.json:
        print(json.dumps(_addresses(cluster)), flush=True)
    uid = ""
    if shapes:
        billet = _through_billet(settings, cluster, shapes, console)
        uid = _explain_one(cluster, billet, console)
        console.print()
        static = _through_static_list(settings, processes.folder, sizes, shapes, console)
        console.print("[bold]Comparison[/]")
        console.print(screen.side_by_side(billet, static))
        console.print(screen.comparison(billet, static), highlight=False)
        console.print(screen.NOTE, style="dim", highlight=False)
        found = _accuracy(cluster)
        if found:
            console.print("[bold]Predicted vs actual[/]  (billet accuracy)")
            console.print(screen.accuracy_table(found))
            console.print(screen.accuracy_note(settings.boots.sigma), style="dim", highlight=False)
        if settings.json and not settings.keep:
            both = {"billet": figures(billet), "static_list": figures(static)}
            print(json.dumps(both | {"accuracy": found._asdict() if found else None}), flush=True)
    if settings.keep:
        commands = screen.commands_to_try(cluster.servers, leader(cluster), uid, cluster.hosts)
        console.print(commands, highlight=False, soft_wrap=True, markup=False)
        signal.pause()


def _opening(settings: DemoSettings, sizes: list[HostSize]) -> str:
    vcpu, boots = sum(size.vcpu for size in sizes), settings.boots
    together = f"{settings.at_once} at once, " if settings.at_once > 1 else ""
    servers = "one server" if settings.servers == 1 else f"{settings.servers} servers"
    return (
        f"[bold]Billet[/]: {servers} ({settings.store}), {len(sizes)} hosts with {vcpu} vCPUs in total.\n"
        "Each host has an agent and a fake flintlockd, which boots one microVM at a time,\n"
        f"like the real one: {boots.boot_mean_s:g} s each on average, and {boots.pull_mean_s:g} s more\n"
        "for each of two images that the host does not have yet.\n"
        f"{settings.create} microVMs, {settings.rate_per_s:g} per second, {together}seed {boots.seed}.\n"
    )


def _addresses(cluster: Cluster) -> dict[str, object]:
    hosts = [{"id": host.size.id, "flintlock": host.flintlock, "control": host.control} for host in cluster.hosts]
    servers = [{"id": server.id, "grpc": server.grpc, "http": server.http} for server in cluster.servers]
    return {"grpc": cluster.grpc, "http": cluster.servers[0].http, "servers": servers, "hosts": hosts}


def _through_billet(settings: DemoSettings, cluster: Cluster, shapes: list[Shape], console: Console) -> LoadRun:
    title = "microVMs through Billet (Flintlock's own CreateMicroVM, to one address)"
    with ExitStack() as stack:
        client = stack.enter_context(Client(Address(cluster.grpc)))
        hosts = _dial(stack, cluster.hosts)
        return _show_load(settings, console, title, shapes, hosts, lambda shape: client)


def _through_static_list(
    settings: DemoSettings, folder: Path, sizes: list[HostSize], shapes: list[Shape], console: Console
) -> LoadRun:
    """Run the load on new fakes of the same sizes and seeds, which are stopped at the end."""
    with ExitStack() as stack:
        with console.status("starting the same hosts again"):
            processes = stack.enter_context(Processes(folder))
            fakes = start_fakes(processes, sizes, settings.boots, "static")
        hosts = _dial(stack, fakes)
        clients = [client for _, client in hosts.values()]

        def choose(shape: Shape) -> Client:
            return clients[static_choice(shape.name, len(clients))]

        return _show_load(settings, console, STATIC_TITLE, shapes, hosts, choose)


def _dial(stack: ExitStack, fakes: list[FakeHost]) -> dict[str, tuple[HostSize, Client]]:
    return {fake.size.id: (fake.size, stack.enter_context(Client(Address(fake.flintlock)))) for fake in fakes}


def _show_load(
    settings: DemoSettings,
    console: Console,
    title: str,
    shapes: list[Shape],
    hosts: dict[str, tuple[HostSize, Client]],
    choose: Callable[[Shape], Client],
) -> LoadRun:
    with Live(console=console, auto_refresh=False) as live:

        def show(run: LoadRun) -> None:
            live.update(screen.filling(title, run), refresh=console.is_terminal)

        return run_load(shapes, hosts, choose, settings.rate_per_s, settings.at_once, show)


def _explain_one(cluster: Cluster, run: LoadRun, console: Console) -> str:
    """Print the auction of the largest of the last ten microVMs, when hosts differ; returns its uid."""
    last = [shape for shape in run.shapes if shape.name in run.uid][-10:]
    if not last:
        raise BilletError(f"no microVM was created: {next(iter(run.refused.values()))}")
    uid = run.uid[max(last, key=lambda shape: shape.vcpu).name]
    with Client(Address(cluster.grpc)) as client:
        reply = client.fleet("Explain", ExplainRequest(key=uid), ExplainReply)
    console.print(f"\n[bold]One auction explained[/]  (billet explain {uid})\n", highlight=False)
    for record in reply.record_json[:1]:
        console.print(auction_report(json.loads(record)), highlight=False)
    return uid


def _accuracy(cluster: Cluster) -> Errors | None:
    """Predicted vs actual results of all microVMs that the leader has seen boot; None if there are none."""
    with Client(Address(cluster.grpc)) as client:
        return errors(decode_outcomes(client.fleet("Accuracy", AccuracyRequest(), AccuracyReply).outcome_json))


def figures(run: LoadRun) -> dict[str, float]:
    """The results of a run for --json. Times in seconds."""
    return {
        "cov": run.cov,
        "fullest_share": run.fullest,
        "hosts_overcommitted": len(run.overcommitted),
        "refused": len(run.refused),
        "created_p50_s": run.percentile_s(0.5),
        "created_p99_s": run.percentile_s(0.99),
        "created_max_s": run.percentile_s(1.0),
    }


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """End the block on SIGTERM or SIGINT. Further signals are ignored while the processes are being stopped."""

    def stop(number: int, frame: object) -> None:
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(0 if number == signal.SIGINT else 128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
