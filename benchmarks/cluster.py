"""One fleet as real processes: a server, etcd where wanted, all fakes in one process and all agents in another."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from benchmarks import agents, fakes
from benchmarks.plan import Fleet
from billet.adapters.pki import write_pki
from billet.client import Address, Client
from billet.core.errors import BilletError
from billet.demo.etcd import start_etcd
from billet.demo.processes import ChildProcess, Processes
from billet.grpc.engine import VARIABLE
from billet.wire.pb.fleet_pb2 import READY, HostsReply, HostsRequest

TOKEN = "benchmark"
READY_S = 60.0
ADOPTED_S = 120.0


class Cluster(NamedTuple):
    """Where clients dial, and the process of each part."""

    grpc: str
    pids: dict[str, int]


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
def running(fleet: Fleet, capacity: int, link_tls: bool, fake_grpc: str) -> Iterator[Cluster]:
    """A cluster with room for `capacity` microVMs, all its hosts in and all that is placed counted by the ledger."""
    with TemporaryDirectory(prefix="billet-bench-") as folder, Processes(Path(folder)) as processes:
        store = "sqlite:///billet.db" if fleet.store == "sqlite" else start_etcd(processes, 1)
        server, said = start_server(processes, store, link_tls)
        with using_grpc(fake_grpc):
            flintlocks, faking = start_fakes(processes, fleet)
        order = agents.Order(
            flintlocks,
            link=said["link"],
            link_token=TOKEN,
            link_ca=str(processes.folder / "pki" / "ca.crt") if link_tls else "",
            vcpu=min(65_536, capacity),
            memory_mib=1024 * (capacity + 1),
            max_vms=capacity,
        )
        acting = processes.start("agents", [sys.executable, "-m", "benchmarks.agents", encoded(order)])
        acting.ready(READY_S)
        until_counted(said["grpc"], fleet.hosts, fleet.placed)
        etcd = {process.name: process.pid for process in processes.all if process.name.startswith("etcd")}
        pids = {"server": server.pid, "agents": acting.pid, "fakes": faking.pid}
        yield Cluster(said["grpc"], pids | ({"etcd": etcd["etcd-1"]} if etcd else {}))
        processes.check()


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
    process = processes.start("fakes", [sys.executable, "-m", "benchmarks.fakes", encoded(order)])
    flintlocks: list[str] = process.ready(READY_S)["flintlocks"]
    return flintlocks, process


def until_counted(grpc: str, hosts: int, placed: int) -> None:
    """Wait until every host may bid and the ledger counts this many microVMs."""
    deadline_s = time.monotonic() + ADOPTED_S
    with Client(Address(grpc)) as client:
        while True:
            ready, taken = count(client)
            if ready == hosts and taken == placed:
                return
            if time.monotonic() > deadline_s:
                raise BilletError(f"the ledger counts {ready} hosts of {hosts} and {taken} microVMs of {placed}")
            time.sleep(0.1)


def count(client: Client) -> tuple[int, int]:
    """How many hosts may bid, and how many microVMs the ledger counts on all of them."""
    found = client.fleet("Hosts", HostsRequest(), HostsReply).hosts
    return sum(host.state == READY for host in found), sum(host.taken.vms for host in found)


def encoded(order: msgspec.Struct) -> str:
    """An order as a command line's argument."""
    return msgspec.json.encode(order).decode()
