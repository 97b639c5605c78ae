"""The demo's accuracy table, and the commands that it suggests."""

from __future__ import annotations

import io
import json
import shlex
from types import SimpleNamespace
from typing import Any

from click.testing import CliRunner
from rich.console import Console

from billet.cli import main
from billet.commands.spec import parse_spec
from billet.core.accuracy import Errors
from billet.demo.cluster import FakeHost, ServerAddress
from billet.demo.screen import accuracy_table, commands_to_try
from billet.demo.workload import HostSize

PROCESS: Any = SimpleNamespace(pid=4711)
SERVERS = [ServerAddress(f"server-{n}", f"127.0.0.1:900{n}", f"127.0.0.1:800{n}", PROCESS) for n in (1, 2, 3)]
HOSTS = [FakeHost(HostSize("host-1", 8, 32768, 100_000), "127.0.0.1:7001", "", PROCESS)]


def shown(renderable: object) -> list[str]:
    console = Console(width=100, file=io.StringIO())
    console.print(renderable)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_accuracy_table_shows_how_far_chance_alone_moves_the_share() -> None:
    lines = shown(accuracy_table(Errors(60, 36, 1.0, 0.123, 0.889, 0.0, 0.0004)))
    assert "utilisation, predicted vs reported 0.04% largest of 60 differences" in lines
    assert "time to CREATED, median error 12.3% of 36 predictions" in lines
    assert "within the 90 % bound 88.9% 90% is ideal; ±5.0% is chance" in lines


def test_without_predictions_there_is_no_row_for_seconds() -> None:
    lines = shown(accuracy_table(Errors(3, 0, None, None, None, 0.0, 0.0)))
    assert not [line for line in lines if "CREATED" in line]


def commands(output: str) -> list[list[str]]:
    """The arguments of each `billet` command in the text."""
    lines = [line.rpartition("| ")[2].strip() for line in output.splitlines() if line.startswith("  ")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("billet ")]


def test_with_one_server_no_leader_is_mentioned() -> None:
    output = commands_to_try(SERVERS[:1], SERVERS[0], "01UID", HOSTS)
    assert "BILLET_SERVER=127.0.0.1:9001" in output
    assert "lead" not in output


def test_with_three_servers_all_addresses_and_the_leader_are_shown() -> None:
    output = commands_to_try(SERVERS, SERVERS[0], "01UID", HOSTS)
    assert all(server.grpc in output and server.http in output for server in SERVERS)
    assert [line.split()[0] for line in output.splitlines() if line.endswith(" leads")] == ["server-1"]
    assert "BILLET_SERVER=127.0.0.1:9002" in output, "a server that survives when the leader is killed"
    assert "kill -9 4711" in output


def test_the_commands_and_the_spec_are_valid() -> None:
    output = commands_to_try(SERVERS, SERVERS[0], "01UID", HOSTS)
    assert len(commands(output)) >= 6
    for arguments in commands(output):
        assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0, arguments
    spec = next(line.split("'")[1] for line in output.splitlines() if "echo" in line)
    assert parse_spec(spec, "-").vcpu == json.loads(spec)["vcpu"]


def test_without_a_microvm_no_command_names_one() -> None:
    assert "explain" not in commands_to_try(SERVERS, SERVERS[0], "", HOSTS)
