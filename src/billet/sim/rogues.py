"""Agents that are not what they say: a second machine with a host's name, and a host that claims a huge term."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import sha256

from billet.adapters.identity import KeyIdentity
from billet.core.errors import NOT_FOUND, Code
from billet.core.model import Host
from billet.host.agent import Agent, Measured
from billet.link.agent import AgentDialler
from billet.ports import Reply
from billet.sim.history import HUGE, HostMade
from billet.sim.hosts import REPORT_S, SimDial
from billet.sim.network import Network
from billet.sim.world import SimClock, World
from billet.wire import flintlock as wire


class EmptyFlintlockd:
    """ports.Flintlock of a machine without microVMs."""

    async def ready(self, timeout_s: float) -> bool:
        """See ports.Flintlock."""
        return True

    async def call(self, method: str, request: bytes, timeout_s: float) -> Reply:
        """See ports.Flintlock."""
        return Reply(Code.OK, "", b"") if method == wire.LIST else Reply(Code.UNKNOWN, NOT_FOUND, b"")

    def stream(self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None) -> AsyncIterator[bytes]:
        """See ports.Flintlock. Not used in the simulation."""
        raise NotImplementedError

    async def close(self) -> None:
        """See ports.Flintlock."""


class Rogues:
    """Starts such agents. Each has a key of its own and lives for a while."""

    def __init__(self, world: World, net: Network, servers: Sequence[str]) -> None:
        self._world, self._net, self._servers = world, net, servers
        self._count = 0

    def impostor(self, host: Host, lives_s: float) -> None:
        """A second machine with the name of a host that is bound to another key."""
        self._start(host, f"impostor-of-{host.id}", 0, lives_s)

    def liar(self, host: Host, lives_s: float) -> None:
        """A new host that says it has obeyed a huge term."""
        liar = Host("liar", host.capacity, host.allocatable)
        self._world.note(HostMade(self._world.now_s, liar))
        self._start(liar, "liar", HUGE, lives_s)

    def _start(self, host: Host, title: str, term: int, lives_s: float) -> None:
        world = self._world
        self._count += 1
        process = world.loop.process(f"{title}.{self._count}")
        process.at_death.append(lambda: self._net.died(process, silently=False))
        world.tell(process.name, "starts")

        async def run() -> None:
            flintlockd = EmptyFlintlockd()
            agent = Agent(
                host, flintlockd, wire, lambda: Measured(0.0, 0, 0), SimClock(world), REPORT_S, process.name
            )
            agent.accepts(term)
            identity = KeyIdentity.of_seed(sha256(title.encode()).digest(), title, title)
            dial = SimDial(self._net, process, title)
            process.spawn(agent.run())
            process.spawn(AgentDialler(agent, flintlockd, self._servers, dial, "sim", identity).run())

        process.spawn(run())
        world.loop.call_later(lives_s, process.kill, context=world.loop.world)
