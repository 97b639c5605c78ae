"""Every command in README and docs is run as it stands there, or named here with the reason why it cannot be.

A new command of the documentation is run without any change here. If it cannot be run, the test fails until NOT_RUN
says why.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from google.protobuf import json_format

from billet.cli import main
from billet.commands.profiles import read_profile
from billet.demo.etcd import start_etcd
from billet.demo.processes import ChildProcess, Processes
from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest
from tests.docs.pages import COMMANDS, NOT_COMMANDS, PAGES, ROOT, Command, blocks, commands
from tests.docs.test_links import every_page, options_of
from tests.harness import Cluster, HostPlan, plans

LAST = "docs/operations.md"  # its planned work takes a host away
EVERYTHING = [
    command for page in sorted(PAGES, key=lambda page: (str(page) == LAST, page.name != "README.md", page))
    for command in commands(page)
]  # fmt: skip

TOO_LONG = "takes minutes; its figures are those of the page"
FOLLOWS = "goes on until Ctrl-C; tests/cluster/test_records_that_survive.py follows events"
OVER_HTTP = "its servers have no HTTP port; tests/cluster/test_place.py asks one"
NEW_CA = "certificates of the reader's next CA; tests/cluster/test_rotation.py replaces real ones"
NOT_RUN = {
    ".venv/bin/python -m benchmarks.new_leader --hosts 1000": TOO_LONG,
    ".venv/bin/python -m benchmarks.new_leader --hosts 10000 --members 1": TOO_LONG,
    ".venv/bin/python -m benchmarks.large_fleet --hosts 100,1000,3000": TOO_LONG,
    ".venv/bin/python -m benchmarks.columns": TOO_LONG,
    "billet demo --create 400 --at-once 20 --sigma 0.3": TOO_LONG,
    "billet events --follow -o json": FOLLOWS,
    'curl -N "http://localhost:8090/api/v1/events?type=host,microvm-failed&last_s=3600"': FOLLOWS,
    'curl "http://localhost:8090/api/v1/capacity?vcpu=4&memory_mib=8192&count=10&zone=a"': OVER_HTTP,
    "systemctl stop billet-server": "a service of the reader's machine",
    "cat new-ca.crt old-ca.crt > ca.new && mv ca.new ca.crt": NEW_CA,
    "mv new-server.crt server.crt && mv new-server.key server.key": NEW_CA,
    "mv new-ca.crt ca.crt": NEW_CA,
}
NOT_RUN_PROGRAMS = {
    "make": "would run tests or benchmarks inside this test; the target must exist",
    "pip": "installs from an index into the environment that runs this test",
    "grpcurl": "not a dependency of the tests; its request must be one that Flintlock's API has",
}
SHELL = {"cat", "head", "export", "umask", "install", "printf"}  # harmless anywhere
LIVES = {"server", "agent"}  # run until they are ready, and then until the page's next server or its end
INSECURE = "--insecure --link-insecure --grpc-endpoint 127.0.0.1:0"
READY_S = ENDED_S = 120.0  # generous: a loaded machine starts Python slowly
HOSTS = ["host-1", "host-2", "host-3"]


def words_of(command: Command) -> list[str]:
    return shlex.split(command.text)


def test_every_block_is_of_a_kind_that_the_tests_know():
    kinds = {(str(block.page), block.language) for page in PAGES for block in blocks(page)}
    assert {kind for kind in kinds if kind[1] not in {COMMANDS, *NOT_COMMANDS}} == set()


def test_no_reason_is_given_for_a_command_that_is_gone():
    assert set(NOT_RUN) <= {command.text for command in EVERYTHING}


@every_page
def test_a_command_can_be_parsed(page):
    for command in commands(page):
        text = re.sub(r"\$\([^)]*\)", "OUTPUT", command.text)
        for part in text.split(" | "):
            program, *arguments = shlex.split(part.partition(" <<")[0].partition(" > ")[0])
            if program == "billet":
                parse(command, arguments)
            elif program == "make":
                assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
            elif program == "grpcurl":
                assert arguments[-1].startswith("microvm.services.api.v1alpha1.MicroVM/"), command
                if "\n" in command.raw:
                    json_format.Parse("\n".join(command.raw.splitlines()[1:-1]), CreateMicroVMRequest())


def parse(command: Command, arguments: list[str]) -> None:
    """Whether click takes it: the subcommand, its options, and the number of arguments."""
    found, context = main, main.make_context("billet", [], resilient_parsing=True)
    while hasattr(found, "get_command"):
        name = arguments.pop(0)
        child = found.get_command(context, name)
        assert child, f"{command.page}: {command.text}: there is no {name}"
        context = child.context_class(child, info_name=name, parent=context)
        found = child
    if arguments and arguments[-1] == "...":
        arguments.pop()
    unknown = {word.partition("=")[0] for word in arguments if word.startswith("--")} - options_of(found)
    assert not unknown, f"{command.page}: {command.text}"
    _, left, _ = found.make_parser(context).parse_args(arguments)
    assert not left, f"{command.page}: {command.text}"


@dataclass
class Machine:
    """What the commands find: a live cluster, etcds, a flintlockd, and a folder in which they leave their files."""

    folder: Path
    cluster: Cluster
    processes: Processes
    stores: dict[str, str]  # a URL of the documentation, and the one that it stands for
    flintlock: str
    env: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    link: str = ""  # of the newest server of the documentation
    grpc: str = ""
    alive: list[ChildProcess] = field(default_factory=list)

    def run(self, command: Command) -> None:
        program, *rest = words_of(command)
        if program == "billet" and rest[0] in LIVES:
            self.start(command, rest)
        elif program == "export":
            self.export(command)
        else:
            BEFORE.get(command.text, lambda _: None)(self)
            self.shell(command)

    def start(self, command: Command, arguments: list[str]) -> None:
        """Start a server or an agent, at ports that are free, and wait until it is ready."""
        text = " ".join(map(shlex.quote, arguments))
        kind = arguments[0]
        if kind == "server":
            self.end_living()  # the servers of a page are alternatives
            text = text.replace("...", INSECURE)
            text += f" --http-endpoint '' --link-endpoint 127.0.0.1:0 --id {len(self.alive)}"
            text += "" if "--advertise-host" in text else " --advertise-host localhost"
            text += "" if "--insecure" in text or "--tls-cert" in text else f" {INSECURE}"
        else:
            text += " --containerd '' --vcpu 4 --memory-mib 8192 --disk-mib 8192 --id host-of-the-docs"
        name = f"{kind}-{len(self.processes.all)}"
        here = f"cd {shlex.quote(str(self.folder))} && exec {shlex.quote(sys.executable)} -m billet"
        process = self.processes.start(name, ["sh", "-c", f"{here} {self.filled(text)} --json-ready"])
        self.alive.append(process)
        said = process.ready(READY_S)
        if kind == "server":
            self.link, self.grpc = (said[key].rpartition(":")[2] for key in ("link", "grpc"))

    def filled(self, text: str) -> str:
        """A command with the names and addresses of this cluster in place of those of the documentation."""
        text = re.sub(r"localhost:9090", self.flintlock, text)
        text = re.sub(r"0\.0\.0\.0:\d+", "127.0.0.1:0", text)
        text = re.sub(r"(S\d|SERVER):9095(,S\d:9095)*", f"localhost:{self.link}", text)
        text = re.sub(r"SERVER:9090", f"localhost:{self.grpc}", text)
        text = re.sub(r"127\.0\.0\.1:PORT", self.cluster.grpc[0], text)
        text = re.sub(r"\b(SERVER|S\d)\b", "localhost", text)
        text = re.sub(r"\bHOST\b", lambda _: self.empty_host(), text)
        for url, real in self.stores.items():
            text = text.replace(url, real)
        for path in ("/var/lib/billet", "/backup", "/tmp/move"):
            text = text.replace(path, str(self.folder / path.strip("/").replace("/", "-")), 1)
        text = text.replace("billet-2026-11-24", "billet-$(date +%F)")
        return text.replace("--seeds 10000", "--seeds 3 --jobs 1")

    def empty_host(self) -> str:
        """A host without microVMs, so that it can be drained."""
        listed = self.billet("vms", "-o", "json")
        return next(host for host in HOSTS if host not in listed)

    def billet(self, *arguments: str) -> str:
        return CliRunner().invoke(main, arguments, env=self.env, catch_exceptions=False).stdout

    def export(self, command: Command) -> None:
        for word in shlex.split(self.filled(command.text))[1:]:
            name, _, value = word.partition("=")
            if name != "PATH":  # the test has its own
                self.env[name] = value

    def shell(self, command: Command) -> None:
        """Run a command to its end; the plain ones of Billet in this process, which saves the start of Python."""
        text = re.sub("--evict|--apply", r"\g<0> --yes", self.filled(command.raw))  # the test has no terminal
        if re.fullmatch(r"billet [^|<>$]*", text) and not text.startswith("billet sim "):
            with contextlib.chdir(self.folder):
                called = CliRunner().invoke(main, shlex.split(text, comments=True)[1:], env=self.env)
            code, output = called.exit_code, called.output
        else:
            done = subprocess.run(
                ["sh", "-c", text], cwd=self.folder, env=self.env, timeout=ENDED_S, capture_output=True, text=True
            )
            code, output = done.returncode, done.stdout + done.stderr
        assert code == 0, f"{command.page}: {command.text}\n{output}"

    def end_living(self) -> None:
        for process in self.alive:
            process.stop()
        self.alive.clear()


def agent_stopped(machine: Machine) -> None:
    """`billet host remove` forgets a host whose agent is stopped."""
    machine.cluster.agent[HOSTS.index(machine.empty_host())].stop()


BEFORE: dict[str, Callable[[Machine], None]] = {"billet host remove HOST": agent_stopped}


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folders = [tmp_path / name for name in ("cluster", "here", "upper", "lower")]
    for folder in (*folders, *(folders[1] / name for name in ("var-lib-billet", "backup", "bin"))):
        folder.mkdir()
    billet = folders[1] / "bin" / "billet"
    billet.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m billet "$@"\n')
    billet.chmod(0o755)
    hosts = [
        HostPlan(name, plan.fake, vcpu=20, memory_mib=1 << 16, zone="ab"[n % 2])
        for n, (name, plan) in enumerate(zip(HOSTS, plans(len(HOSTS), folders[0]), strict=True))
    ]
    cluster = Cluster(folders[0], hosts, server_flags=("--shadow", "pack"))
    with Processes(folders[1]) as processes, Processes(folders[2]) as upper, Processes(folders[3]) as lower:
        stores = {
            "etcd://H1:2379,H2:2379,H3:2379": start_etcd(upper, 1),
            "etcd://h1:2379,h2:2379,h3:2379": start_etcd(lower, 1),
        }
        cluster.start()
        try:
            made = Machine(folders[1], cluster, processes, stores, cluster.fakes[0].grpc_address)
            made.env["PATH"] = f"{billet.parent}:{made.env['PATH']}"
            made.env["BILLET_SERVER"] = cluster.grpc[0]
            made.env["BILLET_AGENT_STATE"] = str(folders[1] / "agents")
            csv = next(block.text for page in PAGES for block in blocks(page) if block.language == "csv")
            (made.folder / "fleet.csv").write_text(csv)
            yield made
        finally:
            cluster.stop()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)  # 45 commands, one after the other
def test_the_commands_of_the_documentation_do_what_it_says(machine):
    page = None
    for command in EVERYTHING:
        if command.page != page:
            machine.end_living()
            page = command.page
        program = words_of(command)[0]
        print(f"{command.page}: {command.text}", flush=True)
        if command.text in NOT_RUN or program in NOT_RUN_PROGRAMS:
            continue
        assert program in {"billet", *SHELL} or " | billet " in command.text, (
            f"{command.page}: {command.text}\nis neither a command of Billet nor in NOT_RUN of this test"
        )
        machine.run(command)
    machine.end_living()


def test_the_settings_files_of_the_documentation_are_valid(tmp_path):
    texts = [block.text for page in PAGES for block in blocks(page) if block.language == "toml"]
    assert texts
    for text in texts:
        (tmp_path / "billet.toml").write_text(text)
        tables = tomllib.loads(text)
        if "profiles" in tables:
            assert all(read_profile(tmp_path / "billet.toml", name) for name in ("", *tables["profiles"]))
            continue
        for name in tables:
            command = main.get_command(click.Context(main), name)
            command.make_context(name, ["--config", str(tmp_path / "billet.toml")])
