"""`billet doctor` beside real servers, etcds and flintlockds: what it says of each that fails, and its exit code."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from billet.adapters.pki import Files, write_pki
from billet.demo.etcd import start_etcd
from billet.demo.processes import ChildProcess, Processes, free_port
from billet.fake.process import FakeProcess
from billet.fake.settings import FakeConfig
from tests.conformance.calls import eventually
from tests.zygote import ZYGOTE

CERTIFICATE = "certificate --link-tls-cert"


@dataclass
class World:
    """A server with TLS on its link and an etcd of three members, and a flintlockd."""

    folder: Path
    files: Files
    server: ChildProcess
    settings: list[str]  # of the server
    link: str
    fake: FakeProcess
    etcd: list[ChildProcess]

    def of_host(self, *more: str) -> dict[str, tuple[str, str, str]]:
        return doctor(
            "agent", "--server", self.link, "--link-ca", str(self.files.ca), "--link-token-file",
            str(self.folder / "token"), "--flintlock", self.fake.grpc_address, "--containerd", "", "--state-dir",
            str(self.folder), *more,
        )  # fmt: skip

    def of_server(self, *more: str) -> dict[str, tuple[str, str, str]]:
        return doctor("server", *self.settings, *more)


def doctor(*arguments: str) -> dict[str, tuple[str, str, str]]:
    """(level, found, cure) of each check."""
    done = ZYGOTE.run("doctor", *arguments, "-o", "json")
    assert done.stdout, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == (1 if any(row["level"] == "failed" for row in rows) else 0)
    assert all(row["cure"] for row in rows if row["level"] == "failed")
    return {row["check"]: (row["level"], row["found"], row["cure"]) for row in rows}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    files = write_pki(tmp_path / "pki", ["localhost"], 400)
    (tmp_path / "token").write_text("secret")
    (tmp_path / "logs").mkdir()
    with Processes(tmp_path / "logs") as processes:
        etcd = start_etcd(processes, 3)
        members = list(processes.all)
        settings = [
            "--store", etcd, "--data-dir", str(tmp_path), "--insecure", "--advertise-host", "localhost",
            "--link-tls-cert", str(files.server_cert), "--link-tls-key", str(files.server_key),
            "--link-token-file", str(tmp_path / "token"), "--grpc-endpoint", f"localhost:{free_port()}",
            "--http-endpoint", f"localhost:{free_port()}", "--link-endpoint", f"localhost:{free_port()}",
        ]  # fmt: skip
        server = processes.start("server", [sys.executable, "-m", "billet", "server", *settings, "--json-ready"])
        link = server.ready(120)["link"]
        fake = FakeProcess(FakeConfig(grpc_endpoint="127.0.0.1:0", flintlock_version="0.15.2")).start()
        try:
            yield World(tmp_path, files, server, settings, link, fake, members)
        finally:
            fake.stop()


@pytest.mark.long
def test_a_host_that_lacks_something_is_told_what_to_do(world: World) -> None:
    """Broken on purpose, each fails: the answer to a wrong token counts as one that is right; a flintlockd that
    does not answer is ok; the certificates are left out.
    """
    found = world.of_host()
    assert found["flintlockd"][0] == "ok"
    assert found["flintlockd version"][:2] == ("ok", "0.15.2")
    assert found[f"server {world.link}"][:2] == ("ok", "accepts this host's link token")
    assert found["certificate --link-ca"][0] == "ok"
    assert found["thin pool"][0] == found["containerd"][0] == "skipped"
    assert found["capacity"][0] == found["state folder"][0] == "ok"

    assert world.of_host("--reserve-memory-mib", str(1 << 40))["capacity"][0] == "failed"
    socketless = world.of_host("--containerd", str(world.folder / "none.sock"))["containerd"]
    assert socketless[:2] == ("failed", f"{world.folder / 'none.sock'} does not exist")
    pool = world.of_host("--thin-pool", "no-such-pool")["thin pool"]
    assert pool[0] == "failed"

    (world.folder / "token").write_text("another")
    level, why, cure = world.of_host()[f"server {world.link}"]
    assert (level, why) == ("failed", "the server refused the link token")
    assert cure == "give the agent the server's --link-token"
    other = write_pki(world.folder / "other", ["localhost"], 20)
    found = world.of_host("--link-ca", str(other.ca))
    assert "not signed by --link-ca" in "".join(found[f"server {world.link}"])
    level, why, cure = found["certificate --link-ca"]
    assert (level, why) == ("warning", "expires in 19 days")
    assert "replace the file" in cure

    world.fake.kill()
    assert world.of_host()["flintlockd"][0] == "failed"


@pytest.mark.long
def test_a_server_that_lacks_something_is_told_what_to_do(world: World) -> None:
    """Broken on purpose, each fails: a port that another program has counts as the server's; a member of etcd that
    does not answer is ok; the names in the certificate are left out.
    """
    found = eventually(lambda: _with_a_server(world.of_server("--id", "another")))
    assert {name: level for name, (level, *_) in found.items() if level == "failed"} == {}
    assert all("`billet server` listens" in found[f"port --{kind}-endpoint"][1] for kind in ("grpc", "http", "link"))
    assert found[CERTIFICATE][0] == found["key --link-tls-cert"][0] == "ok"
    assert sum(name.startswith("etcd ") for name in found) == 3
    assert sum("leads" in why for name, (_, why, _) in found.items() if name.startswith("etcd ")) == 1
    assert any(name.startswith("server ") and level == "ok" for name, (level, *_) in found.items())

    other = world.of_server("--advertise-host", "127.0.0.1")["key --link-tls-cert"]
    assert other[0] == "warning"
    assert "the certificate is for localhost; others dial 127.0.0.1" in other[1]
    (world.folder / "token").chmod(0o644)
    assert world.of_server()["secret file"][2] == f"chmod o= {world.folder / 'token'}"

    with socket.create_server(("localhost", 0)) as taken:
        number = taken.getsockname()[1]
        level, why, _ = world.of_server("--http-endpoint", f"localhost:{number}")["port --http-endpoint"]
        assert level == "failed"
        assert f"localhost:{number} is in use by " in why

    world.etcd[0].kill()
    eventually(lambda: _of_etcd(world.of_server()) == ["failed", "ok", "ok"])  # a busy member may answer late once
    for member in world.etcd[1:]:
        member.signal(signal.SIGKILL)
    assert world.of_server()["etcd"][0] == "failed"


def _with_a_server(found: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str, str]] | None:
    """The checks, once a server stands for election and every member of etcd has answered in time."""
    stands = any(name.startswith("server ") for name in found)
    return found if stands and _of_etcd(found) == ["ok"] * 3 else None


def _of_etcd(found: dict[str, tuple[str, str, str]]) -> list[str]:
    return sorted(level for name, (level, *_) in found.items() if name.startswith("etcd "))
