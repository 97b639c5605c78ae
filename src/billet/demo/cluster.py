"""Starts a cluster of real processes on this machine: fake flintlockds, agents, servers and optionally etcd."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from billet.adapters.pki import Files, write_pki
from billet.core.errors import BilletError
from billet.demo.etcd import start_etcd
from billet.demo.processes import ChildProcess, Processes
from billet.demo.workload import HostSize
from billet.store.open import open_store


@dataclass(frozen=True, slots=True)
class BootTimes:
    """Boot and pull times of the fakes: lognormal with these means in seconds, sigma and seed."""

    boot_mean_s: float
    pull_mean_s: float
    sigma: float
    seed: int


class FakeHost(NamedTuple):
    """A running fake flintlockd and its addresses."""

    size: HostSize
    flintlock: str
    control: str
    process: ChildProcess


class ServerAddress(NamedTuple):
    """A running server and its addresses."""

    id: str
    grpc: str
    http: str
    process: ChildProcess


class Cluster(NamedTuple):
    """All processes of the cluster. `store` is the servers' --store."""

    servers: list[ServerAddress]
    hosts: list[FakeHost]
    agents: list[ChildProcess]
    store: str

    @property
    def grpc(self) -> str:
        """The gRPC address of the first server."""
        return self.servers[0].grpc


def start_fakes(processes: Processes, sizes: Sequence[HostSize], boots: BootTimes, prefix: str) -> list[FakeHost]:
    """Start one fake flintlockd per size. Equal `boots` and `sizes` give equal boot times on each host."""
    started = [
        processes.billet(
            f"{prefix}-{size.id}", "fake-flintlockd", "--grpc-endpoint", "127.0.0.1:0", "--insecure",
            "--control-endpoint", "127.0.0.1:0", "--default-provider", "firecracker",
            "--boot-mean-s", str(boots.boot_mean_s), "--pull-mean-s", str(boots.pull_mean_s),
            "--sigma", str(boots.sigma), "--seed", str(boots.seed * 1000 + n), "--json-ready",
        )
        for n, size in enumerate(sizes)
    ]  # fmt: skip
    hosts = []
    for size, process in zip(sizes, started, strict=True):
        addresses = process.ready()
        hosts.append(FakeHost(size, addresses["grpc"], addresses["control"], process))
    return hosts


def start_cluster(
    processes: Processes, sizes: Sequence[HostSize], boots: BootTimes, servers: int, store: str
) -> Cluster:
    """Start servers and hosts, with TLS and a token on the link. Returns once every agent has joined."""
    folder = processes.folder
    pki = write_pki(folder / "pki", ["localhost", "127.0.0.1"], days=1)
    token = folder / "link-token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_urlsafe(24))
    url = store_url(processes, servers, store)
    started = [_start_server(processes, n, url, pki, token) for n in range(1, servers + 1)]
    hosts = start_fakes(processes, sizes, boots, "flintlockd")
    ready = [process.ready() for process in started]
    serving = [ServerAddress(p.name, one["grpc"], one["http"], p) for p, one in zip(started, ready, strict=True)]
    links = ",".join(one["link"] for one in ready)
    agents = [_start_agent(processes, host, links, pki, token) for host in hosts]
    for agent in agents:
        agent.ready()
    return Cluster(serving, hosts, agents, url)


def leader(cluster: Cluster) -> ServerAddress:
    """The server that currently leads. Raises BilletError if none does."""

    async def ask() -> str:
        store = open_store(cluster.store)
        await store.open()
        try:
            found = await store.leader()
        finally:
            await store.close()
        return found.id if found else ""

    if len(cluster.servers) == 1:
        return cluster.servers[0]
    leader_id = asyncio.run(ask())
    for server in cluster.servers:
        if server.id == leader_id:
            return server
    raise BilletError("no server is leading; see the servers' logs")


def store_url(processes: Processes, servers: int, store: str) -> str:
    """The servers' --store. "sqlite" and "etcd" create a new store in the run's folder."""
    match store:
        case "sqlite":
            return "sqlite:///billet.db"
        case "etcd":
            return start_etcd(processes, servers)
        case _:
            return store


def _start_server(processes: Processes, n: int, store: str, pki: Files, token: Path) -> ChildProcess:
    name = f"server-{n}"
    data = processes.folder / name
    data.mkdir()
    return processes.billet(
        name, "server", "--id", name, "--data-dir", str(data), "--store", store, "--json-ready",
        "--grpc-endpoint", "127.0.0.1:0", "--http-endpoint", "127.0.0.1:0", "--insecure",
        "--link-endpoint", "127.0.0.1:0", "--advertise-host", "127.0.0.1", "--link-token-file", str(token),
        "--link-tls-cert", str(pki.server_cert), "--link-tls-key", str(pki.server_key),
    )  # fmt: skip


def _start_agent(processes: Processes, host: FakeHost, links: str, pki: Files, token: Path) -> ChildProcess:
    size = host.size
    return processes.billet(
        f"agent-{size.id}", "agent", "--id", size.id, "--server", links, "--json-ready",
        "--link-ca", str(pki.ca), "--link-token-file", str(token),
        "--flintlock", host.flintlock, "--provider", "firecracker", "--state-dir", str(processes.folder),
        "--state", str(processes.folder / "agents"),
        "--containerd", "",
        "--vcpu", str(size.vcpu), "--memory-mib", str(size.memory_mib), "--disk-mib", str(size.disk_mib),
        "--reserve-memory-mib", "0", "--reserve-disk-mib", "0",
    )  # fmt: skip
