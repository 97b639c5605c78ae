"""Starts a local etcd cluster for the demo and tests. Its data lives in the run's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from billet.core.errors import ConfigError
from billet.demo.processes import Processes, free_port, until_healthy


def etcd_program() -> str | None:
    """Path of etcd: from PATH, or installed into the checkout by scripts/setup. None if there is none."""
    checkout = Path(__file__).parents[3] / ".tools" / "bin"
    return shutil.which("etcd") or shutil.which("etcd", path=str(checkout))


def start_etcd(processes: Processes, members: int) -> str:
    """Start a cluster on free ports of 127.0.0.1, wait until it answers, and return its URL for --store."""
    program = etcd_program()
    if program is None:
        raise ConfigError(
            "--store etcd needs the program etcd on PATH; install it, on Debian with apt-get install etcd-server"
        )
    clients = [f"http://127.0.0.1:{free_port()}" for _ in range(members)]
    peers = [f"http://127.0.0.1:{free_port()}" for _ in range(members)]
    cluster = ",".join(f"etcd-{n}={peer}" for n, peer in enumerate(peers, 1))
    started = []
    for n, (client, peer) in enumerate(zip(clients, peers, strict=True), 1):
        command = [program, "--name", f"etcd-{n}", "--data-dir", str(processes.folder / f"etcd-{n}")]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", cluster, "--log-level", "error"]
        started.append(processes.start(f"etcd-{n}", command, foundation=True))
    for process, client in zip(started, clients, strict=True):
        until_healthy(process, f"{client}/health")
    return "etcd://" + ",".join(client.removeprefix("http://") for client in clients)
