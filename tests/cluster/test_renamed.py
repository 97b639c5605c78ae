"""A host that comes back under another name is the same host's microVMs, once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.cluster.clients import Clients, eventually, uids_on_hosts
from tests.harness import Cluster, plans


async def test_a_host_with_a_new_name_takes_its_microvms_along(tmp_path: Path) -> None:
    """Counted twice, they would take room twice; and a fence of the old name would delete what lives."""
    cluster = Cluster(tmp_path, plans(1, tmp_path))
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    try:
        uid = await clients.create("kept")
        await asyncio.to_thread(cluster.agent[0].stop)
        cluster.plans = [replace(cluster.plans[0], id="renamed")]
        await asyncio.to_thread(cluster.restart_agent, 0)

        async def moved() -> bool:
            return [(p.uid, p.host) for p in await clients.placements()] == [(uid, "renamed")]

        await eventually(moved)
        hosts = await clients.hosts()
        assert (hosts["h0"].taken.vms, hosts["renamed"].taken.vms) == (0, 1)
        assert (await clients.get(uid)).spec.id == "kept"
        assert uids_on_hosts(cluster) == [uid]
        await clients.delete(uid)
        await eventually(lambda: uids_on_hosts(cluster) == [])
    finally:
        await clients.close()
        await asyncio.to_thread(cluster.stop)
