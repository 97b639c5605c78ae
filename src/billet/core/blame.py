"""Whose fault a failure is: the host's, or that of what was to run there.

A client must not be able to take hosts out. A microVM whose image does not exist, or whose kernel has another file
name, fails on every host. So a failure is charged to the host only where the same recipe has succeeded somewhere. A
recipe that fails on a second host, without having succeeded since, may be at fault itself: what was charged for it is
lifted, and held until it succeeds again. Then all of it is charged, unless it fails on clearly more hosts than it
succeeds on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.health import FORGET_S, SUSPECT_AFTER, Failure
from billet.core.memory import remember

RECIPES = 1000  # recipes that are remembered


@dataclass(slots=True)
class Held:
    """The last failures of one recipe on one host: those that are held, and those that are charged to the host."""

    event: int = 0
    held: list[Failure] = field(default_factory=list)
    charged: list[Failure] = field(default_factory=list)


@dataclass(slots=True)
class Tried:
    """How one recipe has done lately. Each host is where its last attempt has ended."""

    succeeded: dict[str, None] = field(default_factory=dict)  # hosts
    failed: dict[str, Held] = field(default_factory=dict)  # by host
    since: set[str] = field(default_factory=set)  # hosts not charged on which it has failed since it succeeded last
    ever: bool = False  # it has succeeded
    recovered_s: float = -FORGET_S  # when it failed last on a host on which it has succeeded since

    @property
    def hosts_to_blame(self) -> bool:
        """Whether the hosts on which it fails are to blame, not the recipe."""
        return self.ever and len(self.since) <= 1 and len(self.failed) <= len(self.succeeded) + 1


class Charges(NamedTuple):
    """What follows from an attempt: failures to charge to hosts, and hosts from which those of it are lifted."""

    charged: tuple[tuple[str, Failure], ...] = ()
    lifted: tuple[str, ...] = ()
    recipe: str = ""


NOTHING = Charges()


class Blame:
    """Where recipes have succeeded and failed lately. A recipe is all of a spec that decides whether it boots."""

    def __init__(self, may_end: bool = False) -> None:
        """`may_end`: a failure may also be what its guest wanted, such as a VMM that has ended.

        So a recipe that fails on a host and then succeeds there, lately, is charged to nobody.
        """
        self._may_end = may_end
        self._tried: dict[str, Tried] = {}  # by recipe
        self._events = 0
        self._cleared: dict[str, int] = {}  # by host: the event since which nothing has succeeded there

    def failed(self, host_id: str, failure: Failure) -> Charges:
        """An attempt has failed on a host."""
        tried, held = self._of(failure.recipe), Held()
        known = tried.failed.pop(host_id, None)
        if known and known.event >= self._cleared.get(host_id, 0):
            held = known
        held.event = self._events
        held.held = [*held.held, failure][-SUSPECT_AFTER:]
        tried.failed[host_id] = held
        tried.succeeded.pop(host_id, None)
        if not held.charged:
            tried.since.add(host_id)
        if self._may_end and failure.at_s - tried.recovered_s < FORGET_S:
            return NOTHING
        return self._judged(failure.recipe, tried)

    def succeeded(self, host_id: str, recipe: str) -> Charges:
        """An attempt has succeeded on a host, so that nothing counts that is held against the host."""
        self._events += 1
        remember(self._cleared, host_id, self._events)
        if not recipe:
            return NOTHING
        tried = self._of(recipe)
        known = tried.failed.pop(host_id, None)
        if known and (failures := known.held or known.charged):
            tried.recovered_s = failures[-1].at_s
        tried.succeeded[host_id] = None
        tried.since.clear()
        tried.ever = True
        return self._judged(recipe, tried)

    def has_booted(self, host_id: str, recipe: str) -> bool:
        """Whether a host has booted this recipe when it tried last, so that it has the images."""
        tried = self._tried.get(recipe)
        return tried is not None and host_id in tried.succeeded

    def _judged(self, recipe: str, tried: Tried) -> Charges:
        if not tried.hosts_to_blame:
            lifted = tuple(host_id for host_id, known in tried.failed.items() if known.charged)
            for host_id in lifted:
                known = tried.failed[host_id]
                known.held, known.charged = [*known.charged, *known.held][-SUSPECT_AFTER:], []
            return Charges((), lifted, recipe)
        charged = []
        for host_id, known in tried.failed.items():
            if known.held and known.event >= self._cleared.get(host_id, 0):
                charged += [(host_id, failure) for failure in known.held]
                known.held, known.charged = [], [*known.charged, *known.held][-SUSPECT_AFTER:]
        return Charges(tuple(charged))

    def _of(self, recipe: str) -> Tried:
        tried = self._tried.pop(recipe, None) or Tried()
        remember(self._tried, recipe, tried, RECIPES)
        return tried
