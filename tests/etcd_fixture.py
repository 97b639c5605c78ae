"""A real etcd for tests: members on free ports of 127.0.0.1, each in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from billet.demo.processes import free_port

CHECKOUT_ETCD = Path(__file__).parents[1] / ".tools" / "etcd" / "usr" / "bin" / "etcd"

STARTED_WITHIN_S = 120.0


def etcd_binary() -> str:
    """The program to test with: $BILLET_ETCD, PATH, or the checkout's own. Skips the test when there is none."""
    named = os.environ.get("BILLET_ETCD")
    found = named or shutil.which("etcd") or (str(CHECKOUT_ETCD) if CHECKOUT_ETCD.exists() else None)
    if not found:
        pytest.skip(f"no etcd: set BILLET_ETCD, put it on PATH (apt-get install etcd-server), or at {CHECKOUT_ETCD}")
    return found


class LocalEtcd:
    """One member. It keeps its ports and its data when it is killed and started again."""

    def __init__(self, folder: Path, flags: Sequence[str] = (), scheme: str = "http", name: str = "test") -> None:
        self.folder, self.name = folder, name
        self._flags, self._scheme = list(flags), scheme
        self._binary = etcd_binary()
        self._ports = free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._ports[0]}"

    @property
    def peer(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def start(self) -> LocalEtcd:
        """Return when it says that it is well."""
        metrics = self.launch()
        self.wait_for_health(f"{metrics}/health")
        return self

    def launch(self, cluster: str = "") -> str:
        """Begin to start; the URL at which it says how it is. `cluster` as in --initial-cluster."""
        peer, metrics = self.peer, f"http://127.0.0.1:{self._ports[2]}"
        command = [self._binary, "--name", self.name, "--data-dir", str(self.folder / "data"), "--log-level", "error"]
        command += ["--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += [
            "--initial-cluster",
            cluster or f"{self.name}={peer}",
            "--listen-metrics-urls",
            metrics,
            *self._flags,
        ]
        with (self.folder / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return metrics

    def kill(self) -> None:
        """As if the power had gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it end in peace; also when it is paused, or has ended already."""
        self.resume()
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: its connections stay open, and nothing is answered. Returns when all its threads stand still."""
        self._signal(signal.SIGSTOP)
        deadline_s = time.monotonic() + STARTED_WITHIN_S
        while self._process and not _stopped(self._process.pid):
            assert time.monotonic() < deadline_s, "etcd does not stand still"
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process:
            try:
                self._process.wait(10.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    def wait_for_health(self, url: str) -> None:
        assert self._process
        deadline_s = time.monotonic() + STARTED_WITHIN_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(url, timeout=1.0) as answer:
                    if b'"true"' in answer.read():
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        self.stop()
        raise AssertionError(f"etcd is not well: {(self.folder / 'etcd.log').read_text()[-2000:]}")


class LocalCluster:
    """Three members."""

    def __init__(self, folder: Path) -> None:
        self.members = []
        for n in range(3):
            (folder / f"m{n}").mkdir()
            self.members.append(LocalEtcd(folder / f"m{n}", name=f"m{n}"))
        self._cluster = ",".join(f"{member.name}={member.peer}" for member in self.members)

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def start(self) -> LocalCluster:
        """All of them, also those that were killed; return when a majority can write."""
        waits = [(member, member.launch(self._cluster)) for member in self.members if not member.runs]
        for member, metrics in waits:
            member.wait_for_health(f"{metrics}/health")
        return self

    def replace(self, old: LocalEtcd, folder: Path) -> None:
        """Take a member out of the cluster, and put a new one with a new address in its place."""
        other = next(member for member in self.members if member is not old)
        folder.mkdir()
        new = LocalEtcd(folder, ["--initial-cluster-state", "existing"], name=folder.name)
        listed = _ask(other, "member/list", {})["members"]
        _ask(other, "member/remove", {"ID": next(one["ID"] for one in listed if one.get("name") == old.name)})
        old.kill()
        self.members.remove(old)
        _ask(other, "member/add", {"peerURLs": [new.peer]})
        peers = ",".join(f"{member.name}={member.peer}" for member in [*self.members, new])
        new.wait_for_health(f"{new.launch(peers)}/health")
        self.members.append(new)

    def stop(self) -> None:
        """End them; in peace, the last ones would wait for the others in vain."""
        for member in self.members:
            member.kill()


def _ask(member: LocalEtcd, method: str, request: dict[str, object]) -> dict[str, Any]:
    """Call etcd's cluster API. It refuses for some seconds after each change of the members."""
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    url = f"{member.endpoint}/v3/cluster/{method}"
    while True:
        try:
            with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=10.0) as answer:
                return cast(dict[str, Any], json.load(answer))
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline_s, f"etcd refuses {method}"
            time.sleep(0.2)


def _stopped(pid: int) -> bool:
    """Whether the kernel has stopped every thread, which is some time after the signal was sent."""
    try:
        stats = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread ended meanwhile
        return False
    return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    return [free_port() for _ in range(count)]


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEtcd]:
    """One for the whole run. Every test takes a prefix of its own, and leaves the process alone."""
    server = LocalEtcd(tmp_path_factory.mktemp("etcd")).start()
    yield server
    server.stop()


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[LocalEtcd]:
    """One for this test only, to be killed, paused and started again."""
    folder = tmp_path / "own-etcd"
    folder.mkdir()
    server = LocalEtcd(folder).start()
    yield server
    server.stop()


@pytest.fixture
def three_etcds(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster for this test only."""
    folder = tmp_path / "three-etcds"
    folder.mkdir()
    cluster = LocalCluster(folder).start()
    yield cluster
    cluster.stop()
