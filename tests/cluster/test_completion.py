"""The shell's completion: commands, options, and names that a real server knows at the moment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.test_place import SPEC
from tests.conformance.calls import eventually
from tests.conformance.targets import ready_hosts
from tests.harness import Cluster, plans
from tests.zygote import ZYGOTE

NOWHERE = "127.0.0.1:1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "web.yaml").write_text(SPEC)
    hosts = [replace(plan, zone=zone) for plan, zone in zip(plans(2, folder), ("east", "west"), strict=True)]
    running = Cluster(folder, hosts).start()
    try:
        eventually(lambda: ready_hosts(running.grpc[0], "") == 2)
        made = ZYGOTE.run("create", "-f", str(folder / "web.yaml"), "-s", running.grpc[0], "--count", "2")
        assert made.returncode == 0, made.stderr
        yield running
    finally:
        running.stop()


def completed(server: str, line: str, **variables: str) -> list[str]:
    """What bash is offered for the last word of a line."""
    own = {"_BILLET_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    env = {**os.environ, "BILLET_SERVER": server, **own, **variables}
    done = subprocess.run([sys.executable, "-m", "billet"], env=env, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return [word.partition(",")[2] for word in done.stdout.splitlines() if word]


@pytest.mark.long
def test_live_names_are_completed(cluster: Cluster, tmp_path: Path) -> None:
    """Broken on purpose, each fails: the profile's server is not asked; -n is left out; a server that does not answer
    is an error.
    """
    server = cluster.grpc[0]
    assert completed(server, "billet ho") == ["hosts", "host"]
    assert completed(server, "billet host cor") == ["cordon"]
    assert completed(server, "billet host drain ") == ["h0", "h1"]
    assert completed(server, "billet vms --host h") == ["h0", "h1"]
    assert completed(server, "billet delete n") == ["ns/web-1", "ns/web-2"]
    assert [word for word in completed(server, "billet explain ") if "/" not in word] != []  # the uids
    assert completed(server, "billet vm show -n ns web-2") == ["web-2"]
    assert completed(server, "billet vms -n ") == ["ns"]
    assert completed(server, "billet place --zone ") == ["east", "west"]
    assert "--watch" in completed(server, "billet vms --w")
    assert completed(NOWHERE, "billet host drain ") == []
    assert completed(NOWHERE, f"billet host drain -s {server} ") == ["h0", "h1"]

    (tmp_path / "billet").mkdir()
    (tmp_path / "billet" / "config.toml").write_text(f'[profiles.lab]\nserver = "{server}"\n[profiles.prod]\n')
    own = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert completed("", "billet vms --profile ", **own) == ["lab", "prod"]
    assert completed("", "billet vms --profile lab --host ", **own) == ["h0", "h1"]
    assert completed("", "billet vms --profile none --host ", **own) == []


def test_the_line_of_the_readme_switches_it_on() -> None:
    """Broken on purpose (another name of the variable in the README): bash knows no completion of billet."""
    line = 'eval "$(_BILLET_COMPLETE=bash_source billet)"'
    assert line in (Path(__file__).parents[2] / "README.md").read_text()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shown = subprocess.run(
        ["bash", "-c", f"{line}; complete -p billet"], env={**os.environ, "PATH": path}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert "_billet_completion billet" in shown.stdout, shown.stderr
