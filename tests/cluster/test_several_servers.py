"""Three servers on one etcd: any of them takes any request, and the client of one that lives sees no error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from billet.wire.flintlock import GET, with_uid
from billet.wire.headers import STALE
from billet.wire.pb import flintlock_pb2 as rpc
from tests.cluster.clients import (
    Clients,
    Outcomes,
    eventually,
    leading,
    names_on_hosts,
    numbered,
    uids_on_hosts,
)
from tests.harness import Cluster, plans

Start = Callable[..., Awaitable[Cluster]]
SERVERS = 3


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[Cluster] = []

    async def run(hosts: int = 4, server_flags: tuple[str, ...] = (), **settings: object) -> Cluster:
        cluster = Cluster(tmp_path, plans(hosts, tmp_path, **settings), "etcd", SERVERS, server_flags=server_flags)
        running.append(cluster)
        return await asyncio.to_thread(cluster.start)

    yield run
    for cluster in running:
        await asyncio.to_thread(cluster.stop)


async def survivor(cluster: Cluster) -> Clients:
    return Clients(cluster.grpc[(await leading(cluster) + 1) % SERVERS])


async def under_load(cluster: Cluster, clients: Clients, trouble: Callable[[], object]) -> Outcomes:
    """600 creates, 64 at once; the trouble begins when a quarter of them are there."""
    crowd = asyncio.create_task(clients.crowd(numbered("load", 600), at_once=64))
    await eventually(lambda: len(names_on_hosts(cluster)) > 150)
    await asyncio.to_thread(trouble)
    return await crowd


def nothing_lost_and_none_twice(cluster: Cluster, outcomes: Outcomes) -> None:
    names = names_on_hosts(cluster)
    assert len(names) == len(set(names)), "none twice"
    assert set(outcomes.uids.values()) <= set(uids_on_hosts(cluster)), "nothing acknowledged is lost"


@pytest.mark.parametrize("signal", ["kill", "stop"])
async def test_promise_4_the_clients_of_a_surviving_server_do_not_see_the_leader_go(
    start: Start, signal: str
) -> None:
    cluster = await start()
    clients = await survivor(cluster)
    old = await leading(cluster)
    outcomes = await under_load(cluster, clients, getattr(cluster.server[old], signal))
    assert outcomes.errors == {}
    nothing_lost_and_none_twice(cluster, outcomes)
    assert await leading(cluster) != old
    listed = await clients.list()
    assert set(outcomes.uids.values()) == set(listed)
    await clients.close()


async def test_promise_4_the_clients_of_a_leader_that_stops_in_peace_do_not_see_it_go(start: Start) -> None:
    """Those that it has taken on are answered, by way of the next leader."""
    cluster = await start(hosts=2)
    old = await leading(cluster)
    clients = Clients(cluster.grpc[old])
    for fake in cluster.fakes:
        fake.fault("slow", count=-1, delay_s=3.0)
    creating = [asyncio.create_task(clients.create(f"vm-{n}")) for n in range(8)]
    await eventually(lambda: _reserved(clients, 8))
    assert await asyncio.to_thread(cluster.server[old].stop, 30.0) == 0
    uids = await asyncio.gather(*creating)
    assert sorted(uids) == sorted(uids_on_hosts(cluster))
    await clients.close()


async def _reserved(clients: Clients, count: int) -> bool:
    return sum(p.state == "RESERVED" for p in await clients.placements()) == count


async def test_every_server_takes_every_request(start: Start) -> None:
    cluster = await start(hosts=2)
    servers = [Clients(address) for address in cluster.grpc]
    for n, clients in enumerate(servers):
        uid = await clients.create(f"vm-{n}")
        for other in servers:
            assert (await other.get(uid)).spec.id == f"vm-{n}"
        await servers[n - 1].delete(uid)
    for clients in servers:
        await eventually(lambda clients=clients: _empty(clients))
        await clients.close()


async def _empty(clients: Clients) -> bool:
    return await clients.list() == {}


async def test_a_request_id_makes_one_microvm_whoever_is_asked_and_whoever_leads(start: Start) -> None:
    cluster = await start(hosts=3)
    servers = [Clients(address) for address in cluster.grpc]
    uids = await asyncio.gather(*(servers[n % SERVERS].create("once", "order-1") for n in range(30)))
    assert len(set(uids)) == 1
    assert names_on_hosts(cluster) == ["once"]
    assert await servers[0].create("other", "order-2") != uids[0]
    old = await leading(cluster)
    await asyncio.to_thread(cluster.server[old].kill)
    assert await servers[old - 1].create("once", "order-1") == uids[0]
    assert sorted(names_on_hosts(cluster)) == ["once", "other"]
    await servers[old - 1].delete(uids[0])
    await eventually(lambda: names_on_hosts(cluster) == ["other"])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await servers[old - 1].create("once", "order-1")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"has created microVM {uids[0]} already" in caught.value.details()
    assert names_on_hosts(cluster) == ["other"], "what was deleted stays so"
    for clients in servers:
        await clients.close()


@pytest.mark.long
async def test_without_the_store_reads_go_on_and_say_how_old_they_are(start: Start) -> None:
    cluster = await start(hosts=2, server_flags=("--hold-s", "3"))
    old = await leading(cluster)
    servers = [Clients(address) for address in cluster.grpc]
    uid = await servers[0].create("kept")
    for member in cluster.etcd:
        await asyncio.to_thread(member.kill)
    for n in (old, (old + 1) % SERVERS):
        await eventually(lambda n=n: _stale(servers[n], uid))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await servers[old].create("refused")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "etcd does not answer" in caught.value.details()
    begins = (old + 2) % SERVERS  # one that is started meanwhile waits as well
    await asyncio.to_thread(cluster.server[begins].kill)
    await asyncio.to_thread(cluster.restart_server, begins)
    await asyncio.to_thread(cluster.restart_etcd)
    begun_s = time.monotonic()
    again = await eventually(lambda: _try_create(servers[old], "again"))
    print(f"creates go on {time.monotonic() - begun_s:.1f} s after etcd came back")
    third = await eventually(lambda: _try_create(servers[begins], "third"))
    assert sorted(await servers[begins].list()) == sorted([uid, again, third])
    for clients in servers:
        await clients.close()


async def _stale(clients: Clients, uid: str) -> bool:
    """Whether a Get is answered, with its age."""
    call = clients.channel.unary_unary(GET)(with_uid(uid), timeout=20)
    reply = rpc.GetMicroVMResponse.FromString(await call)
    assert reply.microvm.spec.id == "kept"
    return any(key == STALE for key, _ in await call.trailing_metadata())


async def _try_create(clients: Clients, name: str) -> str | None:
    try:
        return await clients.create(name)
    except grpc.aio.AioRpcError:
        return None
