"""The clients of a simulated cluster: they create, look, delete, give up, and write down what they were told."""

from __future__ import annotations

import asyncio
from random import Random

from billet.core.errors import Code
from billet.core.model import Resources
from billet.sim.evidence import Answered
from billet.sim.hosts import Machine
from billet.sim.network import Network
from billet.sim.servers import SimServer
from billet.sim.world import World
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

KINDS = ("create",) * 5 + ("delete",) * 3 + ("get",) * 4 + ("list",)
SHAPES = ((1, 1024), (2, 1024), (1, 2048), (4, 2048))
TIMEOUT_S = 20.0
GIVEN_UP = -1  # instead of a code


class Crowd:
    """All clients of one run. What one of them was given, each of them may look up or delete."""

    def __init__(self, world: World, net: Network, servers: dict[str, SimServer], machines: list[Machine]) -> None:
        self.uids: list[str] = []  # all that anybody was given or made, and nobody has begun to delete
        self._world, self._net = world, net
        self._servers, self._machines = servers, machines
        self._named = 0

    async def work(self, name: str, operations: int, pause_s: float) -> None:
        """One client's day."""
        chance = self._world.chance(f"client {name}")
        for _ in range(operations):
            await asyncio.sleep(chance.expovariate(1.0) * pause_s)
            kind = chance.choice(KINDS) if self.uids else "create"
            if kind == "create" and self._world.happens(chance, self._world.weather.direct):
                self._make_directly(chance)
            elif kind == "create":
                await self.create(name, chance)
            elif kind == "list":
                await self.list_all(name, chance)
            elif kind == "get":
                await self.get(name, chance, chance.choice(self.uids))
            else:
                uid = self.uids.pop(chance.randrange(len(self.uids)))
                await self.call(name, chance, "delete", uid, wire.DELETE, wire.with_uid(uid), TIMEOUT_S)

    async def create(self, name: str, chance: Random, shape: tuple[int, int] | None = None) -> int:
        """Ask for a microVM; the code of the answer."""
        vcpu, memory_mib = shape or chance.choice(SHAPES)
        if shape is None and chance.random() < 0.02:
            vcpu = 65  # flintlockd itself shall refuse
        request = create_request(self._new_name(), vcpu, memory_mib)
        timeout_s = chance.choice((3.0, TIMEOUT_S))
        code, _, reply = await self.call(name, chance, "create", f"vm{self._named}", wire.CREATE, request, timeout_s)
        if code == Code.OK:
            self.uids.append(wire.read_created(reply).uid)
        return code

    async def get(self, name: str, chance: Random, uid: str) -> int:
        """Look a microVM up; the code of the answer."""
        code, _, _ = await self.call(name, chance, "get", uid, wire.GET, wire.with_uid(uid), TIMEOUT_S)
        return code

    async def list_all(self, name: str, chance: Random) -> int:
        """List everything; the code of the answer."""
        code, _, _ = await self.call(name, chance, "list", "", wire.LIST, b"", TIMEOUT_S)
        return code

    async def call(
        self, name: str, chance: Random, kind: str, what: str, method: str, request: bytes, timeout_s: float
    ) -> tuple[int, str, bytes]:
        """One call, through any server, and its place in the history."""
        world = self._world
        server = chance.choice(list(self._servers.values()))
        asked_s = world.now_s
        patience_s = chance.uniform(0.0, 2.0) if world.happens(chance, world.weather.gives_up) else 2 * timeout_s
        world.tell(name, f"{kind} {what[-6:]} through {server.id}")
        try:
            async with asyncio.timeout(patience_s):
                answer = await self._net.call(
                    name,
                    server.id,
                    server.process,
                    lambda: server.serve(self._servers, method, request, timeout_s, False),
                    timeout_s,
                )
        except TimeoutError:
            answer = (GIVEN_UP, "given up", b"")
        self._write_down(name, kind, what, asked_s, answer)
        return answer

    def _write_down(self, name: str, kind: str, what: str, asked_s: float, answer: tuple[int, str, bytes]) -> None:
        world, (code, text, reply) = self._world, answer
        created = kind == "create" and code == Code.OK
        uid = wire.read_created(reply).uid if created else "" if kind == "create" else what
        said = (f"OK {uid[-6:]}" if created else "OK") if code == Code.OK else f"{code} {text}"
        world.tell(name, f"{kind} {what[-6:]}: {said}")
        world.note(Answered(world.now_s, asked_s, name, kind, what, uid, code, text))

    def _make_directly(self, chance: Random) -> None:
        """Past Billet, on the host itself; by somebody who looks whether there is room."""
        machine = chance.choice(self._machines)
        daemon = machine.daemon
        taken = Resources(0, 0, 0, 0)
        for vm in daemon.vms.values():
            taken = taken.plus(vm.demand)
        vcpu, memory_mib = SHAPES[0]
        if daemon.up and machine.host.allocatable.minus(taken).covers(Resources(vcpu, memory_mib, 0, 1)):
            reply = daemon.create(create_request(self._new_name(), vcpu, memory_mib), self._world.now_s)
            self.uids.append(wire.read_created(reply).uid)

    def _new_name(self) -> str:
        self._named += 1
        return f"vm{self._named}"


def create_request(name: str, vcpu: int, memory_mib: int) -> bytes:
    """A CreateMicroVMRequest of that shape."""
    spec = types.MicroVMSpec(
        id=name,
        namespace="ns",
        vcpu=vcpu,
        memory_in_mb=memory_mib,
        kernel=types.Kernel(image="r/k:1", filename="vmlinux"),
        interfaces=[types.NetworkInterface(device_id="eth1", type=types.NetworkInterface.TAP)],
    )
    return rpc.CreateMicroVMRequest(microvm=spec).SerializeToString()
