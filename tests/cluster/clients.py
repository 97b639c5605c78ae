"""Many clients at once: plain Flintlock gRPC, and what each call came to."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from billet.api import fleet_service as fleet
from billet.store.etcd import EtcdStore
from billet.wire import flintlock as wire
from billet.wire.headers import REQUEST_ID
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.harness import Cluster
from tests.zygote import ZYGOTE

DEADLINE_S = 120.0
ROOMY = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


# Whoever runs the tests in the background has SIGINT ignored, and that is inherited. Not mended by a
# preexec_fn: Python after a fork of a process that runs gRPC ends without a word at times.
HEAR_SIGINT = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("billet", run_name="__main__", alter_sys=True)
"""


def interruptible(address: str, *arguments: str) -> list[str]:
    """What a person types, and may interrupt."""
    return [sys.executable, "-c", HEAR_SIGINT, *arguments, "--server", address]


def spec(name: str, vcpu: int = 1, memory_mib: int = 1024) -> types.MicroVMSpec:
    return types.MicroVMSpec(
        id=name,
        namespace="ns",
        vcpu=vcpu,
        memory_in_mb=memory_mib,
        kernel=types.Kernel(image="r.example/k:1", filename="vmlinux"),
        root_volume=types.Volume(id="root", source=types.VolumeSource(container_source="r.example/o:1")),
        interfaces=[types.NetworkInterface(device_id="eth1", type=types.NetworkInterface.TAP)],
    )


def create_request(name: str, **shape: int) -> bytes:
    return rpc.CreateMicroVMRequest(microvm=spec(name, **shape)).SerializeToString()


@dataclass
class Outcomes:
    """What a crowd of creates came to."""

    uids: dict[str, str] = field(default_factory=dict)  # name -> uid, acknowledged
    errors: dict[str, grpc.aio.AioRpcError] = field(default_factory=dict)

    def texts(self) -> set[str]:
        return {error.details() or "" for error in self.errors.values()}


class Clients:
    """One connection, used by many coroutines."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=ROOMY)

    async def call(
        self, method: str, request: bytes, timeout_s: float = DEADLINE_S, metadata: tuple[tuple[str, str], ...] = ()
    ) -> bytes:
        call = self.channel.unary_unary(method)
        return await call(request, timeout=timeout_s, metadata=metadata, wait_for_ready=True)

    async def create(self, name: str, request_id: str = "", **shape: int) -> str:
        metadata = ((REQUEST_ID, request_id),) if request_id else ()
        reply = await self.call(wire.CREATE, create_request(name, **shape), metadata=metadata)
        return rpc.CreateMicroVMResponse.FromString(reply).microvm.spec.uid

    async def delete(self, uid: str) -> None:
        await self.call(wire.DELETE, wire.with_uid(uid))

    async def get(self, uid: str) -> types.MicroVM:
        return rpc.GetMicroVMResponse.FromString(await self.call(wire.GET, wire.with_uid(uid))).microvm

    async def list(self) -> dict[str, str]:
        """name by uid, of everything."""
        reply = await self.call(wire.LIST, b"")
        return {vm.spec.uid: vm.spec.id for vm in rpc.ListMicroVMsResponse.FromString(reply).microvm}

    async def crowd(self, names: Iterable[str], at_once: int, **shape: int) -> Outcomes:
        """Create all of these, so many at once."""
        outcomes, queue = Outcomes(), iter(names)

        async def worker() -> None:
            for name in queue:
                try:
                    outcomes.uids[name] = await self.create(name, **shape)
                except grpc.aio.AioRpcError as error:
                    outcomes.errors[name] = error

        await asyncio.gather(*(worker() for _ in range(at_once)))
        return outcomes

    async def placements(self) -> list[fleet_pb2.PlacementView]:
        reply = await self.call(fleet.PLACEMENTS, b"")
        return list(fleet_pb2.PlacementsReply.FromString(reply).placements)

    async def hosts(self) -> dict[str, fleet_pb2.HostView]:
        reply = await self.call(fleet.HOSTS, b"")
        return {host.id: host for host in fleet_pb2.HostsReply.FromString(reply).hosts}

    async def close(self) -> None:
        await self.channel.close()


def on_hosts(cluster: Cluster) -> dict[str, list[dict[str, Any]]]:
    """Every microVM that the hosts themselves show, by host."""
    return {plan.id: fake.stats()["microvms"] for plan, fake in zip(cluster.plans, cluster.fakes, strict=True)}


def uids_on_hosts(cluster: Cluster) -> list[str]:
    return [vm["uid"] for vms in on_hosts(cluster).values() for vm in vms]


def names_on_hosts(cluster: Cluster) -> list[str]:
    return [vm["id"] for vms in on_hosts(cluster).values() for vm in vms]


def numbered(prefix: str, count: int) -> Iterator[str]:
    return (f"{prefix}-{n}" for n in range(count))


async def all_ready(clients: Clients, count: int) -> bool:
    """Whether so many hosts are there and may bid: an agent that is welcome is not in the ledger at once."""
    try:
        hosts = await clients.hosts()
    except grpc.aio.AioRpcError:
        return False  # nobody leads yet
    return [host.state for host in hosts.values()] == [fleet_pb2.READY] * count


async def leading(cluster: Cluster) -> int:
    """The number of the server that leads."""
    store = EtcdStore([f"http://{endpoint}" for endpoint in cluster.etcd_endpoints])
    try:
        return int((await eventually(store.leader)).id.removeprefix("server-"))
    finally:
        await store.close()


async def eventually(true: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    """The first true answer of something that is asked again and again."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        answer = true()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {true}")
        await asyncio.sleep(0.05)


async def billet(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a person types."""
    return await asyncio.to_thread(ZYGOTE.run, *arguments, "--server", cluster.grpc[0])
