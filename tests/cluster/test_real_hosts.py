"""Hosts that fail as real ones do: containerd below flintlockd is down, Deletes are lost, records meet or cannot be
read. Real processes; the fakes fail on command."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from billet.fake.faults import FaultKind
from billet.wire import flintlock as wire
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.cluster.clients import Clients, billet, eventually, numbered, on_hosts, spec
from tests.cluster.conftest import Start
from tests.harness import Cluster

CREATED, DELETING = types.MicroVMStatus.CREATED, types.MicroVMStatus.DELETING
CREATES = 30


@pytest.mark.parametrize("kind", [FaultKind.CONTAINERD_DOWN, FaultKind.CONTAINERD_FULL])
async def test_a_host_that_fails_every_create_costs_no_client_an_error(start: Start, kind: FaultKind) -> None:
    """Before: 29 of 30 creates failed where containerd's disk was full: the emptiest, fastest host of all."""
    cluster, clients = await start(hosts=3)
    await asyncio.to_thread(cluster.fakes[1].fault, kind)
    for name in numbered("vm", CREATES):
        await clients.create(name)
    held = await asyncio.to_thread(on_hosts, cluster)
    assert sum(len(vms) for vms in held.values()) == CREATES
    assert not held["h1"]


async def test_the_last_hosts_own_words_are_reported(start: Start) -> None:
    cluster, clients = await start(hosts=2)
    for fake in cluster.fakes:
        await asyncio.to_thread(fake.fault, FaultKind.CONTAINERD_FULL)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await clients.create("vm")
    assert raised.value.code() == grpc.StatusCode.UNKNOWN
    assert "getting containerd writer" in (raised.value.details() or "")
    assert "no space left on device" in (raised.value.details() or "")


@pytest.mark.parametrize("kind", [FaultKind.PUBLISH_FAILS, FaultKind.COMMIT_UNCLEAR])
async def test_promise_4_an_unclear_create_is_found_and_made_once(start: Start, kind: FaultKind) -> None:
    """Before: the client got the error, though the microVM was there."""
    cluster, clients = await start(hosts=3)
    for fake in cluster.fakes:
        await asyncio.to_thread(fake.fault, kind)
    uid = await clients.create("vm")
    held = await asyncio.to_thread(on_hosts, cluster)
    assert [vm["uid"] for vms in held.values() for vm in vms] == [uid]


async def test_a_lost_delete_is_sent_again_and_nobody_sees_that_it_was_lost(start: Start) -> None:
    """Before: Get said CREATED again after an acknowledged Delete."""
    cluster, clients = await start(hosts=1, boot_mean_s=1.0)
    fake = cluster.fakes[0]
    await asyncio.to_thread(fake.fault, FaultKind.LOSE_DELETE)
    uid = await clients.create("vm")
    await clients.delete(uid)
    seen: list[int] = []

    async def is_gone() -> bool:
        try:
            seen.append((await clients.get(uid)).status.state)
        except grpc.aio.AioRpcError as error:
            return "not found" in (error.details() or "")
        listed = await clients.call(wire.LIST, b"")
        seen.extend(vm.status.state for vm in rpc.ListMicroVMsResponse.FromString(listed).microvm)
        await clients.delete(uid)
        return False

    await eventually(is_gone)
    assert set(seen) == {DELETING}
    stats = await asyncio.to_thread(fake.stats)
    assert (stats["faults"], stats["spinning"], stats["microvms"]) == ([], [], [])


async def test_a_list_that_meets_a_removal_is_repeated_and_the_host_stays_ready(start: Start) -> None:
    """Before: the agent took one such List for a flintlockd that does not answer, and clients' Lists failed."""
    cluster, clients = await start(hosts=1)
    fake = cluster.fakes[0]
    await clients.create("vm")
    for _ in range(3):
        await asyncio.to_thread(fake.fault, FaultKind.LIST_RACE, count=4)
        listed = await clients.call(wire.LIST, b"")
        assert len(rpc.ListMicroVMsResponse.FromString(listed).microvm) == 1
    await asyncio.to_thread(fake.fault, FaultKind.LIST_RACE, count=5)
    await eventually(lambda: not fake.stats()["faults"])
    await clients.create("another")
    assert (await clients.hosts())["h0"].state == fleet_pb2.READY
    assert "not responding" not in log_of(cluster, "agent-h0")


async def test_names_that_poison_a_host_reach_none(start: Start) -> None:
    cluster, clients = await start(hosts=3)
    for name in ("a/b", "a\\b"):
        for field in ("id", "namespace"):
            bad = spec("vm")
            setattr(bad, field, name)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await clients.call(wire.CREATE, rpc.CreateMicroVMRequest(microvm=bad).SerializeToString())
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert not any((await asyncio.to_thread(on_hosts, cluster)).values())


async def test_a_poisoned_host_says_what_is_wrong_and_how_to_cure_it(start: Start) -> None:
    """Before: DAEMON_DOWN for good, and nothing said why."""
    cluster, clients = await start(hosts=1)
    direct = Clients(cluster.fakes[0].grpc_address)
    bad = spec("a/b")
    reply = await direct.call(wire.CREATE, rpc.CreateMicroVMRequest(microvm=bad).SerializeToString())
    made = rpc.CreateMicroVMResponse.FromString(reply).microvm.spec
    await direct.close()
    cure = f"ctr -n flintlock leases rm --sync flintlock/{made.namespace}/a/b/{made.uid}"

    async def is_said() -> bool:
        host = (await clients.hosts())["h0"]
        return host.state == fleet_pb2.DAEMON_DOWN and any(cure in line for line in host.unavailable)

    await eventually(is_said)
    shown = (await billet(cluster, "host", "show", "h0")).stdout
    assert "leases rm" in shown


def log_of(cluster: Cluster, name: str) -> str:
    return (cluster.folder / f"{name}.log").read_text()
