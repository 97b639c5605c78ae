"""Hosts of a store that an older version wrote bind key and machine at their next hello; real processes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from billet.adapters.identity import MACHINE_ID, read_id
from billet.demo.processes import ChildProcess
from billet.wire.pb import fleet_pb2
from billet.wire.pb import link_pb2 as pb
from tests.cluster.clients import Clients, eventually
from tests.cluster.test_identity import Liar, dial, is_ready, log_of, said, start_agent, twin_of
from tests.harness import Cluster, plans
from tests.zygote import ZYGOTE

OLD = Path(__file__).parent / "47881c4"
HOST = "rack-a1"


class OldStore(Cluster):
    """A cluster whose store was written before hosts had identities."""

    def _launch_server(self, n: int) -> ChildProcess:
        data = self.folder / f"server-{n}"
        if not data.exists():
            data.mkdir()
            if self.store == "sqlite":
                shutil.copy(OLD / "store.db", data / "billet.db")
            else:
                done = ZYGOTE.run("store", "restore", "--store", self.store_url, str(OLD / "backup.jsonl"))
                assert done.returncode == 0, done.stderr
        return super()._launch_server(n)


class Upgraded(NamedTuple):
    cluster: OldStore
    clients: Clients

    async def host(self) -> fleet_pb2.HostView:
        return (await self.clients.hosts())[HOST]

    async def bound(self) -> bool:
        return bool((await self.host()).key)


@pytest.fixture(params=["sqlite", "etcd"])
async def upgraded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Upgraded]:
    cluster = OldStore(tmp_path, [replace(plans(1, tmp_path)[0], id="rack-a2")], request.param)
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    yield Upgraded(cluster, clients)
    await clients.close()
    await asyncio.to_thread(cluster.stop)


def old_agent() -> Liar:
    """Says the hello that an agent of the older version wrote: it has no key, and cannot sign."""
    hello = pb.Up.FromString((OLD / "up-hello.bin").read_bytes()).hello
    assert (hello.host, hello.public_key, hello.signature) == (HOST, b"", b"")
    return Liar(hello)


async def test_hosts_of_an_old_store_bind_at_their_next_hello(upgraded: Upgraded) -> None:
    """Until then an agent of the older version gets in; afterwards only the machine with the key does."""
    cluster, clients = upgraded.cluster, upgraded.clients
    assert {"rack-a1", "rack-a2", "rack-b1"} == set(await clients.hosts())
    await eventually(lambda: _is_bound_and_cordoned(clients, "rack-a2"))
    assert not await upgraded.bound()
    old = old_agent()
    transport = await dial(cluster, old)
    await eventually(lambda: old.welcomed)
    transport.disconnect()
    await eventually(lambda: old.closed)
    assert not await upgraded.bound(), "there is no key to bind"
    with twin_of(cluster) as fake:
        agent = start_agent(cluster, HOST, "--id", HOST, "--flintlock", fake.grpc_address, state="new")
        await asyncio.to_thread(agent.ready, 60)
        await eventually(is_ready(clients, HOST))
        await eventually(upgraded.bound)  # it is written as the host joins
        host = await upgraded.host()
        assert host.machine == read_id(MACHINE_ID)
        assert host.zone == "", "as the agent describes it now"
        await asyncio.to_thread(agent.stop)
        for late in (old_agent(), old_agent()):
            await dial(cluster, late)
            await eventually(lambda late=late: late.closed)
            assert "this agent shows no key" in late.goodbye
        other = start_agent(cluster, "other", "--id", HOST, "--flintlock", fake.grpc_address, state="other")
        await eventually(said(other, f"host '{HOST}' is bound to key {host.key}"))
        await asyncio.to_thread(cluster.server[0].stop)
        await asyncio.to_thread(cluster.restart_server)  # the binding is in the store
        assert (await upgraded.host()).key == host.key
        again = start_agent(cluster, HOST, "--id", HOST, "--flintlock", fake.grpc_address, state="new")
        await asyncio.to_thread(again.ready, 60)
        assert "joined leader" not in log_of(other)


async def _is_bound_and_cordoned(clients: Clients, name: str) -> bool:
    host = (await clients.hosts())[name]
    return bool(host.key) and host.connected and host.cordoned
