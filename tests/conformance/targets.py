"""What the conformance checks run against. The checks know only `Target` and `Service`.

A target that the checks start themselves is a class with the three members of `Target`, listed in TARGETS:

* `start(options, directory)` starts one fake per host (FakeProcess), an agent beside each, and `options.servers`
  servers. It returns a Service when every server knows every host.
* `options` describes what clients see (token, TLS, HTTP), and how the hosts behave. The hosts of a cluster need no
  token or TLS for these checks: host_config(.., client_facing=False).
* Checks that need several hosts use the fixture `cluster`, which skips them on a lone flintlockd.

external.py has the target that runs already: an address given on the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc

from billet.api import fleet_service as fleet
from billet.demo.processes import free_port
from billet.fake.process import FakeProcess
from billet.fake.settings import FakeConfig
from billet.wire.pb import fleet_pb2
from billet.wire.tls import TlsSettings
from tests.harness import Cluster, HostPlan
from tests.zygote import ZYGOTE

from .calls import Client, Refusal, attempt, eventually

NEVER_S = 10_000.0  # a boot that no test waits for


@dataclass(frozen=True)
class Options:
    """What a check needs of the service. Tuples have one value per host: host n has item n modulo the length."""

    hosts: int = 1
    servers: int = 1  # addresses that clients may use; 1 for a lone flintlockd
    http: bool = False
    token: str = ""
    tls: TlsSettings = field(default_factory=lambda: TlsSettings(insecure=True))
    providers: tuple[str, ...] = ("firecracker",)
    versions: tuple[str, ...] = ("0.11.0",)
    boot_mean_s: float = 0.0
    keep_state: bool = False  # hosts keep their microVMs over kill() and start()
    host_vcpu: int = 0  # allocatable on each host, as Billet counts it; 0 = plenty
    host_memory_mib: int = 0


@dataclass
class Service:
    """A running Flintlock endpoint. Addresses are "host:port"."""

    address: str  # gRPC; plain text unless Options.tls says otherwise
    http_address: str  # "" unless Options.http
    servers: list[str]  # every gRPC address, `address` first
    hosts: list[FakeProcess]  # the flintlockds behind it, for stats, faults, kill and start
    stop: Callable[[], None]
    token: str = ""
    credentials: grpc.ChannelCredentials | None = None

    def client(self, **changes: Any) -> Client:
        """A client that the service accepts, but for these changes."""
        return Client(self.address, **{"token": self.token, "credentials": self.credentials, **changes})

    def creates(self) -> int:
        """Number of creates that all hosts together have accepted."""
        return sum(host.stats()["creates_accepted"] for host in self.hosts)

    def on_hosts(self, name: str) -> list[str]:
        """The uids of the microVMs with this name, on all hosts that answer."""
        return [vm["uid"] for host in self.hosts for vm in host.stats()["microvms"] if vm["id"] == name]


class Target(Protocol):
    """A way to start a Service."""

    name: str  # the id of the pytest parameter
    is_cluster: bool  # several hosts, several servers, and Billet's own codes exist

    def start(self, options: Options, directory: Path) -> Service:
        """Start a service, and return when it answers. `directory` is empty, and for this service alone."""


class FakeTarget:
    """One fake flintlockd without Billet: shows that the checks themselves are right."""

    name = "fake"
    is_cluster = False

    def start(self, options: Options, directory: Path) -> Service:
        assert options.hosts == options.servers == 1, "a lone flintlockd: ask for the fixture `cluster`"
        host = FakeProcess(host_config(options, 0, directory, client_facing=True), ZYGOTE.spawn).start()
        return Service(host.grpc_address, host.http_address, [host.grpc_address], [host], host.stop, options.token)


def host_config(options: Options, index: int, directory: Path, client_facing: bool) -> FakeConfig:
    """Settings of host number `index`. Only a host that clients reach directly has the token, TLS and HTTP."""
    return FakeConfig(
        grpc_endpoint=f"127.0.0.1:{free_port()}",
        http_endpoint="127.0.0.1:0",
        enable_http=options.http and client_facing,
        tls=options.tls if client_facing else TlsSettings(insecure=True),
        basic_auth_token=options.token if client_facing else "",
        default_provider=options.providers[index % len(options.providers)],
        flintlock_version=options.versions[index % len(options.versions)],
        boot_mean_s=options.boot_mean_s,
        pull_mean_s=0.0,
        state_file=str(directory / f"host-{index}.db") if options.keep_state else "",
    )


class ClusterTarget:
    """Billet in front of one fake per host: the same checks, and those that need a cluster."""

    is_cluster = True

    def __init__(self, store: str) -> None:
        self.name = f"cluster-{store}"
        self._store = store

    def start(self, options: Options, directory: Path) -> Service:
        # Two servers need a store that they can share.
        store = "etcd" if options.servers > 1 else self._store
        cluster = Cluster(
            directory,
            [self._plan(options, n, directory) for n in range(options.hosts)],
            store=store,
            servers=options.servers,
            http=options.http,
            token=options.token,
            tls=options.tls,
        ).start()
        if options.tls.insecure:  # a follower learns the leader's address only after its start
            for address in cluster.grpc:
                eventually(lambda address=address: serving(address))
            eventually(lambda: ready_hosts(cluster.grpc[0], options.token) == options.hosts)
        return Service(
            cluster.grpc[0], cluster.http_address, cluster.grpc, cluster.fakes, cluster.stop, options.token
        )

    def _plan(self, options: Options, index: int, directory: Path) -> HostPlan:
        return HostPlan(
            f"host-{index}",
            host_config(options, index, directory, client_facing=False),
            vcpu=options.host_vcpu or 1000,
            memory_mib=options.host_memory_mib or 1 << 20,
            provider=options.providers[index % len(options.providers)],
        )


def serving(address: str) -> bool:
    """Whether this server leads, or knows the leader."""
    client = Client(address)
    try:
        return client.call("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
    finally:
        client.close()


def ready_hosts(address: str, token: str) -> int:
    """How many hosts may bid: an agent that is ready is not in the ledger at once."""
    client = Client(address, token)
    try:
        reply = attempt(client.call, fleet.HOSTS, b"")
    finally:
        client.close()
    hosts = () if isinstance(reply, Refusal) else fleet_pb2.HostsReply.FromString(reply).hosts
    return sum(host.state == fleet_pb2.READY for host in hosts)


TARGETS: list[Target] = [FakeTarget(), ClusterTarget("sqlite"), ClusterTarget("etcd")]
