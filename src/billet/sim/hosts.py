"""The hosts of a simulated cluster: machines that run a simulated flintlockd and the real agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random

from picows import WSListener

from billet.adapters.identity import KeyIdentity
from billet.core.model import Host, Resources
from billet.core.pressure import Stalls
from billet.host.agent import Agent, Measured
from billet.link.agent import AgentDialler
from billet.sim.connection import End
from billet.sim.flintlockd import Flintlockd
from billet.sim.history import HostMade
from billet.sim.loop import SimProcess
from billet.sim.loopback import Loopback
from billet.sim.network import Network
from billet.sim.world import SimClock, World
from billet.wire import flintlock as wire

REPORT_S = 4.0
GRACE_S = 30.0  # of an agent that is asked to stop
SIZES = ((4, 4096), (8, 8192), (8, 16384), (16, 16384))  # vCPU and memory in MiB of a host


class SimDial:
    """Dials servers over the simulated network (link.dial.Dial)."""

    hung_up = "the server closed the connection"

    def __init__(self, net: Network, process: SimProcess, host_id: str) -> None:
        self._net, self._process, self._host_id = net, process, host_id

    async def __call__(self, server: str, path: str, listener: WSListener) -> End:
        """See link.dial.Dial."""
        return await self._net.dial(self._process, self._host_id, server, path, listener)


class SimMachine:
    """One machine with a flintlockd and an agent. Either may die."""

    def __init__(self, world: World, net: Network, host: Host, number: int, servers: Sequence[str]) -> None:
        self.host = host
        self.daemon = Flintlockd(world, host, number)
        self.agent: Agent | None = None
        self.clock = SimClock(world)
        self._world, self._net, self._servers = world, net, servers
        self.out_until_s = {"machine": 0.0, "flintlockd": 0.0}  # until when an outage keeps it down
        self._starts = 0
        self._identity = KeyIdentity.of_seed(sha256(host.id.encode()).digest(), host.id, host.id)
        self._process: SimProcess | None = None
        self._chance = world.chance(f"machine {host.id}")
        world.note(HostMade(world.now_s, host))

    @property
    def agent_up(self) -> bool:
        """Whether the agent runs."""
        return self._process is not None and self._process.alive

    @property
    def up(self) -> bool:
        """Whether agent and flintlockd run, and the agent has listed flintlockd's microVMs."""
        return self.agent_up and self.daemon.up and self.agent is not None and self.agent.known

    @property
    def process(self) -> SimProcess | None:
        """The agent's latest process."""
        return self._process

    async def finish_agent(self) -> None:
        """SIGTERM to the agent: as node_agent ends. Run it in the agent's process."""
        process = self._process
        if process and self.agent:
            self._world.tell(process.name, "is asked to stop")
            await self.agent.finish(GRACE_S)
            self._world.tell(process.name, "ends")
            process.kill()

    def start_agent(self, fuse: Callable[[SimProcess], None]) -> None:
        """Start a new agent process, with empty memory."""
        self._starts += 1
        process = self._process = self._world.loop.process(f"agent-{self.host.id}.{self._starts}")
        process.at_death.append(lambda: self._net.died(process, silently=False))
        process.spawn(self._begin(process))
        fuse(process)

    async def _begin(self, process: SimProcess) -> None:
        name = self.host.id  # of its machine, its flintlockd and its key
        loopback = Loopback(self._world, self.daemon, process, name)
        agent = self.agent = Agent(
            self.host, loopback, wire, self._measure, self.clock, REPORT_S, process.name, daemon_id=lambda: name
        )
        dial = SimDial(self._net, process, self.host.id)
        dialler = AgentDialler(agent, loopback, self._servers, dial, "sim", self._identity)
        process.spawn(agent.run())
        process.spawn(dialler.run())

    def _measure(self) -> Measured:
        pressure = 0.0 if self._world.ties else self._chance.random() * 0.5
        return Measured(0.0, 0, 0, Stalls(cpu=pressure))


def draw_hosts(chance: Random, ties: bool) -> list[Host]:
    """Draw the hosts of one seed: small, so that they fill up, and equal in size when `ties`."""
    count = chance.randint(2, 5)
    alike = chance.choice(SIZES)
    hosts = []
    for n in range(count):
        vcpu, memory_mib = alike if ties else chance.choice(SIZES)
        room = Resources(vcpu, memory_mib, 100_000, chance.choice((4, 8, 100)) if not ties else 100)
        hosts.append(Host(f"h{n}", room, room))
    return hosts
