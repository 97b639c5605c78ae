"""`billet create`, `vms`, `vm show` and `delete` by name, file and namespace, on real servers, agents and fakes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.clients import interruptible
from tests.cluster.test_place import SPEC
from tests.cluster.test_records_that_survive import line_with
from tests.conformance.calls import eventually
from tests.conformance.targets import ready_hosts
from tests.harness import Cluster, plans
from tests.zygote import ZYGOTE

DEADLINE_S = 60.0
AGAIN_S = 5.0  # Python may lose one Ctrl-C, as in a destructor


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    (tmp_path / "web.yaml").write_text(SPEC)
    boot_s = getattr(request, "param", 0.0)
    running = Cluster(tmp_path, plans(2, tmp_path, boot_mean_s=boot_s, sigma=0.0)).start()
    try:
        eventually(lambda: ready_hosts(running.grpc[0], "") == 2)
        yield running
    finally:
        running.stop()


def billet(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ZYGOTE.run(*arguments, "-s", cluster.grpc[0])


def listed(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(billet(cluster, "vms", "-o", "json", *arguments).stdout)
    return found


def names(cluster: Cluster, *arguments: str) -> list[str]:
    return [f"{row['namespace']}/{row['name']}" for row in listed(cluster, *arguments)]


def create(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = billet(cluster, "create", "-f", str(cluster.folder / "web.yaml"), *arguments)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.long
def test_microvms_are_deleted_by_name_by_file_and_by_namespace(cluster: Cluster) -> None:
    """Broken on purpose, each fails: of two microVMs of one name the first is deleted; --wait does not wait; a whole
    namespace needs no --yes; -n is left out with a name.
    """
    spec = str(cluster.folder / "web.yaml")
    assert create(cluster, "--wait").stderr == ""
    for empty in (("",), ("ns/",), ("-n", "ns", "")):  # "$VM", which is not set
        assert billet(cluster, "delete", *empty).returncode == 2
    uid = listed(cluster)[0]["uid"]
    eventually(lambda: names(cluster, "--state", "CREATED"))  # the leader hears of it a moment later
    told = create(cluster, "--wait").stderr
    assert told.startswith(f"billet: ns/web exists already ({uid}, CREATED on h")
    assert told.endswith("another is created beside it\n")
    several = billet(cluster, "delete", "ns/web")
    assert (several.returncode, several.stdout) == (1, "")
    assert several.stderr.startswith("billet: 2 microVMs are named ns/web: ")
    assert uid in several.stderr
    assert billet(cluster, "delete", uid, "--wait").stdout == f"{uid} is being deleted\n{uid} is gone\n"
    assert len(listed(cluster)) == 1
    assert billet(cluster, "delete", "-f", spec, "--wait").returncode == 0
    assert listed(cluster) == []

    create(cluster, "--count", "3", "--wait")
    create(cluster, "-n", "other", "--wait")
    unknown = billet(cluster, "delete", "web-1", "web-4", "-n", "ns")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr == "billet: no microVM is named ns/web-4; `billet vms` lists them\n"
    assert billet(cluster, "delete", "web", "-n", "ns").returncode == 1
    assert billet(cluster, "delete", "web-1", "-n", "ns", "--wait").returncode == 0
    asked = billet(cluster, "delete", "-n", "ns")
    assert asked.returncode == 2
    assert "Delete 2 microVMs, all of namespace ns: web-2, web-3?" in asked.stderr
    assert names(cluster) == ["ns/web-2", "ns/web-3", "other/web"]
    assert billet(cluster, "delete", "-f", spec, "--count", "3").returncode == 1  # web-1 is gone, so none is deleted
    assert billet(cluster, "delete", "-n", "ns", "--yes", "--wait").returncode == 0
    assert names(cluster) == ["other/web"]
    assert billet(cluster, "delete").returncode == 2
    flintlockd = cluster.fakes[int(listed(cluster)[0]["host"][1:])].grpc_address
    alone = ZYGOTE.run("delete", "other/web", "--wait", "-s", flintlockd)
    assert (alone.returncode, alone.stdout.splitlines()[-1][26:]) == (0, " is gone")


@pytest.mark.long
def test_a_microvm_is_shown_with_what_happened_to_it(cluster: Cluster) -> None:
    """Broken on purpose, each fails: the values of the metadata are shown; a state filters nothing; the order is by
    name whatever was asked.
    """
    create(cluster, "--wait")
    with (cluster.folder / "web.yaml").open("a") as spec:
        spec.write("metadata_text: {user-data: secret-text}\nlabels: {billet.io/apart: g}\n")
    create(cluster, "--name", "db", "--wait")
    first, second = listed(cluster, "--sort", "age")
    assert (first["name"], second["name"]) == ("db", "web")
    assert names(cluster, "--sort", "name") == ["ns/db", "ns/web"]
    eventually(lambda: names(cluster, "--state", "created", "--host", first["host"]) == ["ns/db"])
    assert names(cluster, "--state", "FAILED") == []

    eventually(lambda: "microvm-created" in billet(cluster, "vm", "show", first["uid"]).stdout)
    eventually(lambda: " CREATED" in billet(cluster, "vm", "show", "ns/db").stdout)
    shown = billet(cluster, "vm", "show", "ns/db").stdout
    for text in (first["uid"], first["host"], "CREATED", "4 vCPU, 2 GiB", "billet.io/apart=g", "kernel:5.10 vmlinux",
                 "os:22.04", "TAP", "user-data", "microvm-created"):  # fmt: skip
        assert text in shown
    assert "secret-text" not in shown
    found = json.loads(billet(cluster, "vm", "show", "db", "-o", "json").stdout)
    assert [one["uid"] for one in found] == [first["uid"]]
    assert found[0]["microvm"]["spec"]["metadata"] == ["meta-data", "user-data"]
    assert found[0]["events"][-1]["type"] == "microvm-created"
    assert billet(cluster, "vm", "show", "nobody").stderr.startswith("billet: no microVM is named nobody")

    cluster.fakes[int(first["host"][1:])].kill()
    away = billet(cluster, "vm", "show", first["uid"])
    assert away.returncode == 0
    assert first["host"] in away.stdout


@pytest.mark.long
@pytest.mark.parametrize("cluster", [3600.0], indirect=True)
async def test_ctrl_c_tells_what_was_created_and_a_watch_sees_it(cluster: Cluster) -> None:
    """Broken on purpose (Ctrl-C ends the command at once): nothing is listed."""
    server = cluster.grpc[0]
    watch = await asyncio.create_subprocess_exec(
        *interruptible(server, "vms", "--watch", "-o", "json"), stdout=asyncio.subprocess.PIPE
    )
    spec = str(cluster.folder / "web.yaml")
    making = await asyncio.create_subprocess_exec(
        *interruptible(server, "create", "-f", spec, "--count", "3", "--wait", "-o", "json"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert watch.stdout
        async with asyncio.timeout(DEADLINE_S):
            await line_with(watch.stdout, "PENDING.*PENDING.*PENDING")
            said, errors = await _interrupted(making)
            await _interrupted(watch)
        assert [row["state"] for row in json.loads(said)] == ["PENDING"] * 3
        assert errors.decode() == "billet: interrupted: 3 of 3 created\n"
        assert (making.returncode, watch.returncode) == (130, 0)
    finally:
        for process in (watch, making):
            if process.returncode is None:
                process.kill()


async def _interrupted(process: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    ending = asyncio.create_task(process.communicate())
    while not ending.done():
        process.send_signal(signal.SIGINT)
        await asyncio.wait([ending], timeout=AGAIN_S)
    return ending.result()
