"""A simulated flintlockd: a disk, a boot queue with one worker, and answers that may be lost.

`Loopback` is the agent's client of it (ports.Flintlock). Requests and answers are Flintlock's own bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from billet.core.errors import NOT_FOUND, Code, HostVerdict
from billet.core.metadata import Metadata, ReplyMetadata
from billet.core.model import Host, Resources, VmState
from billet.ports import Reply
from billet.sim.flintlockd_texts import FAULTS, LIST_RACE, LOCKED, UNCLEAR
from billet.sim.history import Accepted, Declined, DeletedTwice, Listed, Removed, Tried
from billet.sim.loop import SimProcess
from billet.sim.world import World
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

SLOW_S = 8.0  # the longest delay of a call; with all other delays less than the time-out of a reservation
BACKLOG_S = 15.0  # after an outage, in addition
HANG_S = 10.0  # the longest hang, except in outages
VCPU_MAX = 64
RESYNC_S = 20.0  # the latest that a microVM whose event was lost is noticed; real ones take up to 600 s
BROKE = Reply(Code.UNAVAILABLE, "connection reset", b"")

PENDING = types.MicroVMStatus.PENDING
CREATED = types.MicroVMStatus.CREATED
DELETING = types.MicroVMStatus.DELETING


@dataclass(slots=True)
class SimVm:
    """One microVM on disk."""

    uid: str
    token: str
    demand: Resources
    message: types.MicroVM
    row: bytes = b""  # serialised message, b"" after a change

    def bytes(self) -> bytes:
        """The message as clients get it."""
        if not self.row:
            self.row = self.message.SerializeToString()
        return self.row


class Flintlockd:
    """One host's daemon. `start` and `kill` are its process; `vms` is its disk."""

    def __init__(self, world: World, host: Host, number: int) -> None:
        self.host = host
        self.vms: dict[str, SimVm] = {}
        self.process: SimProcess | None = None
        self.full = False  # its containerd's disk: every create fails
        self.stale = False  # its subscription: it hears of no create and no Delete
        self.hangs_until_s = 0.0  # calls wait until then
        self.removed: Callable[[], None] = lambda: None  # called when a microVM is gone
        self.backlog_s = 0.0  # how much later than that the last create of them begins
        self._world = world
        self._number = number
        self._made = 0
        self._chance = world.chance(f"flintlockd of {host.id}")
        self._failing = world.chance(f"failures of {host.id}")
        self._backlog = world.chance(f"backlog of {host.id}")
        self._queue: deque[str] = deque()
        self._busy = False

    @property
    def up(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.alive

    def start(self) -> None:
        """Start with the microVMs on disk."""
        self.process = self._world.loop.process(f"flintlockd of {self.host.id}")
        self._busy = self.stale = False
        self._queue = deque(uid for uid, vm in self.vms.items() if vm.message.status.state in (PENDING, DELETING))
        self._work_on()

    def kill(self) -> None:
        """Kill the process. Its calls break, and its boots begin again after the next start."""
        if self.process:
            self.process.kill()

    def hang(self, hang_s: float | None = None) -> None:
        """Begin no call for a while. Without `hang_s` the plan says how long."""
        backlog_s = BACKLOG_S if hang_s else 0.0
        if hang_s is None:
            hang_s = min(HANG_S, self._chance.expovariate(1.0) * self._world.faults.hang_s)
        until_s = self._world.now_s + hang_s
        if until_s > self.hangs_until_s:
            self.hangs_until_s, self.backlog_s = until_s, max(backlog_s, self.backlog_s)
        self._world.tell(self.host.id, f"its flintlockd hangs for {hang_s:.3f} s")

    def begins_s(self, when_s: float, method: str) -> float:
        """When a call begins that would begin at `when_s` if nothing hung.

        An outage goes on when all other faults have ended: calls that wait already must not be overtaken by Lists.
        """
        if when_s >= self.hangs_until_s or (self._world.calm and not self.backlog_s):
            return when_s
        late = self.backlog_s and method == wire.CREATE
        return self.hangs_until_s + (self._backlog.random() * self.backlog_s if late else 0.0)

    def lose_power(self, forgets: float) -> None:
        """Forget Deletes with this probability: they had not reached the disk."""
        for vm in self.vms.values():
            if vm.message.status.state == DELETING and self._chance.random() < forgets:
                vm.message.status.state, vm.row = CREATED, b""
                self._world.tell(self.host.id, f"forgets the Delete of {vm.uid[-6:]}")

    # Calls.

    def create(self, request: bytes, called_s: float, direct: bool = False) -> bytes:
        """CreateMicroVM. `direct`: not through Billet, though it may have a token."""
        spec = rpc.CreateMicroVMRequest.FromString(request).microvm
        if spec.vcpu > VCPU_MAX:
            self._world.note(Declined(self._world.now_s, self.host.id, wire.observe(types.MicroVM(spec=spec)).token))
            raise HostVerdict(Code.UNKNOWN, "creating microvm: 'VCPU' failed on the 'lte' tag")
        if not direct:
            self._fail(spec)
        unclear = not direct and self._world.happens(self._failing, self._world.faults.create_unclear)
        if unclear and self._failing.random() < 0.5:
            raise HostVerdict(Code.UNKNOWN, UNCLEAR[0])
        self._made += 1
        spec.uid = f"01SHST{self._made:017d}{self._number:03d}"
        message = types.MicroVM(version=1, spec=spec, status=types.MicroVMStatus(state=PENDING))
        seen = wire.observe(message)
        token = "" if direct else seen.token
        vm = self.vms[spec.uid] = SimVm(spec.uid, token, seen.demand, message)
        self._world.note(Accepted(self._world.now_s, self.host.id, vm.uid, spec.id, vm.token, vm.demand, called_s))
        self._world.tell(self.host.id, f"has {spec.id} as {vm.uid[-6:]}, token {vm.token[-6:] or 'none'}")
        if unclear and self.process:
            boots_s = self._world.now_s + self._failing.uniform(0.0, RESYNC_S)
            self.process.call_at(boots_s, self._enqueue, vm.uid)
            raise HostVerdict(Code.UNKNOWN, UNCLEAR[self._failing.randrange(2)])
        self._enqueue(vm.uid)
        return rpc.CreateMicroVMResponse(microvm=message).SerializeToString()

    def _fail(self, spec: types.MicroVMSpec) -> None:
        """Refuse a create because something beneath flintlockd fails, if the plan says so. Nothing is created."""
        text = ""
        if self.full:
            text = FAULTS[0]
        elif self._world.happens(self._failing, self._world.faults.create_fails):
            text = FAULTS[self._failing.randrange(len(FAULTS))]
        elif self._world.happens(self._failing, self._world.faults.create_locked):
            text = LOCKED
        if text:
            token = wire.observe(types.MicroVM(spec=spec)).token
            self._world.note(Declined(self._world.now_s, self.host.id, token, fault=True))
            raise HostVerdict(Code.UNKNOWN, text)

    def delete(self, uid: str) -> bytes:
        """DeleteMicroVM."""
        vm = self.vms.get(uid)
        if vm is None:
            raise HostVerdict(Code.UNKNOWN, f"deleting microvm: checking to see if spec exists: {unknown(uid)}")
        vm.message.status.state, vm.row = DELETING, b""
        self._enqueue(uid)
        return b""

    def get(self, uid: str) -> bytes:
        """GetMicroVM."""
        vm = self.vms.get(uid)
        if vm is None:
            raise HostVerdict(Code.UNKNOWN, f"getting microvm: error attempting to locate microvm: {unknown(uid)}")
        return wrapped(vm.bytes())

    def list_all(self) -> bytes:
        """ListMicroVMs, of all namespaces."""
        if self._world.happens(self._failing, self._world.faults.list_races):
            raise HostVerdict(Code.UNKNOWN, LIST_RACE)
        vms = list(self.vms.values())
        return b"".join(wrapped(vm.bytes()) for vm in (reversed(vms) if self._world.faults.copied_tokens else vms))

    def answer(self, method: str, request: bytes, called_s: float) -> bytes:
        """Any unary call. Raises HostVerdict."""
        match method:
            case wire.CREATE:
                return self.create(request, called_s)
            case wire.DELETE:
                return self.delete(wire.read_uid(request))
            case wire.GET:
                return self.get(wire.read_uid(request))
            case wire.LIST:
                return self.list_all()
        raise HostVerdict(Code.UNIMPLEMENTED, f"unknown method {method}")

    # The boot queue.

    def _enqueue(self, uid: str) -> None:
        if not self.stale:
            self._queue.append(uid)
            self._work_on()

    def hear(self) -> None:
        """Hear of everything again: a resync."""
        if self.stale:
            self.stale = False
            for uid, vm in self.vms.items():
                if vm.message.status.state in (PENDING, DELETING):
                    self._queue.append(uid)
            self._work_on()

    def _work_on(self) -> None:
        while self._queue and not self._busy and self.process:
            vm = self.vms.get(self._queue.popleft())
            if vm is None or vm.message.status.state == CREATED:
                continue
            deleting = vm.message.status.state == DELETING
            mean_s = self._world.faults.delete_s if deleting else self._world.faults.boot_s
            self._busy = True
            self.process.call_at(
                self._world.now_s + self._chance.expovariate(1.0) * mean_s, self._done, vm, not deleting
            )

    def _done(self, vm: SimVm, booted: bool) -> None:
        self._busy = False
        state = vm.message.status.state
        if state == PENDING:
            vm.message.status.state, vm.row = CREATED, b""
            vm.message.version += 1
        elif state == DELETING and booted and self._world.happens(self._failing, self._world.faults.delete_lost):
            vm.message.status.state, vm.row = CREATED, b""
            self._world.tell(self.host.id, f"loses the Delete of {vm.uid[-6:]} by the end of its boot")
        elif self.vms.pop(vm.uid, None):
            self._world.note(Removed(self._world.now_s, self.host.id, vm.uid))
            self._world.tell(self.host.id, f"has removed {vm.uid[-6:]}")
            self.removed()
        self._work_on()


class Loopback:
    """ports.Flintlock for one start of an agent."""

    def __init__(self, world: World, daemon: Flintlockd, agent: SimProcess, host_id: str) -> None:
        self._world = world
        self._daemon = daemon
        self._agent = agent
        self._host_id = host_id  # the agent's host
        self._chance = world.chance(f"loopback of {agent.name}")
        self._deleted: set[str] = set()  # uids that flintlockd has told this agent to delete

    async def ready(self, timeout_s: float) -> bool:
        """See ports.Flintlock."""
        waited_s = 0.0
        while not self._daemon.up and waited_s < timeout_s:
            await asyncio.sleep(0.1)
            waited_s += 0.1
        return self._daemon.up

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """See ports.Flintlock."""
        daemon, world = self._daemon, self._world
        if not daemon.up or daemon.process is None:
            await asyncio.sleep(min(timeout_s, 0.1))
            return Reply(Code.UNAVAILABLE, "connection refused", b"")
        answer: asyncio.Future[Reply] = world.loop.create_future()
        if not self._agent.acts():
            return await answer  # the agent has died
        process = daemon.process

        def died() -> None:
            self._agent.call_at(world.now_s, _resolve, answer, BROKE)

        process.at_death.append(died)
        called_s = world.now_s
        self._note_tried(method, request)
        if method == wire.DELETE and (uid := wire.read_uid(request)) in self._deleted:
            world.note(DeletedTwice(called_s, self._host_id, uid))
        self._send(process, method, request, answer)
        timer = world.loop.call_later(timeout_s, _resolve, answer, Reply(Code.DEADLINE_EXCEEDED, "", b""))
        try:
            reply = await answer
            self._look_at(method, request, reply)
            if method == wire.LIST and reply.code == Code.OK:
                world.note(Listed(world.now_s, self._host_id, called_s))
            return reply
        finally:
            timer.cancel()
            process.at_death.remove(died)

    def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata = (),
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Flintlock. Not used in the simulation."""
        raise NotImplementedError

    async def close(self) -> None:
        """See ports.Flintlock."""

    def _look_at(self, method: str, request: bytes, reply: Reply) -> None:
        """Note which microVMs flintlockd has said to delete, by its latest answer about each."""
        if method == wire.DELETE and reply.code == Code.OK:
            self._deleted.add(wire.read_uid(request))
        if method == wire.GET:
            deletes = reply.code == Code.OK and wire.read_created(reply.payload).state is VmState.DELETING
            (self._deleted.add if deletes else self._deleted.discard)(wire.read_uid(request))

    def _note_tried(self, method: str, request: bytes) -> None:
        if method == wire.CREATE:
            spec = rpc.CreateMicroVMRequest.FromString(request).microvm
            token = wire.observe(types.MicroVM(spec=spec)).token
            self._world.note(Tried(self._world.now_s, self._host_id, token))

    def _send(self, process: SimProcess, method: str, request: bytes, answer: asyncio.Future[Reply]) -> None:
        """Deliver the call now, later or never. The daemon carries it out even if the client has given up."""
        world, faults, chance = self._world, self._world.faults, self._chance
        called_s = world.now_s
        when_s = called_s + self._delay_s()
        if world.happens(chance, faults.daemon_lost_request):
            self._agent.call_at(when_s, _resolve, answer, BROKE)
            return
        if world.happens(chance, faults.daemon_slow):
            when_s += chance.uniform(0.0, SLOW_S)

        def arrive() -> None:
            try:
                reply = Reply(Code.OK, "", self._daemon.answer(method, request, called_s))
            except HostVerdict as verdict:
                reply = Reply(verdict.status, verdict.text, b"")
            lost = world.happens(chance, faults.daemon_lost_reply)
            self._agent.call_at(world.now_s + self._delay_s(), _resolve, answer, BROKE if lost else reply)

        process.call_at(self._daemon.begins_s(when_s, method), arrive)

    def _delay_s(self) -> float:
        return 0.0002 + self._chance.expovariate(1.0) * self._world.faults.daemon_delay_s


def unknown(uid: str) -> str:
    """The text for an unknown uid."""
    return f"microvm spec //{uid} {NOT_FOUND}"


def wrapped(vm: bytes) -> bytes:
    """A MicroVM as field 1 of a reply."""
    return wire.field(1, vm)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
