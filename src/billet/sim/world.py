"""What all parts of a simulated run share: virtual time, random numbers, the fault plan, and the history."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

from billet.sim.fault_plan import FaultPlan, draw
from billet.sim.history import Event
from billet.sim.loop import VirtualLoop

EPOCH_S = 1_750_000_000.0  # wall-clock time at the beginning of every run


class World:
    """The world of one seed."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.faults: FaultPlan = draw(self.chance("fault plan"), self.chance("more faults"))
        self.ties = self.chance("ties").random() < 0.4  # hosts are alike, so that only the tie-break decides
        self.calm = False  # all faults have ended
        self.late_until_s: dict[str, float] = {}  # until when the store answers this server's process almost too late
        self.history: list[Event] = []
        self.lines: list[str] = []
        self._hash = blake2b(digest_size=8)

    @property
    def now_s(self) -> float:
        """Seconds since the beginning of the run."""
        return self.loop.time()

    def chance(self, name: str) -> Random:
        """A random stream of its own for each name, so that the draws of one part do not shift those of another."""
        return Random(f"{self.seed}/{name}")

    def happens(self, chance: Random, probability: float) -> bool:
        """Whether a fault of this probability strikes now."""
        return not self.calm and probability > 0 and chance.random() < probability

    def note(self, event: Event) -> None:
        """Add an event to the history."""
        self.history.append(event)

    def tell(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        line = f"{self.loop.time():11.6f} {who}: {what}"
        self.lines.append(line)
        self._hash.update(line.encode())

    @property
    def trace(self) -> str:
        """Digest of all lines: equal for equal runs."""
        return self._hash.hexdigest()


class SimClock:
    """ports.Clock of one machine. Its wall clock may jump, as if somebody set it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.offset_s = 0.0

    def now_s(self) -> float:
        """See ports.Clock."""
        return EPOCH_S + self._world.now_s + self.offset_s

    def monotonic_s(self) -> float:
        """See ports.Clock."""
        return self._world.now_s
