"""The fleet under test: three etcd members, three servers, and six hosts, each with a flintlockd and its agent."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from billet.core.errors import ConfigError
from billet.demo.etcd import etcd_program
from billet.demo.processes import ChildProcess, Processes, until_healthy
from chaos.namespaces import Network, mount_disk
from chaos.operator import Operator

CLIENTS = "clients"
ETCD = ("etcd-1", "etcd-2", "etcd-3")
SERVERS = ("server-1", "server-2", "server-3")
HOSTS = ("host-1", "host-2", "host-3", "host-4", "host-5", "host-6")
SPARES = ("spare-1", "spare-2", "spare-3")  # machines for agents that are not what they say
ADDRESSES = {
    CLIENTS: "10.99.0.1",
    **{name: f"10.99.0.{11 + n}" for n, name in enumerate(ETCD)},
    **{name: f"10.99.0.{21 + n}" for n, name in enumerate(SERVERS)},
    **{name: f"10.99.0.{31 + n}" for n, name in enumerate(HOSTS)},
    **{name: f"10.99.0.{41 + n}" for n, name in enumerate(SPARES)},
}
LINKS = [f"{ADDRESSES[name]}:9095" for name in SERVERS]
CONTROL_PORT = 9100  # of a fake flintlockd; only this harness talks to it
ETCD_DISK_MIB, OTHER_DISK_MIB = 192, 64  # etcd writes ahead into files of 64 MiB
# etcd's own documents choose a tenth of the election's time for the heartbeat, and this much on one site.
ETCD_FLAGS = ("--heartbeat-interval", "50", "--election-timeout", "500", "--log-level", "error")
RESOLVE_AFTER_S = (
    10.0  # the servers' --resolve-after-s: a run does not wait a minute for a create that came to nothing
)
LINK_TOKEN = "chaos"


@dataclass
class Part:
    """One process of the fleet, which can be ended and started again."""

    name: str
    machine: str
    command: Sequence[str]
    process: ChildProcess | None = None
    paused: bool = False
    down: bool = True  # somebody has ended it on purpose
    excused: bool = False  # it may end by itself; any other that does is a finding

    @property
    def running(self) -> bool:
        """Whether its process is there, standing still or not."""
        return self.process is not None and self.process.running()


@dataclass
class Cluster:
    """The parts by name. A host's two are called host-N/flintlockd and host-N/agent."""

    folder: Path
    processes: Processes
    network: Network = field(init=False)
    parts: dict[str, Part] = field(init=False)
    vcpu: int = 16  # of each host
    memory_mib: int = 1 << 15
    boot_mean_s: float = 0.05
    operator: Operator = field(init=False)
    spares: list[str] = field(default_factory=lambda: list(SPARES))  # those on which nothing runs
    intruded: set[str] = field(default_factory=set)  # hosts that another agent claims to be, or to be beside
    unnoticed: list[str] = field(default_factory=list)  # copied identities that no server has noticed

    def __post_init__(self) -> None:
        """Nothing runs yet."""
        self.network = Network(self.processes, ADDRESSES)
        self.operator = Operator([f"{ADDRESSES[name]}:9090" for name in SERVERS])

    def start(self) -> None:
        """Machines, disks, and all parts; returns when every host has been let in."""
        self.network.build()
        for machine in (*ETCD, *SERVERS, *HOSTS):
            mount_disk(self.disk(machine), ETCD_DISK_MIB if machine in ETCD else OTHER_DISK_MIB)
        parts = [Part(name, name, _etcd(name, self.disk(name))) for name in ETCD]
        parts += [Part(name, name, _server(name, self.disk(name))) for name in SERVERS]
        for n, host in enumerate(HOSTS):
            parts.append(Part(f"{host}/flintlockd", host, self.flintlockd_command(host, self.disk(host), n)))
        parts += [Part(f"{host}/agent", host, self.agent_command(host, self.disk(host))) for host in HOSTS]
        self.parts = {part.name: part for part in parts}
        for part in parts:
            self.launch(part.name)
        for name in ETCD:
            process = self.parts[name].process
            assert process
            until_healthy(process, f"http://{ADDRESSES[name]}:2379/health")
        for part in parts:
            if part.process and part.name not in ETCD:
                part.process.ready(60)

    def disk(self, machine: str) -> Path:
        """Where a machine keeps everything."""
        return self.folder / machine

    def of_host(self, host: str) -> list[str]:
        """The names of one host's parts, its flintlockd first."""
        return [part.name for part in self.on(host)]

    def on(self, machine: str) -> list[Part]:
        """The parts of one machine."""
        return [part for part in self.parts.values() if part.machine == machine]

    # What faults do to parts. Each may be done twice without harm.

    def launch(self, name: str) -> None:
        """Start it, unless it runs."""
        part = self.parts[name]
        if not part.running:
            log_name = name.replace("/", "-")
            part.process = self.processes.start(log_name, self.network.inside(part.machine, part.command))
            part.paused = False
        part.down = False

    def kill(self, name: str) -> None:
        """kill -9."""
        part = self.parts[name]
        part.down = True
        if part.process:
            part.process.kill()

    async def terminate(self, name: str, timeout_s: float = 40.0) -> float:
        """SIGTERM; returns after how many seconds it had ended. kill -9 when it takes too long."""
        part, begun_s = self.parts[name], time.monotonic()
        part.down = True
        if part.process:
            await asyncio.to_thread(part.process.stop, timeout_s)
        return time.monotonic() - begun_s

    def pause(self, name: str) -> None:
        """SIGSTOP: its connections stay open, and nothing is answered."""
        part = self.parts[name]
        if part.process and part.running:
            part.process.signal(signal.SIGSTOP)
            part.paused = True

    def resume(self, name: str) -> None:
        """SIGCONT."""
        part = self.parts[name]
        if part.process and part.running:
            part.process.signal(signal.SIGCONT)
        part.paused = False

    def fallen(self) -> list[Part]:
        """Parts that have ended though nobody has ended them."""
        return [part for part in self.parts.values() if not (part.down or part.excused or part.running)]

    # The parts' command lines.

    def flintlockd_command(self, machine: str, folder: Path, seed: int = 0) -> list[str]:
        """A fake flintlockd on this machine."""
        return _billet(
            "fake-flintlockd", "--grpc-endpoint", "127.0.0.1:9090", "--insecure", "--json-ready",
            "--control-endpoint", f"{ADDRESSES[machine]}:{CONTROL_PORT}", "--default-provider", "firecracker",
            "--boot-mean-s", str(self.boot_mean_s), "--delete-mean-s", str(self.boot_mean_s),
            "--pull-mean-s", "0", "--seed", str(seed), "--state", str(folder / "microvms.db"),
        )  # fmt: skip

    def agent_command(self, name: str, folder: Path) -> list[str]:
        """An agent with this host name, beside the flintlockd of the machine that it runs on."""
        return _billet(
            "agent", "--id", name, "--server", ",".join(LINKS), "--link-insecure", "--link-token", LINK_TOKEN,
            "--json-ready", "--containerd", "",
            "--flintlock", "127.0.0.1:9090", "--provider", "firecracker", "--state-dir", str(folder),
            "--state", str(folder / "agent"),
            "--vcpu", str(self.vcpu), "--memory-mib", str(self.memory_mib), "--disk-mib", "100000",
            "--max-vms", "100000", "--reserve-memory-mib", "0", "--reserve-disk-mib", "0",
        )  # fmt: skip


def _billet(*arguments: str) -> list[str]:
    return [*python("billet"), *arguments]


def python(module: str) -> list[str]:
    """The command that runs a module as a program."""
    return [sys.executable, "-m", module]


def _etcd(name: str, disk: Path) -> list[str]:
    program = etcd_program()
    if program is None:
        raise ConfigError("this needs the program etcd on PATH; on Debian: apt-get install etcd-server")
    client, peer = f"http://{ADDRESSES[name]}:2379", f"http://{ADDRESSES[name]}:2380"
    everyone = ",".join(f"{member}=http://{ADDRESSES[member]}:2380" for member in ETCD)
    return [
        program, "--name", name, "--data-dir", str(disk / "data"), "--initial-cluster", everyone, *ETCD_FLAGS,
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
    ]  # fmt: skip


def _server(name: str, disk: Path) -> list[str]:
    address = ADDRESSES[name]
    return _billet(
        "server", "--id", name, "--data-dir", str(disk), "--json-ready", "--insecure", "--http-endpoint", "",
        "--store", "etcd://" + ",".join(f"{ADDRESSES[member]}:2379" for member in ETCD),
        "--grpc-endpoint", f"{address}:9090", "--advertise-host", address, "--link-endpoint", f"{address}:9095",
        "--link-insecure", "--link-token", LINK_TOKEN, "--resolve-after-s", str(RESOLVE_AFTER_S),
    )  # fmt: skip


def ask_flintlockd(host: str, timeout_s: float = 2.0) -> dict[str, Any]:
    """What a fake flintlockd says of itself. OSError when it does not answer."""
    url = f"http://{ADDRESSES[host]}:{CONTROL_PORT}/stats"
    with urllib.request.urlopen(url, timeout=timeout_s) as reply:
        stats: dict[str, Any] = json.loads(reply.read())
        return stats


def between(some: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Both directions of every pair of two groups of machines."""
    others = list(others)
    return [pair for one in some for other in others if one != other for pair in ((one, other), (other, one))]
