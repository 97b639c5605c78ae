"""What the leader watches of each order and of each host, to see which hosts fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile


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
    """What is known of one host's boot queue. The time while the host is away does not count."""

    waiting: dict[str, tuple[str, float]] = field(default_factory=dict)  # by uid: token, and since when (s)
    overtaken: dict[str, str] = field(default_factory=dict)  # by uid, tokens: waiting, but a later one has booted
    placed: set[str] = field(default_factory=set)  # tokens: ordered since the last finished boot, not booted yet
    moved_s: float = 0.0  # when a boot or a Delete finished last, or the host came
    still: int = 0  # reports since then
    left_s: float = 0.0

    def moved(self, now_s: float) -> None:
        """A boot or a Delete has finished."""
        self.moved_s, self.still = now_s, 0

    def returned(self, now_s: float) -> None:
        """The host is back: its queue has stood still for as long as when it left."""
        away_s = now_s - self.left_s
        self.moved_s += away_s
        self.waiting = {uid: (token, since_s + away_s) for uid, (token, since_s) in self.waiting.items()}

    def waits(self, uid: str, token: str, now_s: float) -> None:
        """A microVM is in the boot queue."""
        if uid not in self.overtaken:
            self.waiting.setdefault(uid, (token, now_s))

    def overtakes(self, uid: str, ordered_s: float) -> None:
        """A microVM has booted: the queue does not stand still because of those that were there before it."""
        if uid in self.waiting:
            before = list(takewhile(lambda other: other != uid, self.waiting))
        else:
            before = [other for other, (_, since_s) in self.waiting.items() if since_s < ordered_s]
        self.overtaken |= {other: self.waiting.pop(other)[0] for other in before}

    def queue(self) -> set[str]:
        """The uids of all that wait."""
        return self.waiting.keys() | self.overtaken.keys()

    def leaves_queue(self, uid: str) -> str | None:
        """A microVM waits no longer; returns its token, None if it did not wait."""
        token, _ = self.waiting.pop(uid, (None, 0.0))
        return self.overtaken.pop(uid, token)
