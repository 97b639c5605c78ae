"""Hosts that break: a flintlockd that fails every create, and one that accepts creates and boots nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from billet.sim.hosts import SimMachine
from billet.sim.world import World


class BrokenHosts:
    """Breaks one flintlockd at a time in each way, for a while. Its restart cures a stale one."""

    def __init__(self, world: World, machines: list[SimMachine]) -> None:
        self._world = world
        self._machines = machines
        self._chance = world.chance("broken hosts")

    def strikes(self) -> Iterator[tuple[Random, tuple[tuple[float, Callable[[], None]], ...]]]:
        """The faults, with their rates."""
        yield self._chance, ((self._world.faults.black_holes, self._fill), (self._world.faults.stalls, self._stall))

    def end(self) -> None:
        """Repair everything."""
        for machine in self._machines:
            machine.daemon.full = False
            machine.daemon.hear()

    def _fill(self) -> None:
        """Fill the disk of a host's containerd: every create fails at once, and everything else works."""
        daemon = self._chance.choice(self._machines).daemon
        until_s = self._until_s()
        self._world.tell(daemon.host.id, f"its containerd's disk is full until {until_s:.3f}")
        daemon.full = True
        self._world.loop.call_at(until_s, lambda: setattr(daemon, "full", False), context=self._world.loop.world)

    def _stall(self) -> None:
        """Restart a host's containerd: its flintlockd hears of no create and no Delete until its next resync."""
        daemon = self._chance.choice(self._machines).daemon
        until_s = self._until_s()
        self._world.tell(daemon.host.id, f"its flintlockd hears of nothing until {until_s:.3f}")
        daemon.stale = True
        self._world.loop.call_at(until_s, daemon.hear, context=self._world.loop.world)

    def _until_s(self) -> float:
        return self._world.now_s + self._world.faults.broken_s * self._chance.uniform(0.5, 1.5)
