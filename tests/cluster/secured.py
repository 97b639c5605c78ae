"""A cluster in which every leg has TLS, client certificates and a secret of its own, all of them in files."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from billet.adapters.pki import Files, write_host, write_pki
from billet.demo.processes import ChildProcess, Processes, free_port
from billet.fake.process import FakeProcess
from billet.fake.settings import FakeConfig
from billet.store.etcd_client import EtcdClient
from billet.wire.pb import etcd_rpc_pb2 as pb
from billet.wire.secret import FileText
from billet.wire.tls import ClientTls, TlsSettings
from tests.etcd_fixture import LocalEtcd
from tests.harness import CALM, STARTED_WITHIN_S
from tests.zygote import ZYGOTE

IN_FORCE_S = 60.0  # generous: the machine may be busy
TAKEN = "new files in force"


class Leg:
    """One leg's files: a CA, both sides' certificates, a secret; and the ones that take their place."""

    def __init__(self, folder: Path, hosts: Sequence[str] = ()) -> None:
        self.folder, self.name = folder, folder.name
        self.old, self.new = (write_pki(folder / kind, ["127.0.0.1"], 1) for kind in ("old", "new"))
        for files in (self.old, self.new):
            for host in hosts:
                write_host(files.ca.parent, host, 1)
        self.files = Files(*(folder / path.name for path in self.old))
        self.secret = folder / "secret"
        self._put("ca.crt", self.old.ca.read_bytes())
        self._put_pairs(self.old)
        self.put_secret("old")

    def put_secret(self, *which: str) -> None:
        """The file gets these lines: "old", "new"."""
        self._put("secret", "".join(f"{self.name}-{one}\n" for one in which).encode())

    def overlap(self) -> None:
        """Step 1: both CAs, and both secrets."""
        self._put("ca.crt", self.old.ca.read_bytes() + self.new.ca.read_bytes())
        self.put_secret("old", "new")

    def renew(self) -> None:
        """Step 2: the new certificates, and the new secret first."""
        self._put_pairs(self.new)
        self.put_secret("new", "old")

    def finish(self) -> None:
        """Step 3: nothing old is left."""
        self._put("ca.crt", self.new.ca.read_bytes())
        self.put_secret("new")

    def client(self, kind: str = "") -> ClientTls:
        """A client's files: those in force, or of `kind` "old" or "new"."""
        folder = self.folder / kind
        return ClientTls(str(folder / "ca.crt"), str(folder / "client.crt"), str(folder / "client.key"))

    def host(self, host: str) -> tuple[str, str]:
        return str(self.folder / f"host-{host}.crt"), str(self.folder / f"host-{host}.key")

    def server(self) -> tuple[str, str]:
        return str(self.files.server_cert), str(self.files.server_key)

    @property
    def ca(self) -> str:
        return str(self.files.ca)

    def _put_pairs(self, files: Files) -> None:
        for path in files.ca.parent.iterdir():
            if not path.name.startswith("ca."):
                self._put(path.name, path.read_bytes())

    def _put(self, name: str, content: bytes) -> None:
        unfinished = self.folder / f"{name}.tmp"
        unfinished.write_bytes(content)
        unfinished.rename(self.folder / name)


class SecuredCluster:
    """Servers, agents, fakes, and etcd if the machine has it. `legs` are the four, by name."""

    def __init__(
        self, folder: Path, servers: int, hosts: int, certificates: bool = True, server_flags: Sequence[str] = ()
    ) -> None:
        """`certificates`: clients and agents need them, besides the tokens."""
        self.folder = folder
        self._certificates, self._server_flags = certificates, server_flags
        self.hosts = [f"h{n}" for n in range(hosts)]
        for name in ("api", "link", "etcd", "flintlockd"):
            (folder / name).mkdir()
        self.legs = {
            name: Leg(folder / name, self.hosts if name == "link" else ())
            for name in ("api", "link", "etcd", "flintlockd")
        }
        self.processes = Processes(folder, ZYGOTE.spawn)
        self.etcd: LocalEtcd | None = None
        self.ports = [tuple(free_port() for _ in range(3)) for _ in range(servers)]
        self.servers: list[ChildProcess] = []
        self.agents: list[ChildProcess] = []
        self.fakes: list[FakeProcess] = []

    async def start(self) -> None:
        await self._start_etcd()
        self.servers = [self.launch_server(n) for n in range(len(self.ports))]
        self.fakes = [FakeProcess(self._fake(n), ZYGOTE.spawn) for n in range(len(self.hosts))]
        for fake in self.fakes:
            await asyncio.to_thread(fake.start)
        self.agents = [self.launch_agent(n) for n in range(len(self.hosts))]
        for process in (*self.servers, *self.agents):
            await asyncio.to_thread(process.ready, STARTED_WITHIN_S)

    def stop(self) -> None:
        for process in self.processes.all:
            process.kill()
        for fake in self.fakes:
            fake.kill()
        if self.etcd:
            self.etcd.stop()

    async def _start_etcd(self) -> None:
        leg = self.legs["etcd"]
        trusted = leg.folder / "etcds-ca.crt"  # etcd reads its CA file at start only
        trusted.write_bytes(leg.old.ca.read_bytes() + leg.new.ca.read_bytes())
        cert, key = leg.server()
        flags = ["--cert-file", cert, "--key-file", key, "--trusted-ca-file", str(trusted), "--client-cert-auth"]
        try:
            self.etcd = LocalEtcd(self.folder, flags, scheme="https")
        except pytest.skip.Exception:  # this machine has none
            self.ports = self.ports[:1]  # SQLite is for one server
            return
        await asyncio.to_thread(self.etcd.start)
        steps = [("UserAdd", "root", "etcd-old"), ("RoleAdd", "root", ""), ("UserGrantRole", "root", "root")]
        client = EtcdClient([self.etcd.endpoint], *leg.client())
        for method, first, second in [*steps, ("AuthEnable", "", "")]:
            request = pb.AuthenticateRequest(name=first, password=second)
            await client.call(f"Auth/{method}", request, pb.AuthenticateResponse, timeout_s=10.0)
        await client.close()

    async def change_password(self) -> None:
        """etcd itself has one password at a time."""
        if not self.etcd:
            return
        client = EtcdClient([self.etcd.endpoint], *self.legs["etcd"].client(), user="root", password="etcd-old")
        request = pb.AuthenticateRequest(name="root", password="etcd-new")
        await client.call("Auth/UserChangePassword", request, pb.AuthenticateResponse, timeout_s=10.0)
        await client.close()

    def launch_server(self, n: int) -> ChildProcess:
        data = self.folder / f"data-{n}"
        data.mkdir(exist_ok=True)
        api, link = self.legs["api"], self.legs["link"]
        (cert, key), (link_cert, link_key) = api.server(), link.server()
        grpc, http, agents = (f"127.0.0.1:{port}" for port in self.ports[n])
        return self.processes.billet(
            f"server-{n}", "server", "--id", f"server-{n}", "--data-dir", str(data), "--json-ready",
            "--grpc-endpoint", grpc, "--http-endpoint", http, "--link-endpoint", agents,
            "--tls-cert", cert, "--tls-key", key, "--servers-ca", api.ca, "--basic-auth-token-file", str(api.secret),
            "--link-tls-cert", link_cert, "--link-tls-key", link_key, "--link-token-file", str(link.secret),
            *(["--tls-client-validate", "--tls-client-ca", api.ca] if self._certificates else []),
            *(["--link-client-ca", link.ca] if self._certificates else []),
            *self._store_flags(), *CALM, *self._server_flags,
        )  # fmt: skip

    def _store_flags(self) -> list[str]:
        if not self.etcd:
            return []
        leg = self.legs["etcd"]
        ca, cert, key = leg.client()
        return [
            "--store", self.etcd.endpoint.replace("https:", "etcd:"), "--etcd-tls-ca", ca, "--etcd-tls-cert", cert,
            "--etcd-tls-key", key, "--etcd-user", "root", "--etcd-password-file", str(leg.secret),
        ]  # fmt: skip

    def launch_agent(self, n: int) -> ChildProcess:
        link, leg, host = self.legs["link"], self.legs["flintlockd"], self.hosts[n]
        (cert, key), (ca, own_cert, own_key) = link.host(host), leg.client()
        return self.processes.billet(
            f"agent-{host}", "agent", "--id", host, "--json-ready",
            "--server", ",".join(f"127.0.0.1:{port}" for _, _, port in self.ports),
            "--link-ca", link.ca, "--link-cert", cert, "--link-key", key, "--link-token-file", str(link.secret),
            "--flintlock", self.fakes[n].grpc_address, "--flintlock-tls-ca", ca, "--flintlock-tls-cert", own_cert,
            "--flintlock-tls-key", own_key, "--flintlock-token-file", str(leg.secret),
            "--containerd", "", "--provider", "firecracker", "--state", str(self.folder / "agents"),
            "--state-dir", str(self.folder), "--vcpu", "60000", "--memory-mib", str(1 << 27),
            "--disk-mib", str(1 << 27), "--max-vms", "50000", "--report-interval-s", "0.5",
        )  # fmt: skip

    def _fake(self, n: int) -> FakeConfig:
        leg = self.legs["flintlockd"]
        return FakeConfig(
            grpc_endpoint=f"127.0.0.1:{free_port()}",
            tls=TlsSettings(False, *leg.server(), True, leg.ca),
            basic_auth_token=FileText("flintlockd-old", str(leg.secret)),
            boot_mean_s=0.0,
            pull_mean_s=0.0,
            seed=n,
        )

    async def in_force(self, marks: dict[str, int], changed: Iterable[str], hangup: bool) -> float:
        """Wait until every process says that it has taken the files that it uses; seconds."""
        began_s, names = time.monotonic(), set(changed)
        if hangup:
            for process in (*self.servers, *self.agents):
                process.signal(signal.SIGHUP)
        for process in (*self.servers, *self.agents):
            mine = {word for word in process.command if word in names}
            while missing := {path for path in mine if path not in self._taken(process, marks[process.name])}:
                if time.monotonic() - began_s > IN_FORCE_S:
                    raise AssertionError(f"{process.name} has not taken {missing}\n{process.tail()}")
                assert process.running(), process.tail()
                await asyncio.sleep(0.05)
        return time.monotonic() - began_s

    def marks(self) -> dict[str, int]:
        """How long each process's log is now."""
        return {process.name: process.log.stat().st_size for process in (*self.servers, *self.agents)}

    def _taken(self, process: ChildProcess, since: int) -> str:
        lines = process.log.read_bytes()[since:].decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if TAKEN in line)

    def logged(self, words: str) -> list[str]:
        """The lines of all logs with these words."""
        processes = (*self.servers, *self.agents)
        return [
            line for one in processes for line in one.log.read_text(errors="replace").splitlines() if words in line
        ]
