"""Agents that are not what they say.

An impostor is a second machine with a host's name. A liar claims a term that no leader had. A second agent has a name
of its own beside another host's flintlockd. A thief shows the microVMs of another host as its own.

Second agents and thieves live only while Billet can know better, because the host that they copy is connected, or
because one of its microVMs is recorded. Otherwise nobody could tell which of the two is the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random

from picows import WSListener

from billet.adapters.identity import KeyIdentity
from billet.core.errors import NOT_FOUND, Code
from billet.core.identity import LARGEST_TERM
from billet.core.metadata import Metadata
from billet.core.model import Host
from billet.core.state import State, holds_room
from billet.host.agent import Agent, Measured
from billet.link.agent import AgentDialler
from billet.ports import Flintlock, Reply
from billet.sim.connection import End
from billet.sim.etcd import Etcd
from billet.sim.flintlockd import SimVm, unknown, wrapped
from billet.sim.history import HUGE, HostMade
from billet.sim.hosts import REPORT_S, SimDial, SimMachine
from billet.sim.loop import SimProcess
from billet.sim.loopback import Loopback, UnaryOnly
from billet.sim.network import Network
from billet.sim.servers import SimServer
from billet.sim.world import SimClock, World
from billet.wire import flintlock as wire

TERMS = (HUGE, HUGE, LARGEST_TERM, LARGEST_TERM + 1, (1 << 64) - 1)  # that no leader had; the last two cannot be


class EmptyFlintlockd(UnaryOnly):
    """ports.Flintlock of a machine without microVMs."""

    async def ready(self, timeout_s: float) -> bool:
        """See ports.Flintlock."""
        return True

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """See ports.Flintlock."""
        return Reply(Code.OK, "", b"") if method == wire.LIST else Reply(Code.UNKNOWN, NOT_FOUND, b"")


class CopyingFlintlockd(EmptyFlintlockd):
    """Shows the microVMs of another host that are recorded there, and says that it deletes them.

    Of others it says nothing: as long as a microVM is not recorded, nobody can tell whose it is.
    """

    def __init__(self, copied: Callable[[], list[SimVm]]) -> None:
        self._copied = copied

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """See ports.Flintlock."""
        vms = {vm.uid: vm for vm in self._copied()}
        match method:
            case wire.LIST:
                return Reply(Code.OK, "", b"".join(wrapped(vm.bytes()) for vm in vms.values()))
            case wire.GET | wire.DELETE if vm := vms.get(wire.read_uid(request)):
                return Reply(Code.OK, "", wrapped(vm.bytes()) if method == wire.GET else b"")
            case wire.GET | wire.DELETE:
                return Reply(Code.UNKNOWN, unknown(wire.read_uid(request)), b"")
        return Reply(Code.UNKNOWN, "this machine creates nothing", b"")


class WatchedDial(SimDial):
    """Dials a server only while the rogue may live."""

    def __init__(self, net: Network, process: SimProcess, name: str, may: Callable[[str], bool]) -> None:
        super().__init__(net, process, name)
        self._may = may

    async def __call__(self, server: str, path: str, listener: WSListener) -> End:
        """See link.dial.Dial."""
        if not self._may(server):
            raise OSError(f"{server} is not dialled now")
        return await super().__call__(server, path, listener)


class Rogues:
    """Starts such agents. Each has a key of its own and lives for a while."""

    def __init__(
        self, world: World, net: Network, etcd: Etcd, servers: Sequence[SimServer], machines: Sequence[SimMachine]
    ) -> None:
        self._world, self._net, self._etcd = world, net, etcd
        self._servers, self._machines = servers, machines
        self._links = [server.me.link for server in servers]
        self._chance, self._more = world.chance("rogues"), world.chance("more rogues")
        self._count = 0
        self._made: set[str] = set()  # names of hosts that no machine has
        self._living: list[SimProcess] = []
        self._with_link: list[tuple[str, SimProcess]] = []  # live while no server loses its link to this host
        self._with_record: list[tuple[SimMachine, SimProcess]] = []  # live while a microVM there is recorded
        net.parted_from = self._parted
        etcd.wrote = self._changed
        for machine in machines:
            machine.daemon.removed = self._changed

    def end(self) -> None:
        """End all rogues."""
        for process in self._living:
            process.kill()

    def strikes(self) -> tuple[tuple[Random, Sequence[tuple[float, Callable[[], None]]]], ...]:
        """How often to start each kind of rogue, and how; by source of chance."""
        faults = self._world.faults
        return (
            (self._chance, ((faults.impostors, self._impostor), (faults.lying_terms, self._liar))),
            (self._more, ((faults.second_agents, self._second_agent), (faults.thieves, self._thief))),
        )

    def _impostor(self) -> None:
        """A second machine with the name of a host that the leader has bound to another key."""
        host = self._chance.choice(self._machines).host
        if any(server.has_bound(host.id) for server in self._servers):
            title = f"impostor-of-{host.id}"
            process = self._process(title, self._lives_s(self._chance))
            self._start(process, host, EmptyFlintlockd(), SimDial(self._net, process, title), title)

    def _liar(self) -> None:
        """A new host that says it has obeyed a term that no leader had."""
        process = self._process("liar", self._lives_s(self._chance))
        host, dial = self._new_host("liar", self._machines[0].host), SimDial(self._net, process, "liar")
        self._start(process, host, EmptyFlintlockd(), dial, "liar", term=self._more.choice(TERMS))

    def _second_agent(self) -> None:
        """A second agent beside a machine's flintlockd. Half of them know which process listens there.

        With that Billet can tell from the hellos, without it only from the microVMs that both show.
        """
        machine, fingerprint = self._more.choice(self._machines), self._more.random() < 0.5
        host_id, name = machine.host.id, f"{machine.host.id}-again"

        def may(server: str) -> bool:
            return self._net.has_greeted(server, host_id) if fingerprint else bool(self._recorded(machine))

        if not any(may(server) for server in self._links):
            return
        process = self._process(name, self._lives_s(self._more))
        if fingerprint:
            self._with_link.append((host_id, process))
        else:
            self._with_record.append((machine, process))
        loopback = Loopback(self._world, machine.daemon, process, name)
        dial = WatchedDial(self._net, process, name, may)
        self._start(process, self._new_host(name, machine.host), loopback, dial, host_id, host_id * fingerprint)

    def _thief(self) -> None:
        """A machine that shows the microVMs of another one."""
        machine = self._more.choice(self._machines)
        if not self._recorded(machine):
            return
        name = f"thief-of-{machine.host.id}"
        process = self._process(name, self._lives_s(self._more))
        self._with_record.append((machine, process))
        flintlockd = CopyingFlintlockd(lambda: self._recorded(machine))
        dial = WatchedDial(self._net, process, name, lambda server: bool(self._recorded(machine)))
        self._start(process, self._new_host(name, machine.host), flintlockd, dial, name)

    # Until when second agents and thieves live.

    def _recorded(self, machine: SimMachine) -> list[SimVm]:
        """The microVMs on this machine that are recorded there, by the store and by whoever leads."""
        ledger = self._etcd.ledger
        states = [self._etcd.state, ledger.state] if ledger else [self._etcd.state]
        vms = machine.daemon.vms.values()
        return [vm for vm in vms if all(_has(state, vm.uid, machine.host.id) for state in states)]

    def _changed(self) -> None:
        """A flintlockd or the store has changed."""
        for machine, process in self._with_record:
            if process.alive and not self._recorded(machine):
                self._stop(process)

    def _parted(self, host_id: str) -> None:
        """A server has lost its link to a host."""
        for copied, process in self._with_link:
            if process.alive and copied == host_id:
                self._stop(process)

    def _stop(self, process: SimProcess) -> None:
        """End a rogue, and lose what it has in flight."""
        self._net.hang_up(process.name.rpartition(".")[0])
        process.kill()

    # How they are started.

    def _lives_s(self, chance: Random) -> float:
        return chance.expovariate(1.0) * self._world.faults.down_s

    def _new_host(self, name: str, like: Host) -> Host:
        host = Host(name, like.capacity, like.allocatable)
        if name not in self._made:
            self._made.add(name)
            self._world.note(HostMade(self._world.now_s, host))
        return host

    def _process(self, title: str, lives_s: float) -> SimProcess:
        world = self._world
        self._count += 1
        process = world.loop.process(f"{title}.{self._count}")
        process.at_death.append(lambda: self._net.died(process, silently=False))
        self._living = [living for living in self._living if living.alive] + [process]
        world.tell(process.name, "starts")
        world.loop.call_later(lives_s, process.kill, context=world.loop.world)
        return process

    def _start(
        self,
        process: SimProcess,
        host: Host,
        flintlockd: Flintlock,
        dial: SimDial,
        machine_id: str,
        daemon_id: str = "",
        term: int = 0,
    ) -> None:
        async def run() -> None:
            agent = Agent(
                host, flintlockd, wire, lambda: Measured(0.0, 0, 0), SimClock(self._world), REPORT_S, process.name,
                daemon_id=lambda: daemon_id,
            )  # fmt: skip
            agent.accepts(term)
            key = sha256(process.name.rpartition(".")[0].encode()).digest()
            identity = KeyIdentity.of_seed(key, machine_id, machine_id)
            process.spawn(agent.run())
            process.spawn(AgentDialler(agent, flintlockd, self._links, dial, "sim", identity).run())

        process.spawn(run())


def _has(state: State, uid: str, host_id: str) -> bool:
    placement = state.of_uid(uid)
    return placement is not None and placement.host == host_id and holds_room(placement)
