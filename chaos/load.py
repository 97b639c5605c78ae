"""The load: many plain Flintlock clients, which record every call."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from billet.demo.workload import NAMESPACE, Shape, spec_of
from billet.wire.headers import STALE
from billet.wire.pb import flintlock_pb2 as rpc
from chaos.cluster import ADDRESSES, HOSTS, SPARES, ask_flintlockd
from chaos.history import OK, History, Kind, Op, Sample, Vm

MIB_PER_VCPU = 1024
CREATE_S, CALL_S = 40.0, 15.0  # the clients' deadlines
AFTER_ERROR_S = 0.1  # a client that was refused waits so long before its next call
SAMPLE_S = 0.5  # between two looks at what the hosts show
SERVICE = "/microvm.services.api.v1alpha1.MicroVM/"
CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A client that is to notice a server that vanished asks for a sign of life, as CAPMVM's does.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
]


class Clients:
    """One connection to each server that is used, and the history of all calls."""

    def __init__(self, servers: Sequence[str], history: History) -> None:
        self.history = history
        self._channels = {
            server: grpc.aio.insecure_channel(f"{ADDRESSES[server]}:9090", options=CHANNEL) for server in servers
        }

    async def close(self) -> None:
        """Let go of all connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def create(self, server: str, name: str, vcpu: int = 1) -> Op:
        """Make one. Never raises for what the server says; the Op tells."""
        op = Op(Kind.CREATE, server, time.monotonic(), name=name)
        request = rpc.CreateMicroVMRequest(microvm=spec_of(Shape(name, vcpu, vcpu * MIB_PER_VCPU)))
        reply = await self._call(op, "CreateMicroVM", request, CREATE_S)
        if reply is not None:
            op.uid = rpc.CreateMicroVMResponse.FromString(reply).microvm.spec.uid
        return op

    async def delete(self, server: str, uid: str) -> Op:
        """Ask for the end of one."""
        op = Op(Kind.DELETE, server, time.monotonic(), uid=uid)
        await self._call(op, "DeleteMicroVM", rpc.DeleteMicroVMRequest(uid=uid), CALL_S)
        return op

    async def get(self, server: str, uid: str) -> Op:
        """Look at one."""
        op = Op(Kind.GET, server, time.monotonic(), uid=uid)
        await self._call(op, "GetMicroVM", rpc.GetMicroVMRequest(uid=uid), CALL_S)
        return op

    async def list(self, server: str) -> Op:
        """Look at all."""
        op = Op(Kind.LIST, server, time.monotonic())
        reply = await self._call(op, "ListMicroVMs", rpc.ListMicroVMsRequest(namespace=NAMESPACE), CALL_S)
        if reply is not None:
            op.listed = frozenset(vm.spec.uid for vm in rpc.ListMicroVMsResponse.FromString(reply).microvm)
        return op

    async def ask(self, server: str, method: str, request: Message, timeout_s: float = 5.0) -> bytes:
        """A call that is no part of the history. Raises grpc.aio.AioRpcError."""
        reply: bytes = await self._caller(server, method)(request.SerializeToString(), timeout=timeout_s)
        return reply

    async def _call(self, op: Op, method: str, request: Message, timeout_s: float) -> bytes | None:
        self.history.ops.append(op)
        call = self._caller(op.server, SERVICE + method)(request.SerializeToString(), timeout=timeout_s)
        try:
            reply: bytes = await call
            trailers = await call.trailing_metadata() or ()
        except grpc.aio.AioRpcError as error:
            op.code, op.text = error.code().name, error.details() or ""
            return None
        finally:
            op.ended_s = time.monotonic()
        op.code = OK
        op.stale_s = next((float(value) for key, value in trailers if key == STALE), 0.0)
        return reply

    def _caller(self, server: str, method: str) -> Any:
        return self._channels[server].unary_unary(method)


@dataclass
class Crowd:
    """Clients that keep a fleet busy, `at_once` calls under way and creates and deletes in balance, until stopped."""

    clients: Clients
    servers: Sequence[str]
    at_once: int
    seed: int
    only_creates: bool = False
    vcpus: Sequence[int] = (1, 2, 3)
    pause_s: float = 0.0  # of each client between two calls
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _alive: dict[str, None] = field(default_factory=dict)  # uids that nobody has asked to end, the oldest first
    _known: set[str] = field(default_factory=set)  # all uids that were ever among them
    _made: int = 0

    async def run(self, prefix: str) -> None:
        """Returns when told to stop and the last call is answered. Names begin with the prefix."""
        await asyncio.gather(*(self._client(prefix, n) for n in range(self.at_once)))

    async def _client(self, prefix: str, n: int) -> None:
        chance = random.Random(f"{self.seed}/{prefix}/{n}")
        while not self.stop.is_set():
            op = await self._step(chance, prefix)
            pause_s = self.pause_s if op.ok else max(self.pause_s, AFTER_ERROR_S)
            if pause_s:
                await asyncio.sleep(chance.uniform(0.5, 1.5) * pause_s)

    async def _step(self, chance: random.Random, prefix: str) -> Op:
        server = chance.choice(self.servers)
        drawn = 0.0 if self.only_creates else chance.random()
        if drawn < 0.45 or not self._alive:
            return await self._create(chance, server, prefix)
        if drawn < 0.60:
            return await self._delete(server, chance.choice(list(self._alive)))
        if drawn < 0.95:
            return await self.clients.get(server, chance.choice(list(self._alive)))
        op = await self.clients.list(server)
        self._meet(op.listed - self._known)  # what was made though its client was told of an error
        return op

    async def _create(self, chance: random.Random, server: str, prefix: str) -> Op:
        self._made += 1
        op = await self.clients.create(server, f"{prefix}-{self._made}", chance.choice(self.vcpus))
        if op.ok:
            self._meet([op.uid])
        elif op.code == "RESOURCE_EXHAUSTED" and self._alive and not self.only_creates:
            await self._delete(server, next(iter(self._alive)))  # the fleet is full: make room
        return op

    async def _delete(self, server: str, uid: str) -> Op:
        self._alive.pop(uid, None)
        op = await self.clients.delete(server, uid)
        if not op.ok and not op.said_gone:
            self._alive[uid] = None  # it may be there still; somebody tries again
        return op

    def _meet(self, uids: Iterable[str]) -> None:
        self._known.update(uids)
        self._alive.update(dict.fromkeys(uids))


async def empty(clients: Clients, server: str, uids: Iterable[str], at_once: int = 16) -> None:
    """Ask for the end of all of these."""
    left = iter(list(uids))

    async def worker() -> None:
        for uid in left:
            await clients.delete(server, uid)

    await asyncio.gather(*(worker() for _ in range(at_once)))


@asynccontextmanager
async def sampling(history: History) -> Any:
    """Look at all hosts and spare machines twice a second, whatever is cut between servers and hosts."""

    async def look(host: str) -> None:
        while True:
            at_s = time.monotonic()
            with suppress(OSError, ValueError):  # it is down, or stands still
                vms = await shown(host)
                history.samples.append(Sample(at_s, host, vms, time.monotonic()))
            await asyncio.sleep(SAMPLE_S)

    tasks = [asyncio.create_task(look(host)) for host in (*HOSTS, *SPARES)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def shown(host: str) -> list[Vm]:
    """The microVMs that a host shows now. OSError when it does not answer."""
    stats = await asyncio.to_thread(ask_flintlockd, host)
    return [Vm(vm["uid"], vm["id"], vm["vcpu"], vm["memory_in_mb"], vm["state"]) for vm in stats["microvms"]]
