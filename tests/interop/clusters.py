"""Clusters whose flintlockds are grpc-go's: real Billet processes between two real gRPC implementations."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from billet.demo.processes import ChildProcess
from tests.conformance.targets import ready_hosts
from tests.harness import STARTED_WITHIN_S, Cluster, plans
from tests.interop.programs import go_program, run, wait_until


class GoHost:
    """A flintlockd on grpc-go. Has what a Cluster asks of a fake."""

    def __init__(self, process: ChildProcess) -> None:
        self._process = process
        said = process.ready(STARTED_WITHIN_S)
        self.grpc_address, self._control = said["grpc"], said["control"]

    def kill(self) -> None:
        self._process.kill()

    def streams(self, uid: str = "") -> list[dict[str, Any]]:
        """What became of each exec and SSH stream, of one microVM or of all."""
        accounts: list[dict[str, Any]] = self._ask("streams") or []
        return [account for account in accounts if uid in ("", account["Uid"])]

    def creating(self) -> int:
        """How many slow creates are in progress."""
        count: int = self._ask("creating")
        return count

    def _ask(self, what: str) -> Any:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self._control}/{what}", timeout=30) as reply:
            return json.loads(reply.read())


class GoCluster(Cluster):
    """A Cluster with a GoHost for each plan; `versions` are what their ServerInfo tells."""

    versions: tuple[str, ...] = ("0.15.2",)

    def _start_fakes(self) -> None:
        for n, plan in enumerate(self.plans):
            version = self.versions[n % len(self.versions)]
            command = go_program("flintlockd", "-grpc", plan.fake.grpc_endpoint, "-version", version)
            host: Any = GoHost(self.processes.start(f"flintlockd-{plan.id}", command))
            self.fakes.append(host)

    @property
    def hosts(self) -> list[GoHost]:
        hosts: list[Any] = self.fakes
        return hosts

    @property
    def host(self) -> GoHost:
        return self.hosts[0]

    @property
    def address(self) -> str:
        return self.grpc[0]

    def create(self, name: str, at: str = "") -> str:
        """Make a microVM, and return its uid."""
        done = run("client", "-addr", at or self.address, "-id", name, "create")
        assert done.last["code"] == "OK", (done.last, done.errors)
        uid: str = done.last["uid"]
        return uid


@contextmanager
def go_cluster(
    folder: Path, hosts: int = 1, versions: tuple[str, ...] = ("0.15.2",), **settings: Any
) -> Iterator[GoCluster]:
    """A running cluster. Its hosts have all told of themselves, unless it has TLS."""
    cluster = GoCluster(folder, plans(hosts, folder), **settings)
    cluster.versions = versions
    cluster.start()
    try:
        if cluster.tls.insecure:
            wait_until(lambda: ready_hosts(cluster.address, "") == hosts, "all hosts are in the cluster")
        yield cluster
    finally:
        cluster.stop()
