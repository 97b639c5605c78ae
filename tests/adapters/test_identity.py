"""An agent's key on disk, its lock, and the socket of its flintlockd."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from billet.adapters import identity as module
from billet.adapters.identity import StateFolder, read_id
from billet.adapters.listener import DaemonSocket
from billet.core.errors import ConfigError

HERE, THERE = "localhost:9090", "localhost:9091"  # addresses of flintlockds


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = StateFolder(str(tmp_path / "state"))
    first = folder.identity("h1", HERE)
    folder.close()
    again = StateFolder(str(tmp_path / "state"))
    assert again.identity("h1", HERE).public_key == first.public_key
    (file,) = (tmp_path / "state").glob("*.key")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = StateFolder(str(tmp_path / "state"))
    assert other.identity("../h2", THERE).public_key != first.public_key  # a name with a slash stays in the folder
    assert len(list((tmp_path / "state").glob("*.key"))) == 2
    again.close()
    other.close()


def test_a_second_agent_of_a_host_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    first, second = StateFolder(str(tmp_path)), StateFolder(str(tmp_path))
    first.identity("h1", HERE)
    with pytest.raises(ConfigError, match="an agent of host 'h1' runs on this machine already"):
        second.identity("h1", HERE)
    first.close()
    second.identity("h1", HERE)
    second.close()


def test_a_host_that_is_renamed_keeps_its_key(tmp_path: Path) -> None:
    """It is the one that calls the same flintlockd. Another agent on the machine, or one that runs, keeps its own."""
    old, neighbour, new = (StateFolder(str(tmp_path)) for _ in range(3))
    key = old.identity("old", HERE).public_key
    assert neighbour.identity("neighbour", THERE).public_key != key
    assert new.identity("beside", HERE).public_key != key  # `old` runs
    for folder in (old, neighbour, new):
        folder.close()
    (tmp_path / "beside.lock").unlink()
    assert new.identity("new", HERE).public_key == key
    new.close()


def test_a_key_file_that_is_damaged_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "h1.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="billet host rebind"):
        StateFolder(str(tmp_path)).identity("h1", HERE)


def test_without_a_folder_the_systems_or_the_users_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SYSTEM_STATE", tmp_path / "system")
    assert StateFolder("").path == tmp_path / "system"
    (tmp_path / "file").touch()
    monkeypatch.setattr(module, "SYSTEM_STATE", tmp_path / "file" / "below")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    assert StateFolder("").path == tmp_path / "home" / "billet"
    with pytest.raises(ConfigError, match="give --state DIR"):
        StateFolder(str(tmp_path / "file" / "below"))


def test_an_id_that_is_missing_or_no_id_is_empty(tmp_path: Path) -> None:
    assert read_id(tmp_path / "missing") == ""
    (tmp_path / "id").write_text("abc\n")
    assert read_id(tmp_path / "id") == "abc"
    (tmp_path / "id").write_text("x" * 1000)
    assert read_id(tmp_path / "id") == ""


def test_a_listening_socket_is_recognised_by_each_of_its_names() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        port = one.getsockname()[1]
        known = DaemonSocket("127.0.0.1", port)()
        assert known
        assert DaemonSocket("localhost", port)() == known
        assert DaemonSocket("127.0.0.1", two.getsockname()[1])() != known
    with socket.create_server(("127.0.0.1", port)):
        assert DaemonSocket("127.0.0.1", port)() not in ("", known)  # flintlockd was restarted
    assert DaemonSocket("127.0.0.1", port)() == ""  # nobody listens
    assert DaemonSocket("192.0.2.1", port)() == ""  # another machine


def test_a_socket_for_all_addresses_is_recognised_by_each_of_them() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as one:
        port = one.getsockname()[1]
        assert DaemonSocket("127.0.0.1", port)() == DaemonSocket("::1", port)() != ""
