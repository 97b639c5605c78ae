"""A store that went back in time: running microVMs are never said to be gone, and the hosts obey again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from tests.cluster.clients import Clients, all_ready, eventually, numbered, on_hosts, uids_on_hosts
from tests.harness import Cluster, plans
from tests.zygote import ZYGOTE

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "etcd"])
async def running(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Cluster, Clients]]:
    cluster = Cluster(tmp_path, plans(3, tmp_path, vcpu=20), request.param)
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    yield cluster, clients
    await clients.close()
    await asyncio.to_thread(cluster.stop)


async def again(cluster: Cluster) -> None:
    """The server ends in peace and comes back."""
    await asyncio.to_thread(cluster.server[0].stop)
    await asyncio.to_thread(cluster.restart_server)


async def billet_store(cluster: Cluster, command: str, *arguments: str) -> None:
    where = ["--store", cluster.store_url, "--data-dir", str(cluster.folder / "server-0")]
    done = await asyncio.to_thread(ZYGOTE.run, "store", command, *where, *arguments)
    assert done.returncode == 0, done.stderr


async def all_is_there(cluster: Cluster, clients: Clients, uids: set[str]) -> bool:
    """Whether each of these can be had. Until then it is UNAVAILABLE, but at no time gone."""
    said = await asyncio.gather(*(clients.get(uid) for uid in uids), return_exceptions=True)
    errors = [error for error in said if isinstance(error, grpc.aio.AioRpcError)]
    assert {error.code() for error in errors} <= {grpc.StatusCode.UNAVAILABLE}
    assert not [error.details() for error in errors if "not found" in (error.details() or "").lower()]
    return not errors


async def goes_on(cluster: Cluster, clients: Clients, uids: set[str], deleted: str) -> None:
    """Everything that runs is known, what was deleted stays so, room is counted, and creates work."""
    await eventually(lambda: all_is_there(cluster, clients, uids))
    more = await clients.crowd(numbered("later", 10), at_once=4)
    assert not more.errors, more.texts()
    shown = uids_on_hosts(cluster)
    assert sorted(shown) == sorted(uids | set(more.uids.values()))
    assert deleted not in shown

    async def counted() -> bool:
        hosts = await clients.hosts()
        return {name: host.taken.vms for name, host in hosts.items()} == {
            name: len(vms) for name, vms in on_hosts(cluster).items()
        }

    await eventually(counted)


async def test_a_backup_restored_under_running_microvms(running: tuple[Cluster, Clients]) -> None:
    cluster, clients = running
    before = await clients.crowd(numbered("before", 10), at_once=4)
    file = str(cluster.folder / "x.backup")
    await billet_store(cluster, "backup", file)
    await again(cluster)
    await eventually(lambda: all_ready(clients, len(cluster.plans)))
    after = await clients.crowd(numbered("after", 10), at_once=4)
    deleted = before.uids.pop("before-0")
    await clients.delete(deleted)
    await eventually(lambda: deleted not in uids_on_hosts(cluster))
    await asyncio.to_thread(cluster.server[0].stop)
    await billet_store(cluster, "restore", "--force", file)
    await asyncio.to_thread(cluster.restart_server)
    await goes_on(cluster, clients, {*before.uids.values(), *after.uids.values()}, deleted)


@pytest.mark.parametrize("running", ["sqlite"], indirect=True)
async def test_an_old_file_put_back_by_hand(running: tuple[Cluster, Clients]) -> None:
    cluster, clients = running
    before = await clients.crowd(numbered("before", 10), at_once=4)
    await asyncio.to_thread(cluster.server[0].stop)
    data = cluster.folder / "server-0"
    await asyncio.to_thread(shutil.copytree, data, cluster.folder / "old")
    await asyncio.to_thread(cluster.restart_server)
    for _ in range(3):
        await again(cluster)  # terms that the old file does not know of
    await eventually(lambda: all_ready(clients, len(cluster.plans)))  # a term counts if most hosts have obeyed it
    after = await clients.crowd(numbered("after", 10), at_once=4)
    deleted = before.uids.pop("before-0")
    await clients.delete(deleted)
    await eventually(lambda: deleted not in uids_on_hosts(cluster))
    await asyncio.to_thread(cluster.server[0].kill)
    await asyncio.to_thread(shutil.rmtree, data)
    await asyncio.to_thread(shutil.copytree, cluster.folder / "old", data)
    await asyncio.to_thread(cluster.restart_server)
    await goes_on(cluster, clients, {*before.uids.values(), *after.uids.values()}, deleted)
