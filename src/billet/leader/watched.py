"""What the leader watches of each order and of each host, to see which hosts fail."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Order:
    """A microVM that was ordered in this term and has not booted yet."""

    host: str
    recipe: str
    at_s: float
    answered: bool = False
    unknown: str = ""  # why its outcome is unknown; "" = it is not
    failed: bool = False  # its boot has failed, and flintlockd tries again


@dataclass(slots=True)
class Watched:
    """What is known of one connected host's boot queue."""

    waiting: dict[str, tuple[str, float]] = field(default_factory=dict)  # by uid: token, and since when (s)
    placed: set[str] = field(default_factory=set)  # tokens: ordered since the last finished boot, not booted yet
    moved_s: float = 0.0  # when a boot or a Delete finished last, or the host came
    still: int = 0  # reports since then

    def moved(self, now_s: float) -> None:
        """A boot or a Delete has finished."""
        self.moved_s, self.still = now_s, 0
