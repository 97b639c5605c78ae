"""The clients and the operator of a simulated cluster. They record every call and its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from random import Random

from billet.api import fleet_service as fleet
from billet.core.constraints import APART
from billet.core.errors import Code
from billet.core.model import Placement, Resources
from billet.sim.calls import Said
from billet.sim.history import Answered
from billet.sim.hosts import SimMachine
from billet.sim.network import Network
from billet.sim.servers import SimServer
from billet.sim.world import World
from billet.wire import flintlock as wire
from billet.wire.headers import REQUEST_ID, STALE
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

KINDS = ("create",) * 5 + ("delete",) * 3 + ("get",) * 4 + ("list",)
VERBS = ("FENCE",) * 4 + ("CORDON", "UNCORDON")
SHAPES = ((1, 1024), (2, 1024), (1, 2048), (4, 2048))
TIMEOUT_S = 20.0
CANCELS_S = 0.5  # within which a client cancels a create that it sends again
SENT_AGAIN = 20  # creates at untimely moments; they go on when all faults have ended
AFTER_A_DAY, WITHIN_S = 3, 10.0  # how many creates are sent again when a clock has jumped by a day, and within what
GIVEN_UP = -1  # instead of a code
TRIES = 4  # of a create that has a request id
TRY_AGAIN = (GIVEN_UP, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
CONSTRAINED = 0.25  # share of the runs with constraints
HASTY = 0.3  # share of the runs in which clients delete what they see in a List before its create is answered
LOOKS, LOOK_EVERY_S = 3, 1.0  # how often such a client lists, and at most how long it waits before each
TWO_AT_ONCE = 0.5  # share of the creates there that come in pairs
NOTHING: Mapping[str, str] = {}


class Crowd:
    """All clients of one run. Each may look up or delete what any of them created."""

    def __init__(self, world: World, net: Network, servers: list[SimServer], machines: list[SimMachine]) -> None:
        self.uids: list[str] = []  # of microVMs that were created and are not being deleted
        self._world, self._net = world, net
        self._servers, self._machines = servers, machines
        self._met: set[str] = set()  # all uids that were ever in `uids`
        self._requests: dict[str, bytes] = {}  # name -> request, of creates with a request id
        self._named = 0
        self._resending = world.chance("resends")
        self.sent_again: list[asyncio.Task[int]] = []  # see send_again
        self._days = world.chance("creates sent again after a day")
        self._copying = world.chance("copied tokens")
        # A stream of its own: runs without constraints are the same as if constraints did not exist.
        self._constrained = world.chance("labels")
        self._haste = world.chance("hasty deletes")
        self._looking = world.chance("looks after deletes")
        self._hasty = self._haste.random() < HASTY
        self._constraints = self._constrained.random() < CONSTRAINED

    async def work(self, name: str, operations: int, pause_s: float) -> None:
        """The calls of one client."""
        chance = self._world.chance(f"client {name}")
        for _ in range(operations):
            await asyncio.sleep(chance.expovariate(1.0) * pause_s)
            kind = chance.choice(KINDS) if self.uids else "create"
            if kind == "create" and self._world.happens(chance, self._world.faults.direct):
                await self._create_directly(name, chance)
            elif kind == "create":
                await self._create_some(name, chance)
            elif kind == "list":
                await self.list_all(name, chance)
            elif kind == "get":
                await self.get(name, chance, self.uids[self._one(chance)])
            else:
                uid = self.uids.pop(self._one(chance))
                await self.call(name, chance, "delete", uid, wire.DELETE, wire.with_uid(uid), TIMEOUT_S)
                if self._world.faults.delete_lost:
                    await self._look_after_delete(name, uid)

    async def _look_after_delete(self, name: str, uid: str) -> None:
        """Get a microVM that was deleted some times more, while it may come back."""
        chance = self._looking
        for _ in range(LOOKS):
            await asyncio.sleep(chance.uniform(0.0, LOOK_EVERY_S))
            await self.get(name, chance, uid)

    def _one(self, chance: Random) -> int:
        """Index of a microVM: half of the time the newest, which is the most likely to reveal a fault."""
        return -1 if chance.random() < 0.5 else chance.randrange(len(self.uids))

    async def operate(self) -> None:
        """The operator: fences, cordons and uncordons hosts at random times."""
        world, chance = self._world, self._world.chance("operator")
        while world.faults.fences:
            await asyncio.sleep(chance.expovariate(world.faults.fences))
            if world.calm:
                return
            down = [machine for machine in self._machines if not machine.agent_up]
            machine = chance.choice(down or self._machines)
            await self.change_host("operator", chance, machine.host.id, chance.choice(VERBS))

    async def change_host(self, name: str, chance: Random, host_id: str, verb: str) -> int:
        """Send an operator's verb for a host. Returns the code of the answer."""
        wanted = fleet_pb2.ChangeHostRequest(host=host_id, verb=fleet_pb2.HostVerb.Value(verb), gone=verb == "REMOVE")
        request = wanted.SerializeToString()
        return (await self.call(name, chance, verb, host_id, fleet.CHANGE_HOST, request, TIMEOUT_S)).code

    async def _create_some(self, name: str, chance: Random) -> None:
        """Create a microVM; in runs with constraints sometimes two at once, which may have to be apart."""
        both = self._constraints and self._constrained.random() < TWO_AT_ONCE
        await asyncio.gather(*(self.create(name, chance) for _ in range(2 if both else 1)))

    async def create(self, name: str, chance: Random, shape: tuple[int, int] | None = None) -> int:
        """Create a microVM. Returns the code of the answer.

        Half of the creates have a request id, and are repeated until the outcome is known. Some repeat a request that
        was answered long ago.
        """
        if shape is None and self._requests and chance.random() < 0.1:
            vm = chance.choice(list(self._requests))
            return await self._send(name, chance, vm, self._requests[vm], {REQUEST_ID: vm})
        vcpu, memory_mib = shape or chance.choice(SHAPES)
        if shape is None and chance.random() < 0.02:
            vcpu = 65  # for flintlockd to refuse
        vm = self._new_name()
        request = create_request(vm, vcpu, memory_mib, self._labels() if shape is None else NOTHING)
        if chance.random() < 0.5:
            return await self._send(name, chance, vm, request, {})
        self._requests[vm] = request
        return await self._send(name, chance, vm, request, {REQUEST_ID: vm})

    def _labels(self) -> Mapping[str, str]:
        """In some runs half of the microVMs have the label `apart`."""
        if not self._constraints or self._constrained.random() < 0.5:
            return NOTHING
        return {APART: self._constrained.choice(("web", "db"))}

    async def _send(self, name: str, chance: Random, vm: str, request: bytes, metadata: Mapping[str, str]) -> int:
        timeout_s = chance.choice((3.0, TIMEOUT_S))
        if metadata and self._world.happens(self._resending, self._world.faults.resends):
            await self._cancel_some(name, vm, request, metadata)
        hasty = (
            asyncio.create_task(self._delete_once_listed(f"{name}'s friend", vm))
            if self._hasty and name != "probe"
            else None
        )
        for _ in range(TRIES if metadata else 1):
            said = await self.call(name, chance, "create", vm, wire.CREATE, request, timeout_s, metadata)
            if said.code not in TRY_AGAIN:
                break
        if hasty:
            await hasty
        if said.code == Code.OK and (uid := wire.read_created(said.payload).uid) not in self._met:
            self._meet(uid)
        return said.code

    def send_again(self, placement: Placement) -> None:
        """Perhaps send the create of a reservation again, at an untimely moment."""
        request, chance, often = self._requests.get(placement.name), self._resending, self._world.faults.untimely
        if request and often and len(self.sent_again) < SENT_AGAIN and chance.random() < often:
            again = self._send("again", chance, placement.name, request, {REQUEST_ID: placement.name})
            self.sent_again.append(asyncio.create_task(again))

    def send_some_again(self) -> None:
        """Send creates of old again, soon after a clock has jumped by a day: whoever forgets by it has forgotten."""
        chance = self._days
        for vm in chance.sample(list(self._requests), min(AFTER_A_DAY, len(self._requests))):
            self.sent_again.append(asyncio.create_task(self._send_later(vm, chance.uniform(0.0, WITHIN_S))))

    async def _send_later(self, vm: str, delay_s: float) -> int:
        await asyncio.sleep(delay_s)
        return await self._send("again", self._days, vm, self._requests[vm], {REQUEST_ID: vm})

    async def _cancel_some(self, name: str, vm: str, request: bytes, metadata: Mapping[str, str]) -> None:
        """Send a create, and cancel it soon, several times: the next one follows at once."""
        chance = self._resending
        for _ in range(chance.randint(1, 4)):
            with suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.0, CANCELS_S)):
                    await self.call(name, chance, "create", vm, wire.CREATE, request, TIMEOUT_S, metadata)

    async def _delete_once_listed(self, name: str, vm: str) -> None:
        """Look for a microVM in some Lists, and delete it unless its create was answered before."""
        chance = self._haste
        for _ in range(LOOKS):
            await asyncio.sleep(chance.uniform(0.0, LOOK_EVERY_S))
            said = await self.call(name, chance, "list", "", wire.LIST, b"", TIMEOUT_S)
            for row in wire.read_list(said.payload) if said.code == Code.OK else ():
                if row.name == vm and row.uid not in self._met:
                    self._met.add(row.uid)
                    await self.call(name, chance, "delete", row.uid, wire.DELETE, wire.with_uid(row.uid), TIMEOUT_S)

    def _meet(self, uid: str) -> None:
        self._met.add(uid)
        self.uids.append(uid)

    async def get(self, name: str, chance: Random, uid: str) -> int:
        """Get a microVM. Returns the code of the answer."""
        return (await self.call(name, chance, "get", uid, wire.GET, wire.with_uid(uid), TIMEOUT_S)).code

    async def list_all(self, name: str, chance: Random) -> int:
        """List everything. Returns the code of the answer."""
        return (await self.call(name, chance, "list", "", wire.LIST, b"", TIMEOUT_S)).code

    async def call(
        self,
        name: str,
        chance: Random,
        kind: str,
        what: str,
        method: str,
        request: bytes,
        timeout_s: float,
        metadata: Mapping[str, str] = NOTHING,
    ) -> Said:
        """Make one call through a random server, and record it."""
        world = self._world
        server = chance.choice(self._servers)
        asked_s = world.now_s
        patience_s = chance.uniform(0.0, 2.0) if world.happens(chance, world.faults.gives_up) else 2 * timeout_s
        world.tell(name, f"{kind} {what[-6:] or 'all'} through {server.id}")
        work = partial(server.serve, method, request, timeout_s, metadata)
        try:
            async with asyncio.timeout(patience_s):
                said = await self._net.call(name, server.id, server.process, work, timeout_s)
        except TimeoutError:
            said = Said(GIVEN_UP, "given up")
        self._record(name, kind, what, asked_s, said)
        return said

    def _record(self, name: str, kind: str, what: str, asked_s: float, said: Said) -> None:
        world = self._world
        created = kind == "create" and said.code == Code.OK
        uid = wire.read_created(said.payload).uid if created else "" if kind == "create" else what
        answer = (
            f"OK {uid[-6:] if created else ''}".rstrip() if said.code == Code.OK else f"{_code(said)}: {said.text}"
        )
        world.tell(name, f"{kind} {what[-6:] or 'all'}: {answer}")
        state = wire.read_created(said.payload).state.name if kind == "get" and said.code == Code.OK else ""
        stale = any(key == STALE for key, _ in said.trailers)
        world.note(Answered(world.now_s, asked_s, name, kind, what, uid, said.code, said.text, state, stale))

    async def _create_directly(self, name: str, chance: Random) -> None:
        """Create a microVM on a host that has room, bypassing Billet. Then perhaps get it through Billet."""
        machine = chance.choice(self._machines)
        daemon = machine.daemon
        taken = Resources(0, 0, 0, 0)
        for vm in daemon.vms.values():
            taken = taken.plus(vm.demand)
        vcpu, memory_mib = SHAPES[0]
        if daemon.up and machine.host.allocatable.minus(taken).covers(Resources(vcpu, memory_mib, 0, 1)):
            request = self._with_copied_token(create_request(self._new_name(), vcpu, memory_mib))
            reply = daemon.create(request, self._world.now_s, direct=True)
            uid = wire.read_created(reply).uid
            self._meet(uid)
            if self._world.happens(chance, self._world.faults.daemon_hangs):
                daemon.hang()  # before the agent can see it
            if chance.random() < 0.5:
                await self.get(name, chance, uid)

    def _with_copied_token(self, request: bytes) -> bytes:
        """In some runs, the request as somebody makes it who copies a spec from flintlockd's list."""
        tokens = [vm.token for machine in self._machines for vm in machine.daemon.vms.values() if vm.token]
        if tokens and self._world.happens(self._copying, self._world.faults.copied_tokens):
            return wire.with_token(request, self._copying.choice(tokens[-3:]))
        return request

    def _new_name(self) -> str:
        self._named += 1
        return f"vm{self._named}"


def _code(said: Said) -> str:
    return Code(said.code).name if said.code in set(Code) else f"code {said.code}"


def create_request(name: str, vcpu: int, memory_mib: int, labels: Mapping[str, str] = NOTHING) -> bytes:
    """A CreateMicroVMRequest for these sizes."""
    spec = types.MicroVMSpec(
        id=name,
        namespace="ns",
        vcpu=vcpu,
        memory_in_mb=memory_mib,
        labels=labels,
        kernel=types.Kernel(image="r/k:1", filename="vmlinux"),
        interfaces=[types.NetworkInterface(device_id="eth1", type=types.NetworkInterface.TAP)],
    )
    return rpc.CreateMicroVMRequest(microvm=spec).SerializeToString()
