"""One fleet as real processes: a server, etcd where wanted, all fakes in one process, and the agents in some."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from benchmarks import agents, fakes
from benchmarks.plan import Fleet, Settings
from billet.adapters.pki import write_pki
from billet.client import Address, Client
from billet.core.errors import BilletError
from billet.demo.etcd import start_etcd
from billet.demo.processes import ChildProcess, Processes
from billet.grpc.engine import VARIABLE
from billet.wire.pb.fleet_pb2 import READY, HostsReply, HostsRequest

TOKEN = "benchmark"
READY_S = 180.0  # any process, also one with hundreds of agents on a busy machine
ADOPTED_S = 300.0  # until a thousand hosts have joined and the ledger counts what is on them


class Cluster(NamedTuple):
    """Where clients dial, the processes of each part, and those with the agents that are to fall silent."""

    grpc: str
    pids: dict[str, list[int]]
    silent: list[int]


@contextmanager
def using_grpc(engine: str) -> Iterator[None]:
    """Give the processes that are started meanwhile this implementation of gRPC."""
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = engine
    try:
        yield
    finally:
        os.environ[VARIABLE] = before


@contextmanager
def running(fleet: Fleet, capacity: int, settings: Settings) -> Iterator[Cluster]:
    """A cluster with room for `capacity` microVMs per host. All hosts are in, and all that is placed is counted."""
    with TemporaryDirectory(prefix="billet-bench-") as folder, Processes(Path(folder)) as processes:
        store = "sqlite:///billet.db" if fleet.store == "sqlite" else start_etcd(processes, 1)
        server, said = start_server(processes, store, settings.link_tls)
        with using_grpc(settings.fake_grpc):
            flintlocks, faking = start_fakes(processes, fleet)
        order = agents.Order(
            {},
            link=said["link"],
            link_token=TOKEN,
            link_ca=str(processes.folder / "pki" / "ca.crt") if settings.link_tls else "",
            vcpu=min(65_536, capacity),
            memory_mib=1024 * (capacity + 1),
            max_vms=capacity,
        )
        acting = start_agents(processes, order, flintlocks, settings)
        until_counted(said["grpc"], fleet.hosts, fleet.placed)
        etcd = {process.name: process.pid for process in processes.all if process.name.startswith("etcd")}
        pids = {"server": [server.pid], "agents": acting, "fakes": [faking.pid]}
        silent = acting[-1:] if settings.silent_hosts else []
        yield Cluster(said["grpc"], pids | ({"etcd": [etcd["etcd-1"]]} if etcd else {}), silent)
        processes.check()


def start_agents(
    processes: Processes, order: agents.Order, flintlocks: Sequence[str], settings: Settings
) -> list[int]:
    """All agents, in as many processes as they need; those that are to fall silent in one of their own, the last."""
    talking, size = range(len(flintlocks) - settings.silent_hosts), settings.agents_per_process
    groups = [talking[n : n + size] for n in range(0, len(talking), size)]
    if settings.silent_hosts:
        groups.append(range(len(talking), len(flintlocks)))
    started = [
        start_module(
            processes, "agents", f"agents-{number}", replace(order, flintlocks={n: flintlocks[n] for n in group})
        )
        for number, group in enumerate(groups)
    ]
    for process in started:
        process.ready(READY_S)
    return [process.pid for process in started]


def start_server(processes: Processes, store: str, link_tls: bool) -> tuple[ChildProcess, dict[str, str]]:
    """`billet server` as it is, with its default settings."""
    flags = ["--link-insecure"]
    if link_tls:
        pki = write_pki(processes.folder / "pki", ["localhost", "127.0.0.1"], days=1)
        flags = ["--link-tls-cert", str(pki.server_cert), "--link-tls-key", str(pki.server_key)]
    server = processes.billet(
        "server", "server", "--id", "bench", "--data-dir", str(processes.folder), "--store", store, "--json-ready",
        "--grpc-endpoint", "127.0.0.1:0", "--http-endpoint", "", "--insecure",
        "--link-endpoint", "127.0.0.1:0", "--advertise-host", "127.0.0.1", "--link-token", TOKEN, *flags,
    )  # fmt: skip
    return server, server.ready(READY_S)


def start_fakes(processes: Processes, fleet: Fleet) -> tuple[list[str], ChildProcess]:
    """All fakes, and their addresses."""
    order = fakes.Order(fleet.hosts, fleet.placed, str(processes.folder))
    process = start_module(processes, "fakes", "fakes", order)
    flintlocks: list[str] = process.ready(READY_S)["flintlocks"]
    return flintlocks, process


def until_counted(grpc: str, hosts: int, placed: int, unknown: int = 0) -> None:
    """Wait until every host may bid and the ledger counts this many microVMs, with or without the `unknown` ones."""
    deadline_s = time.monotonic() + ADOPTED_S
    with Client(Address(grpc)) as client:
        while True:
            ready, taken = count(client)
            if ready == hosts and placed - unknown <= taken <= placed:
                return
            if time.monotonic() > deadline_s:
                raise BilletError(f"the ledger counts {ready} hosts of {hosts} and {taken} microVMs of {placed}")
            time.sleep(max(0.1, hosts / 500))  # the reply about a thousand hosts costs the server a tenth of a second


def count(client: Client) -> tuple[int, int]:
    """How many hosts may bid, and how many microVMs the ledger counts on all of them."""
    found = client.fleet("Hosts", HostsRequest(), HostsReply).hosts
    return sum(host.state == READY for host in found), sum(host.taken.vms for host in found)


def start_module(processes: Processes, module: str, name: str, order: msgspec.Struct) -> ChildProcess:
    """A process of this package. Its order is in a file that only this user can read: it may have a token."""
    path = processes.folder / f"{name}.json"
    path.write_bytes(msgspec.json.encode(order))
    return processes.start(name, [sys.executable, "-m", f"benchmarks.{module}", str(path)])
