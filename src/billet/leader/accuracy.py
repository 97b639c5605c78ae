"""Measure how accurate bids are: compare what each winning bid predicted with what its host shows afterwards."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from billet.core.accuracy import WINDOW, Outcome, discount
from billet.core.auction import forecast_of
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.core.memory import remember
from billet.core.model import ZERO, Auction, Bid, Forecast, Host, HostView, VmState
from billet.core.report import InventoryUpdate, Report
from billet.core.scoring import utilisation
from billet.core.state import State
from billet.ports import Clock, HostsListener

log = structlog.get_logger()

KEPT = 500  # outcomes kept per host
SAY_EVERY_S = 60.0  # at most one line in the log per host and this time
TAKEN_UP = 10_000  # outcomes that a new leader loads for all hosts together; at least WINDOW for each


def taken_up(hosts: int) -> int:
    """How many outcomes a new leader loads per host: enough for a discount to survive a change of the leader."""
    return min(KEPT, max(WINDOW, TAKEN_UP // max(1, hosts)))


@dataclass(slots=True)
class Watch:
    """An award whose outcome is not known yet."""

    host: str
    forecast: Forecast
    understated: float  # utilisation by the ledger minus utilisation by the bid, when it was awarded
    at_s: float  # wall clock
    begun_s: float  # monotonic
    uid: str = ""
    took_s: float = 0.0  # from the award to CREATED


class AccuracyTracker:
    """Receives everything that hosts send, passes it on to `inner` (the reconciler), and scores their bids.

    An award is watched until its microVM is CREATED and its host has sent one more report. Awards of a host that
    disconnects meanwhile are not scored.
    """

    def __init__(self, state: State, clock: Clock, inner: HostsListener, keep: Callable[[Outcome], None]) -> None:
        self.outcomes: dict[str, deque[Outcome]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._state = state
        self._clock = clock
        self._inner = inner
        self._keep = keep
        self._watched: dict[str, Watch] = {}  # by token
        self._created: dict[str, list[Watch]] = defaultdict(list)  # by host: CREATED, not reported yet
        self._discounts: dict[str, Discount] = {}  # by host, of hosts whose bids are wrong
        self._said: dict[str, tuple[bool, float]] = {}  # by host: last logged as discounted, and when (monotonic)

    def restore(self, host_id: str, outcomes: Sequence[Outcome]) -> None:
        """Load a host's outcomes from earlier terms, oldest first."""
        if outcomes:
            self.outcomes[host_id].extend(outcomes)
        if (off := discount(outcomes)) != NO_DISCOUNT:
            self._discounts[host_id] = off
            self._said[host_id] = True, self._clock.monotonic_s() - SAY_EVERY_S  # by the leader before

    def all(self) -> list[tuple[str, list[Outcome], Discount]]:
        """Every host that has outcomes, by name: its outcomes, and the correction in force."""
        return [(host_id, list(kept), self._discounts.get(host_id, NO_DISCOUNT))
                for host_id, kept in sorted(self.outcomes.items())]  # fmt: skip

    def discounted(self, views: Mapping[str, HostView]) -> dict[str, HostView]:
        """The views, with the corrections for hosts whose bids are wrong."""
        off = self._discounts
        return {host_id: v._replace(discount=off[host_id]) if host_id in off else v for host_id, v in views.items()}

    def awarded(self, auction: Auction, bid: Bid, view: HostView) -> None:
        """Watch a bid that has won. `view` is the host in the ledger before the award."""
        forecast = forecast_of(bid, auction, view)
        understated = utilisation(view.allocatable, view.taken, auction.demand) - forecast.utilisation
        watch = Watch(bid.host, forecast, understated, self._clock.now_s(), self._clock.monotonic_s())
        remember(self._watched, auction.id, watch)

    # HostsListener.

    def joined(self, host: Host) -> None:
        """See HostsListener."""
        self._inner.joined(host)
        hosts = self._state.hosts
        removed = [] if host.id in hosts else [host.id]
        if len(self.outcomes) > len(hosts):  # or thousands of hosts that join together would cost seconds
            removed += self.outcomes.keys() - hosts.keys()
        for host_id in removed:
            self.outcomes.pop(host_id, None)
            self._discounts.pop(host_id, None)
            self._said.pop(host_id, None)

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """See HostsListener."""
        self._inner.observed(host_id, inventory)
        for row in inventory.seen:
            watch = self._watched.get(row.token) if row.token else None
            if watch is None or watch.host != host_id or (row.state is VmState.PENDING and not row.retry):
                continue  # a forecast is for the first boot; one that fails tells nothing about it
            del self._watched[row.token]
            if row.state is VmState.CREATED:
                watch.uid, watch.took_s = row.uid, self._clock.monotonic_s() - watch.begun_s
                self._created[host_id].append(watch)

    def reported(self, host_id: str, report: Report) -> None:
        """See HostsListener."""
        self._inner.reported(host_id, report)
        host, created = self._state.hosts.get(host_id), self._created.pop(host_id, [])
        if not created or host is None or not report.daemon_ok:
            return
        reported = utilisation(host.allocatable, report.taken, ZERO)
        # The prediction plus all changes since is what the ledger counts now, minus what the bid left out.
        least, most = self._utilisation_range(host)
        for watch in created:
            expected = min(max(reported, least - watch.understated), most - watch.understated)
            self._score(Outcome(host_id, watch.uid, watch.at_s, watch.forecast, watch.took_s, reported, expected))

    def _utilisation_range(self, host: Host) -> tuple[float, float]:
        """The host's utilisation by the ledger, without and with the placements that the host may count differently
        for a moment: orders that have not arrived yet, and deletes that the ledger has not heard of yet."""
        taken = self._state.taken.get(host.id, ZERO)
        firm = taken.minus(self._state.moving.get(host.id, ZERO))
        return utilisation(host.allocatable, firm, ZERO), utilisation(host.allocatable, taken, ZERO)

    def left(self, host_id: str) -> None:
        """See HostsListener."""
        self._inner.left(host_id)
        self._created.pop(host_id, None)
        for token in [token for token, watch in self._watched.items() if watch.host == host_id]:
            del self._watched[token]

    def _score(self, outcome: Outcome) -> None:
        kept = self.outcomes[outcome.host]
        kept.append(outcome)
        self._keep(outcome)
        now = discount(list(kept), self._discounts.pop(outcome.host, NO_DISCOUNT))
        if now != NO_DISCOUNT:
            self._discounts[outcome.host] = now
        self._say(outcome.host, now)

    def _say(self, host_id: str, now: Discount) -> None:
        """Log that a host's discount has begun or ended, at most once per SAY_EVERY_S."""
        wrong, now_s = now != NO_DISCOUNT, self._clock.monotonic_s()
        said, at_s = self._said.get(host_id, (False, now_s - SAY_EVERY_S))
        if wrong == said or now_s - at_s < SAY_EVERY_S:
            return
        self._said[host_id] = wrong, now_s
        if wrong:
            log.warning("bids discounted: they are wrong", host=host_id, **now._asdict())
        else:
            log.info("bids no longer discounted", host=host_id)
