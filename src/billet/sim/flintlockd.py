"""A simulated flintlockd: a disk, and a boot queue with one worker. Requests and answers are Flintlock's own bytes.

loopback.py has the agent's client of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from billet.core.errors import NOT_FOUND, Code, HostVerdict
from billet.core.model import Host, Resources
from billet.sim.flintlockd_texts import FAULTS, LIST_RACE, LOCKED, UNCLEAR
from billet.sim.history import Accepted, Declined, Removed
from billet.sim.loop import SimProcess
from billet.sim.world import World
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

BACKLOG_S = 15.0  # after an outage, in addition
HANG_S = 10.0  # the longest hang, except in outages
VCPU_MAX = 64
RESYNC_S = 20.0  # the latest that a microVM whose event was lost is noticed; real ones take up to 600 s

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


def unknown(uid: str) -> str:
    """The text for an unknown uid."""
    return f"microvm spec //{uid} {NOT_FOUND}"


def wrapped(vm: bytes) -> bytes:
    """A MicroVM as field 1 of a reply."""
    return wire.field(1, vm)
