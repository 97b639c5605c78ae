"""The hosts' memories of what has failed on them, and which hosts are without orders because of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import structlog

from billet.core.corrections import NO_TROUBLE, Trouble
from billet.core.health import Failure, Health, most_refusing, trouble, worst
from billet.core.shortlist import LAST
from billet.ports import Clock

log = structlog.get_logger()


class Memories:
    """A memory for each host that has failed since it succeeded last. All changes of one are made here.

    Auctions ask often and memories change seldom, so what follows from them is kept until one changes.
    """

    def __init__(self, clock: Clock, share: float, connected: Collection[str]) -> None:
        """`share`: most of the connected hosts that may be without orders at once."""
        self._clock = clock
        self._share = share
        self._connected = connected
        self._health: dict[str, Health] = {}
        self._worst: frozenset[str] = frozenset()
        self._refusing: frozenset[str] = frozenset()
        self._surcharges: dict[str, float] = {}
        self._until_s = -math.inf  # until when these three hold

    def get(self, host_id: str) -> Health | None:
        """The memory of one host, to be read only."""
        return self._health.get(host_id)

    # What follows.

    def refusing(self) -> frozenset[str]:
        """The hosts that get no order now."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._until_s:
            self._look(now_s)
        return self._refusing

    def surcharges(self) -> Mapping[str, float]:
        """What is added to the prices of hosts that are chosen among; LAST for those that get no order now."""
        self.refusing()
        return self._surcharges

    def _look(self, now_s: float) -> None:
        self._health = {host_id: health for host_id, health in self._health.items() if not health.forgotten(now_s)}
        here = {host_id: health for host_id, health in self._health.items() if host_id in self._connected}
        self._worst = frozenset(worst(here, most_refusing(len(self._connected), self._share)))
        self._refusing = frozenset(host_id for host_id in self._worst if here[host_id].refuses(now_s))
        penalties = {host_id: trouble(one, self._worst, host_id, now_s).penalty for host_id, one in here.items()}
        self._surcharges = {host_id: LAST if host_id in self._refusing else penalties[host_id] for host_id in here}
        self._until_s = min((health.changes_s(now_s) for health in self._health.values()), default=math.inf)

    def suspects(self, host_id: str) -> bool:
        """Whether a host is suspect."""
        self.refusing()
        health = self._health.get(host_id)
        return health is not None and health.suspect and host_id in self._worst

    def why(self, host_id: str) -> str:
        """Why a host gets no order, for any client: no names."""
        return self._health[host_id].why(self._clock.monotonic_s())

    def trouble(self, host_id: str, in_full: bool = False) -> Trouble:
        """What is added to a host's score now, and why. `in_full`: for operators, with the last failure's text."""
        self.refusing()
        health, now_s = self._health.get(host_id), self._clock.monotonic_s()
        if health is None:
            return NO_TROUBLE
        found = trouble(health, self._worst, host_id, now_s)
        return Trouble(found.penalty, health.why(now_s, in_full=True)) if in_full else found

    # What changes them.

    def fleet_changed(self) -> None:
        """A host has come or gone."""
        self._until_s = -math.inf

    def failed(self, host_id: str, failure: Failure, ordered_s: float) -> None:
        """Something has failed on a host."""
        health = self._health.setdefault(host_id, Health())
        before = health.suspect
        health.failed(failure, ordered_s)
        self._until_s = -math.inf
        if health.suspect and not before:
            log.warning("host is suspect", host=host_id, why=health.why(self._clock.monotonic_s(), in_full=True))

    def cleared(self, host_id: str, clear: Callable[..., None], *what: float | str) -> None:
        """Drop failures from a host's memory, and the memory if none is left."""
        if health := self._health.get(host_id):
            clear(health, *what)
            self._until_s = -math.inf
            if not health.failures:
                del self._health[host_id]
                log.info("host has recovered", host=host_id)

    def takes(self, host_id: str, order: str) -> None:
        """A host gets an order."""
        if health := self._health.get(host_id):
            health.takes(order, self._clock.monotonic_s())
            self._until_s = -math.inf

    def ended(self, host_id: str, order: str) -> None:
        """An order is no longer in hand."""
        if health := self._health.get(host_id):
            health.ended(order)
            self._until_s = -math.inf

    def confirmed(self, host_id: str) -> None:
        """What has failed on a host still fails."""
        if health := self._health.get(host_id):
            health.confirmed_s = self._clock.monotonic_s()
