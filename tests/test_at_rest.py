"""Files at rest: who can read them, and what says so when others can."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from billet.at_rest import exposed, server_files
from billet.config import ServerConfig
from billet.demo.processes import Processes
from billet.settings import secret_files
from billet.wire.secret import FileText
from tests.zygote import ZYGOTE


def test_a_file_that_others_can_read_is_named_and_a_group_is_nobodys_business(tmp_path: Path) -> None:
    """Broken on purpose (a mask of 0o077): the file of a group is named, too."""
    modes = {"own": 0o600, "group": 0o640, "read": 0o644, "written": 0o602}
    for name, mode in modes.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    found = exposed([*(tmp_path / name for name in modes), tmp_path / "none", tmp_path])
    assert found == [
        f"{tmp_path / name} is open to every user of this machine: chmod o= {tmp_path / name}"
        for name in ("read", "written")
    ]


@pytest.mark.parametrize("path", ["billet.db", "deep/billet.db", "/absolute/billet.db"])
def test_the_files_of_a_server_are_those_of_its_store_and_its_records(path: str) -> None:
    found = server_files(f"sqlite:///{path}", "/data")
    assert {str(one) for one in found} >= {str(Path("/data") / f"{path}{end}") for end in ("", "-wal", "-shm")}
    assert server_files("etcd://h1:2379", "/data") == server_files("sqlite:///auctions.db", "/data")[:3]


def test_the_settings_know_which_files_are_secret(tmp_path: Path) -> None:
    key = tmp_path / "tls.key"
    key.touch()
    config = ServerConfig(
        insecure=False, tls_cert=str(key), tls_key=str(key), link_insecure=True, link_token="given as text",
        basic_auth_token=FileText("secret", str(tmp_path / "token")),
    )  # fmt: skip
    assert secret_files(config) == [key, tmp_path / "token"]


def test_the_modes_of_a_server_that_is_upgraded_are_in_its_log_and_in_the_check(tmp_path: Path) -> None:
    """A store from before there was a umask stays as it is; whoever may read it on purpose can go on doing so.

    Broken on purpose (no look at the start): the log says nothing.
    """
    processes = Processes(tmp_path, ZYGOTE.spawn)
    arguments = ["--data-dir", str(tmp_path), "--insecure", "--link-insecure", "--json-ready", "--http-endpoint", ""]
    arguments += ["--grpc-endpoint", "127.0.0.1:0", "--link-endpoint", "127.0.0.1:0", "--log-format", "json"]
    server = processes.billet("server", "server", *arguments)
    server.ready()
    store = tmp_path / "billet.db"
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert "file open to others" not in server.log.read_text()
    server.stop()
    store.chmod(0o644)
    server = processes.billet("server", "server", *arguments)
    server.ready()
    problems = [line["problem"] for line in map(json.loads, server.log.read_text().splitlines()) if "problem" in line]
    assert problems[0] == f"{store} is open to every user of this machine: chmod o= {store}"
    checked = ZYGOTE.run("store", "check", "-o", "json", "--data-dir", str(tmp_path))
    server.stop()
    assert checked.returncode == 0, "it is a note, not a fault of the store"
    assert problems[0] in [finding["text"] for finding in json.loads(checked.stdout)["findings"]]
