"""What all parts of a simulated world share: its time, its chance, its weather, and the book of what happened."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

from billet.sim.fault_plan import FaultPlan, draw
from billet.sim.history import Event
from billet.sim.loop import VirtualLoop

EPOCH_S = 1_750_000_000.0  # wall-clock time at the beginning of every run


class World:
    """One seed's world."""

    def __init__(self, seed: int, loop: VirtualLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.faults: FaultPlan = draw(self.chance("fault plan"))
        self.ties = (
            self.chance("ties").random() < 0.4
        )  # hosts are alike, and nothing but a tie-break tells them apart
        self.calm = False  # nothing goes wrong any more
        self.evidence: list[Event] = []
        self.lines: list[str] = []
        self._hash = blake2b(digest_size=8)

    @property
    def now_s(self) -> float:
        """Seconds since the beginning of the run."""
        return self.loop.time()

    def chance(self, name: str) -> Random:
        """A stream of chance of one's own: what one part draws does not shift what the others do."""
        return Random(f"{self.seed}/{name}")

    def happens(self, chance: Random, probability: float) -> bool:
        """Whether a fault of this probability strikes now."""
        return not self.calm and probability > 0 and chance.random() < probability

    def note(self, event: Event) -> None:
        """Something for the checkers."""
        self.evidence.append(event)

    def tell(self, who: str, what: str) -> None:
        """A line of the story. The trace is all of them."""
        line = f"{self.loop.time():11.6f} {who}: {what}"
        self.lines.append(line)
        self._hash.update(line.encode())

    @property
    def trace(self) -> str:
        """A digest of the story: equal for equal runs."""
        return self._hash.hexdigest()


class SimClock:
    """ports.Clock of one machine. Its wall clock may jump, as clocks do that somebody sets."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.offset_s = 0.0

    def now_s(self) -> float:
        """See ports.Clock."""
        return EPOCH_S + self._world.now_s + self.offset_s

    def monotonic_s(self) -> float:
        """See ports.Clock."""
        return self._world.now_s
