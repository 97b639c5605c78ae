"""Whose fault a failed boot is: the host's, or that of what was to boot there.

A client must not be able to take hosts out. A microVM whose image does not exist, or whose kernel has another file
name, fails on every host. So a failed boot is charged to the host only where the same recipe has booted elsewhere,
or where a recipe of another namespace fails as well that fails nowhere else. A recipe that fails on a second host,
without having booted since, is at fault itself, and what was charged for it before is lifted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.health import Failure
from billet.core.memory import remember

RECIPES = 1000  # recipes that are remembered


class Attempt(NamedTuple):
    """A failed boot that is charged to nobody yet."""

    namespace: str
    failure: Failure


@dataclass(slots=True)
class Tried:
    """Where one recipe has booted, and where it has failed since it booted last."""

    booted: dict[str, None] = field(default_factory=dict)  # hosts
    failed: dict[str, None] = field(default_factory=dict)


class Charges(NamedTuple):
    """What follows from a boot: failures to charge to hosts, and hosts from which those of the recipe are lifted."""

    charged: tuple[tuple[str, Failure], ...] = ()
    lifted: tuple[str, ...] = ()
    recipe: str = ""


NOTHING = Charges()


class Blame:
    """Where recipes have booted and failed lately. A recipe is everything in a spec that decides whether it boots."""

    def __init__(self) -> None:
        self._tried: dict[str, Tried] = {}  # by recipe
        self._held: dict[str, dict[str, Attempt]] = {}  # by host and recipe: charged to nobody yet

    def failed(self, host_id: str, namespace: str, failure: Failure) -> Charges:
        """A boot has failed on a host."""
        recipe = failure.recipe
        tried = self._of(recipe)
        tried.failed[host_id] = None
        if len(tried.failed) > 1:
            for other in tried.failed:
                self._held.get(other, {}).pop(recipe, None)
            return Charges(lifted=tuple(tried.failed), recipe=recipe)
        if tried.booted.keys() - {host_id}:
            return Charges(((host_id, failure),))
        held = self._held.setdefault(host_id, {})
        others = [attempt for attempt in held.values() if attempt.namespace != namespace]
        if not others:
            held[recipe] = Attempt(namespace, failure)
            return NOTHING
        del self._held[host_id]
        return Charges(tuple((host_id, attempt.failure) for attempt in (*others, Attempt(namespace, failure))))

    def booted(self, host_id: str, recipe: str) -> Charges:
        """A microVM has booted on a host. If its recipe has failed on one other host only, that host is to blame."""
        self.cleared(host_id)
        if not recipe:
            return NOTHING
        tried = self._of(recipe)
        held = [(other, attempt.failure) for other in tried.failed if other != host_id
                if (attempt := self._held.get(other, {}).pop(recipe, None))]  # fmt: skip
        charged = tuple(held) if len(tried.failed) == 1 else ()
        tried.failed.clear()
        tried.booted[host_id] = None
        return Charges(charged)

    def cleared(self, host_id: str) -> None:
        """A host boots, or is gone: nothing that is held against it counts."""
        self._held.pop(host_id, None)

    def has_booted(self, host_id: str, recipe: str) -> bool:
        """Whether a host has booted this recipe before, so that it has the images."""
        tried = self._tried.get(recipe)
        return tried is not None and host_id in tried.booted

    def _of(self, recipe: str) -> Tried:
        tried = self._tried.pop(recipe, None) or Tried()
        remember(self._tried, recipe, tried, RECIPES)
        return tried
