"""A host's health: a short memory of what failed there, and what follows from it for auctions. Time is an argument.

One failure raises the host's price, so that others win while they can, and lets it have one order at a time. With
`SUSPECT_AFTER` failures in a row the host is suspect: it gets no order until its next try, and then one. The time
until the next try doubles with each try that fails. A success clears the memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from billet.core.corrections import NO_TROUBLE, Trouble
from billet.core.errors import without_not_found
from billet.core.model import Facts
from billet.core.plural import counted

SUSPECT_AFTER = 2  # failures in a row
FIRST_TRY_S = 2.0  # from the first failure to the next try
LAST_TRY_S = 300.0  # most seconds between two tries
FORGET_S = 900.0  # a memory that nothing has confirmed for so long says nothing any more
TEXT_MAX = 160  # characters of a failure's text that are kept
KEPT = 16  # failures kept per host
PENALTY = 20.0  # that each adds to the score: more than a full host and a wait of 15 s cost

CROWD = 8  # microVMs placed on a host since its last finished boot, from which it ranks behind hosts that boot

STALL_S = 15.0  # a boot queue that stands still for less is no stall
STALL_BOOTS = 10  # nor for less than this many mean boots
PULL_S = 300.0  # what is added while the host may be pulling an image
STALL_PULLS = 5  # or this many mean pulls, if that is longer

STALLED = (
    "boots nothing: {} waiting, none booted for {:.0f} s; restart its flintlockd (was its containerd restarted?)"
)


class Kind(Enum):
    """What failed."""

    CREATE = "create"  # flintlockd answered a create with a fault of its own
    BOOT = "boot"  # flintlockd tried to boot a microVM and could not
    VMM = "VMM"  # a microVM became CREATED, and its VMM died at once
    STALL = "stall"  # flintlockd has booted nothing for a long time, though microVMs wait


class Failure(NamedTuple):
    """One failure on a host. `recipe`: what was to boot there (core/blame.py), "" = it does not matter."""

    kind: Kind
    at_s: float
    text: str
    recipe: str = ""


@dataclass(slots=True)
class Health:
    """One host's memory: its failures since the last success, oldest first."""

    failures: list[Failure] = field(default_factory=list)
    pause_s: float = 0.0  # from the last failed try to the next one
    next_try_s: float = 0.0
    trying: str = ""  # the order that the host has in hand since its last failure; "" = none
    trying_since_s: float = 0.0
    confirmed_s: float = 0.0  # when it was last seen to fail still

    @property
    def suspect(self) -> bool:
        """Whether enough has failed in a row."""
        return len(self.failures) >= SUSPECT_AFTER

    @property
    def stalled(self) -> bool:
        """Whether the last thing that failed was the whole boot queue."""
        return bool(self.failures) and self.failures[-1].kind is Kind.STALL

    def failed(self, failure: Failure, ordered_s: float) -> None:
        """Something has failed that was ordered at `ordered_s`. It was a try if that was after the last failure."""
        tried = not self.failures or ordered_s >= self.failures[-1].at_s
        self.failures = [*self.failures, failure][-KEPT:]
        if tried:
            first_s = STALL_S if failure.kind is Kind.STALL else FIRST_TRY_S
            self.pause_s = min(LAST_TRY_S, max(first_s, 2 * self.pause_s))
        self.next_try_s = max(self.next_try_s, failure.at_s + self.pause_s)

    def booted(self, ordered_s: float) -> None:
        """A microVM that was ordered at `ordered_s` has booted. Creates that failed after that are not cleared."""
        self._keep([f for f in self.failures if f.kind is Kind.VMM or self._create_after(f, ordered_s)])

    def lived(self, ordered_s: float) -> None:
        """The VMM of a microVM that was ordered at `ordered_s` has lived for a while."""
        self._keep([f for f in self.failures if self._create_after(f, ordered_s)])

    @staticmethod
    def _create_after(failure: Failure, ordered_s: float) -> bool:
        return failure.kind is Kind.CREATE and failure.at_s > ordered_s

    def created(self) -> None:
        """A create has succeeded. That clears those that failed with a text that says not whose fault it is."""
        self._keep([f for f in self.failures if f.kind is not Kind.CREATE or not f.recipe])

    def lift(self, recipe: str) -> None:
        """Failures of this recipe are the image's own."""
        self._keep([f for f in self.failures if f.recipe != recipe])

    def _keep(self, failures: list[Failure]) -> None:
        self.failures = failures
        if not failures:
            self.pause_s, self.next_try_s, self.trying = 0.0, 0.0, ""

    def takes(self, order: str, now_s: float) -> None:
        """The host gets an order: while it has failed and not succeeded since, this is its next try."""
        if self.failures and not self.trying:
            self.trying, self.trying_since_s = order, now_s

    def ended(self, order: str) -> None:
        """An order is no longer in hand."""
        if self.trying == order:
            self.trying = ""

    def forgotten(self, now_s: float) -> bool:
        """Whether nothing is worth remembering."""
        return not self.failures or (not self.trying and now_s > self._forget_s)

    @property
    def _forget_s(self) -> float:
        return max(self.failures[-1].at_s, self.confirmed_s) + FORGET_S

    def changes_s(self, now_s: float) -> float:
        """When time alone changes what follows from this memory."""
        return self.next_try_s if now_s < self.next_try_s else max(self._forget_s, now_s + FIRST_TRY_S)

    def refuses(self, now_s: float) -> bool:
        """Whether the host gets no order now."""
        return bool(self.failures) and (bool(self.trying) or (self.suspect and now_s < self.next_try_s))

    def why(self, now_s: float, in_full: bool = False) -> str:
        """What has failed, and when the host is tried again: "2 creates failed; next try in 8 s".

        `in_full`: with the last failure's text, which may name other clients' microVMs.
        """
        left_s = self.next_try_s - now_s
        when = (
            "being tried" if self.trying else f"next try in {max(1.0, left_s):.0f} s" if left_s > 0 else "to be tried"
        )
        return f"{self._what(in_full)}; {when}"

    def _what(self, in_full: bool) -> str:
        last = self.failures[-1]
        if self.stalled:
            return last.text
        counts = {kind: sum(f.kind is kind for f in self.failures) for kind in Kind}
        what = " and ".join(counted(count, kind.value) for kind, count in counts.items() if count)
        return f"{what} failed ({last.text})" if last.text and in_full else f"{what} failed"


def told(text: str) -> str:
    """A failure's text, short enough to stand in others (its end says what is wrong), and never "not found"."""
    text = without_not_found(text)
    return text if len(text) <= TEXT_MAX else f"...{text[-TEXT_MAX:]}"


def most_refusing(hosts: int, share: float) -> int:
    """How many of `hosts` may be without orders at once for what has failed on them: a share, at least one."""
    return max(1, int(hosts * share))


def worst(memories: Mapping[str, Health], most: int) -> list[str]:
    """The hosts with the most failures, those that failed first before others; at most `most`."""
    order = sorted(memories, key=lambda host_id: (-_weight(memories[host_id]), memories[host_id].failures[0].at_s))
    return order[:most]


def _weight(health: Health) -> float:
    return min(len(health.failures), SUSPECT_AFTER) + health.pause_s / LAST_TRY_S


def trouble(health: Health, worst_ones: Collection[str], host_id: str, now_s: float) -> Trouble:
    """What failures add to a host's score until its next try; for good if it is spared because others are worse.

    Each adds, so that a long wait on the last good host of a small fleet is no reason to go back to the broken ones.
    """
    if now_s < health.next_try_s or (health.suspect and host_id not in worst_ones):
        return Trouble(PENALTY * len(health.failures), health.why(now_s))
    return NO_TROUBLE


def crowded(placed: Mapping[str, int]) -> list[str]:
    """The bidders on which many microVMs were placed since their last finished boot, more than 1.5 times the median.

    `placed`: that number, by host. In a fleet that boots slowly all hosts have many, and none is crowded. A host that
    boots nothing stands out soon, long before its boot queue is late enough to be called stalled.
    """
    counts = sorted(placed.values())
    if not counts or counts[-1] < CROWD:
        return []
    limit = max(CROWD, 3 * counts[(len(counts) - 1) // 2] // 2 + 1)
    return [host_id for host_id, count in placed.items() if count >= limit]


def stall_limit_s(facts: Facts, may_pull: bool) -> float:
    """How long a boot queue may stand still: several boots, and the pull of an image if the host may be pulling."""
    limit_s = max(STALL_S, STALL_BOOTS * facts.boot_s)
    return limit_s + max(PULL_S, STALL_PULLS * (facts.pull_s or 0.0)) if may_pull else limit_s
