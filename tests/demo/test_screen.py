"""What a demo that goes on running tells a person to type."""

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
from billet.demo.screen import accuracy, to_try
from billet.demo.workload import HostSize

PROCESS: Any = SimpleNamespace(pid=4711)
SERVERS = [ServerAddress(f"server-{n}", f"127.0.0.1:900{n}", f"127.0.0.1:800{n}", PROCESS) for n in (1, 2, 3)]
HOSTS = [FakeHost(HostSize("host-1", 8, 32768, 100_000), "127.0.0.1:7001", "", PROCESS)]


def shown(renderable: object) -> list[str]:
    console = Console(width=100, file=io.StringIO())
    console.print(renderable)
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_what_bids_foretold_is_said_with_how_much_of_it_may_be_chance() -> None:
    lines = shown(accuracy(Errors(60, 36, 1.0, 0.123, 0.889, 0.0, 0.0004)))
    assert "utilisation, foretold against reported 0.04% at most, of 60" in lines
    assert "time to CREATED, median error 12.3% of 36 that were foretold" in lines
    assert "within the bound for 90 % 88.9% by chance alone 85.0% to 95.0%" in lines


def test_where_no_host_knew_its_boots_yet_nothing_is_said_of_seconds() -> None:
    lines = shown(accuracy(Errors(3, 0, None, None, None, 0.0, 0.0)))
    assert not [line for line in lines if "CREATED" in line]


def commands(told: str) -> list[list[str]]:
    """Each command that begins with `billet`, or has its input piped in."""
    lines = [line.rpartition("| ")[2].strip() for line in told.splitlines() if line.startswith("  ")]
    return [shlex.split(line)[1:] for line in lines if line.startswith("billet ")]


def test_with_one_server_there_is_nothing_to_say_of_leaders() -> None:
    told = to_try(SERVERS[:1], SERVERS[0], "01UID", HOSTS)
    assert "BILLET_SERVER=127.0.0.1:9001" in told
    assert "lead" not in told


def test_with_three_every_address_is_told_who_leads_and_what_to_kill() -> None:
    told = to_try(SERVERS, SERVERS[0], "01UID", HOSTS)
    assert all(server.grpc in told and server.http in told for server in SERVERS)
    assert [line.split()[0] for line in told.splitlines() if line.endswith(" leads")] == ["server-1"]
    assert "BILLET_SERVER=127.0.0.1:9002" in told, "one that lives on when the leader is killed"
    assert "kill -9 4711" in told


def test_the_commands_are_billets_own_and_the_spec_is_one() -> None:
    told = to_try(SERVERS, SERVERS[0], "01UID", HOSTS)
    assert len(commands(told)) >= 6
    for arguments in commands(told):
        assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0, arguments
    spec = next(line.split("'")[1] for line in told.splitlines() if "echo" in line)
    assert parse_spec(spec, "-").vcpu == json.loads(spec)["vcpu"]


def test_without_a_microvm_no_command_names_one() -> None:
    assert "explain" not in to_try(SERVERS, SERVERS[0], "", HOSTS)
