"""Real containerds: an image that is unpacked on one of two hosts, and the bid and the award show it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from billet.api import fleet_service as fleet
from billet.wire.pb import fleet_pb2
from tests.cluster.clients import Clients, all_ready, eventually, numbered
from tests.containerd_fixture import LocalContainerd
from tests.harness import Cluster, plans

KERNEL, ROOT = "r.example/k:1", "r.example/o:1"  # as in tests/cluster/clients.py
Rig = tuple[Clients, list[LocalContainerd]]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    with TemporaryDirectory(prefix="ctd") as folder:
        daemons = [LocalContainerd(Path(folder) / str(n)) for n in range(2)]
        hosts = [
            replace(plan, agent_flags=("--containerd", str(daemon.socket), "--containerd-volume-ss", "overlayfs"))
            for plan, daemon in zip(plans(2, tmp_path), daemons, strict=True)
        ]
        cluster = Cluster(tmp_path, hosts)
        try:
            for daemon in daemons:
                daemon.start()
            daemons[0].load(KERNEL, "native")
            daemons[0].load(ROOT, "overlayfs")
            await asyncio.to_thread(cluster.start)
            clients = Clients(cluster.grpc[0])
            await eventually(lambda: all_ready(clients, 2))
            yield clients, daemons
            await clients.close()
        finally:
            await asyncio.to_thread(cluster.stop)
            for daemon in daemons:
                daemon.stop()


@pytest.mark.slow
async def test_an_image_that_is_unpacked_on_one_of_two_hosts_decides(rig: Rig) -> None:
    clients, daemons = rig
    names = list(numbered("vm", 5))
    for name in names:
        await clients.create(name)
    hosts = [p.host for p in sorted(await clients.placements(), key=lambda p: p.name)]
    assert hosts[0] == "h0"
    assert hosts.count("h1") <= 1  # behind a queue the first pull elsewhere is free, and only the first (ADR 43)
    bids = await bids_of(clients, names[0])
    assert {host: bid["missing"] for host, bid in bids.items()} == {"h0": 0, "h1": 2}
    assert bids["h1"]["score"]["delay"] > bids["h0"]["score"]["delay"]

    daemons[1].load(KERNEL, "native")
    daemons[1].load(ROOT, "overlayfs")

    async def seen() -> bool:
        return (await clients.hosts())["h1"].images == 2

    await eventually(seen)
    await clients.create("later")  # both have it now, and h1 is the emptier one
    assert (await bids_of(clients, "later"))["h1"]["missing"] == 0
    assert {p.name: p.host for p in await clients.placements()}["later"] == "h1"


async def bids_of(clients: Clients, name: str) -> dict[str, dict]:
    reply = await clients.call(fleet.EXPLAIN, fleet_pb2.ExplainRequest(key=name).SerializeToString())
    [record] = fleet_pb2.ExplainReply.FromString(reply).record_json
    return {bid["host"]: bid for bid in json.loads(record)["attempts"][0]["bids"]}
