"""A cluster of real processes for tests: fakes, agents, servers, a store. Each can be killed and started again."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from billet.demo.etcd import start_etcd
from billet.demo.processes import ChildProcess, Processes, free_port, stop_all
from billet.fake.process import FakeProcess, arguments
from billet.fake.settings import FakeConfig
from billet.wire.tls import TlsSettings
from tests.zygote import ZYGOTE

INSECURE = TlsSettings(insecure=True)
LINK_TOKEN = "link-secret"
STARTED_WITHIN_S = 120.0  # generous: the machine may be busy
# All hosts of a cluster are this one machine: how busy it is must not decide which host wins, and each host's bid is
# waited for. A test's own flags come after these.
CALM = ("--pressure-weight", "0", "--bid-wait-ms", "2000")


@dataclass(frozen=True)
class HostPlan:
    """One host of a cluster: what its machine offers, and how its flintlockd behaves."""

    id: str
    fake: FakeConfig
    vcpu: int = 1000
    memory_mib: int = 1 << 20
    disk_mib: int = 1 << 24
    max_vms: int = 100_000
    provider: str = "firecracker"
    zone: str = ""
    labels: tuple[str, ...] = ()  # KEY=VALUE
    agent_flags: tuple[str, ...] = ("--containerd", "")


class SharedFake(FakeProcess):
    """A fake in a process that it shares with others: it answers as any other, and cannot be killed alone."""

    def __init__(self, config: FakeConfig) -> None:
        super().__init__(replace(config, control_endpoint=f"127.0.0.1:{free_port()}"))
        self.grpc_address, self.control_address = self.config.grpc_endpoint, self.config.control_endpoint


@dataclass(frozen=True)
class LinkFiles:
    """TLS on the link: a certificate and key of the servers, its CA, and the file with the link token."""

    cert: str
    key: str
    ca: str
    token: str


@dataclass
class Cluster:
    """Call `start`, use it, and `stop` it. Servers and agents keep their ports when they are started again."""

    folder: Path
    plans: Sequence[HostPlan]
    store: str = "sqlite"  # or "etcd"
    servers: int = 1
    members: int = 1  # of etcd
    together: bool = False  # all agents in one process, and all fakes in another
    http: bool = False
    token: str = ""
    tls: TlsSettings = INSECURE
    link: LinkFiles | None = None  # None = no TLS on the link
    server_flags: tuple[str, ...] = ()
    agent_flags: tuple[str, ...] = ("--report-interval-s", "0.5")
    processes: Processes = field(init=False)
    fakes: list[FakeProcess] = field(default_factory=list)
    server: list[ChildProcess] = field(default_factory=list)
    agent: list[ChildProcess] = field(default_factory=list)
    grpc: list[str] = field(default_factory=list)
    http_address: str = ""
    zones: list[dict[str, str]] = field(default_factory=list)  # each server's addresses that stand for a zone

    def start(self) -> Cluster:
        self.processes = Processes(self.folder, ZYGOTE.spawn)
        try:
            self._start()
        except BaseException:
            self.stop()  # or what has started already would outlive the test
            raise
        return self

    def _start(self) -> None:
        self.store_url = "sqlite:///billet.db" if self.store == "sqlite" else start_etcd(self.processes, self.members)
        self.ports = [tuple(free_port() for _ in range(3)) for _ in range(self.servers)]
        starting = [self._launch_server(n) for n in range(self.servers)]
        self._start_fakes()
        self.server = starting
        for process in self.server:
            said = process.ready(STARTED_WITHIN_S)
            self.grpc.append(said["grpc"])
            self.zones.append(dict(said.get("zones", ())))
            self.http_address = self.http_address or said["http"]
        if self.together:
            self._run_together("agent", [self.agent_arguments(n) for n in range(len(self.plans))])
            return
        self.agent = [self.launch_agent(n) for n in range(len(self.plans))]
        for process in self.agent:
            process.ready(STARTED_WITHIN_S)

    def _start_fakes(self) -> None:
        if self.together:
            self.fakes = [SharedFake(plan.fake) for plan in self.plans]
            self._run_together("fake-flintlockd", [arguments(fake.config) for fake in self.fakes])
            return
        self.fakes = [FakeProcess(plan.fake, ZYGOTE.spawn) for plan in self.plans]
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(FakeProcess.start, self.fakes))

    def _run_together(self, kind: str, command_lines: list[list[str]]) -> None:
        """Returns when the first is ready; the ledger's hosts show when all are."""
        command = [sys.executable, "-m", "tests.together", kind, json.dumps(command_lines)]
        self.processes.start(kind, command).ready(STARTED_WITHIN_S)

    def stop(self) -> None:
        """Kill everything: what a test wants to see end in good order, it stops itself."""
        for process in self.processes.all:
            process.signal(signal.SIGKILL)
        for fake in self.fakes:
            with suppress(ProcessLookupError):
                fake.kill()
        stop_all(self.processes.all)

    @property
    def etcd(self) -> list[ChildProcess]:
        return [process for process in self.processes.all if process.name.startswith("etcd-") and process.running()]

    @property
    def etcd_endpoints(self) -> list[str]:
        return self.store_url.removeprefix("etcd://").split(",")

    def restart_etcd(self) -> None:
        """Start those members again that have been killed, with the data that they had."""
        for dead in [process for process in self.processes.all if process.name.startswith("etcd-")]:
            if not dead.running():
                self.processes.restart(dead)

    def restart_server(self, n: int = 0) -> None:
        """Start it again on its ports; returns when it is ready (its agents may still be on their way)."""
        self.server[n] = self._launch_server(n)
        self.server[n].ready(STARTED_WITHIN_S)

    def restart_agent(self, n: int) -> None:
        self.agent[n] = self.launch_agent(n)
        self.agent[n].ready(STARTED_WITHIN_S)

    def _launch_server(self, n: int) -> ChildProcess:
        data = self.folder / f"server-{n}"
        data.mkdir(exist_ok=True)
        grpc_port, http_port, link_port = self.ports[n]
        tls_flags: list[str] = ["--insecure"] if self.tls.insecure else ["--tls-cert", self.tls.cert]
        tls_flags += [] if self.tls.insecure else ["--tls-key", self.tls.key]
        if self.tls.client_validate:
            tls_flags += ["--tls-client-validate", "--tls-client-ca", self.tls.client_ca]
        return self.processes.billet(
            f"server-{n}", "server", "--id", f"server-{n}", "--data-dir", str(data), "--store", self.store_url,
            "--grpc-endpoint", f"127.0.0.1:{grpc_port}", "--advertise-host", "127.0.0.1", "--json-ready",
            "--http-endpoint", f"127.0.0.1:{http_port}" if self.http else "", *tls_flags,
            "--link-endpoint", f"127.0.0.1:{link_port}", *self._link_flags("--link-tls-cert", "--link-tls-key"),
            *(["--basic-auth-token", self.token] if self.token else []), *CALM, *self.server_flags,
        )  # fmt: skip

    def _link_flags(self, *names: str) -> list[str]:
        if self.link is None:
            return ["--link-token", LINK_TOKEN, "--link-insecure"]
        values = {"--link-tls-cert": self.link.cert, "--link-tls-key": self.link.key, "--link-ca": self.link.ca}
        return ["--link-token-file", self.link.token, *(word for name in names for word in (name, values[name]))]

    def launch_agent(self, n: int) -> ChildProcess:
        return self.processes.billet(f"agent-{self.plans[n].id}", "agent", *self.agent_arguments(n))

    def agent_arguments(self, n: int) -> list[str]:
        plan = self.plans[n]
        links = ",".join(f"127.0.0.1:{link}" for _, _, link in self.ports)
        return [
            "--id", plan.id, "--server", links, "--json-ready",
            *self._link_flags("--link-ca"), "--flintlock", self.fakes[n].grpc_address,
            "--provider", plan.provider, "--zone", plan.zone, *(f"--label={label}" for label in plan.labels),
            "--state-dir", str(self.folder), "--state", str(self.folder / "agents"),
            "--vcpu", str(plan.vcpu), "--memory-mib", str(plan.memory_mib), "--disk-mib", str(plan.disk_mib),
            "--max-vms", str(plan.max_vms), "--reserve-memory-mib", "0", "--reserve-disk-mib", "0",
            *self.agent_flags, *plan.agent_flags,
        ]  # fmt: skip


def plans(count: int, folder: Path, **settings: object) -> list[HostPlan]:
    """Some hosts; settings of FakeConfig, or of HostPlan by its own names, which may be lists to take turns by."""
    own = {name: settings.pop(name) for name in ("vcpu", "memory_mib", "disk_mib", "max_vms") if name in settings}
    base: dict[str, object] = {"boot_mean_s": 0.0, "pull_mean_s": 0.0, **settings}
    keep = bool(base.pop("keep_state", False))  # its microVMs are there again after a kill
    return [
        HostPlan(
            f"h{n}",
            # Ports of their own, which they find free when they are started again.
            FakeConfig(
                grpc_endpoint=f"127.0.0.1:{free_port()}",
                seed=n,
                state_file=str(folder / f"h{n}.db") if keep else "",
                **base,
            ),  # type: ignore[arg-type]
            **{key: value[n % len(value)] if isinstance(value, list) else value for key, value in own.items()},  # type: ignore[arg-type]
        )
        for n in range(count)
    ]


Starter = Callable[..., Cluster]
