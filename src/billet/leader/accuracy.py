"""The leader's third ear: what bids foretold is held against what their hosts show."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from billet.core.accuracy import WINDOW, Outcome, discount
from billet.core.auction import forecast_of
from billet.core.memory import remember
from billet.core.model import (
    NO_DISCOUNT,
    ZERO,
    Auction,
    Bid,
    Discount,
    Forecast,
    Host,
    HostView,
    VmState,
)
from billet.core.scoring import utilisation
from billet.core.state import State
from billet.ports import Clock, HostsListener, InventoryUpdate, Report

log = structlog.get_logger()

KEPT = 500  # outcomes of each host
TAKEN_UP = 10_000  # of all hosts, at the beginning of a reign, and at least WINDOW of each


def taken_up(hosts: int) -> int:
    """How many outcomes of each host a new leader takes up: enough that a discount outlives the leader before."""
    return min(KEPT, max(WINDOW, TAKEN_UP // max(1, hosts)))


@dataclass(slots=True)
class Watch:
    """An award whose outcome is waited for."""

    host: str
    forecast: Forecast
    untold: float  # by how much the bid itself said less than the utilisation that the ledger counts
    at_s: float  # wall clock
    begun_s: float  # monotonic
    uid: str = ""
    took_s: float = 0.0


class AccuracyTracker:
    """Hears all that the hosts say, and passes it on to `inner`.

    An award is watched until its microVM is CREATED and its host has reported after that. What happens to a host
    while it is not connected is not seen, and so not judged.
    """

    def __init__(self, state: State, clock: Clock, inner: HostsListener, keep: Callable[[Outcome], None]) -> None:
        self.outcomes: dict[str, deque[Outcome]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._state = state
        self._clock = clock
        self._inner = inner
        self._keep = keep
        self._watched: dict[str, Watch] = {}  # by token
        self._created: dict[str, list[Watch]] = defaultdict(list)  # by host: what its next report is waited for
        self._discounts: dict[str, Discount] = {}  # of the hosts that have one

    def restore(self, host_id: str, outcomes: Sequence[Outcome]) -> None:
        """Take up what was seen of a host before this reign, the oldest first."""
        if outcomes:
            self.outcomes[host_id].extend(outcomes)
        if (off := discount(outcomes)) != NO_DISCOUNT:
            self._discounts[host_id] = off

    def discounted(self, views: Mapping[str, HostView]) -> dict[str, HostView]:
        """The views with what their hosts' bids are corrected by."""
        off = self._discounts
        return {host_id: v._replace(discount=off[host_id]) if host_id in off else v for host_id, v in views.items()}

    def awarded(self, auction: Auction, bid: Bid, view: HostView) -> None:
        """A bid has won. `view` is what the ledger counted, without the microVM."""
        forecast = forecast_of(bid, auction, view)
        untold = utilisation(view.allocatable, view.taken, auction.demand) - forecast.utilisation
        watch = Watch(bid.host, forecast, untold, self._clock.now_s(), self._clock.monotonic_s())
        remember(self._watched, auction.id, watch)

    # HostsListener.

    def joined(self, host: Host) -> None:
        """See HostsListener."""
        self._inner.joined(host)
        for host_id in self.outcomes.keys() - self._state.hosts.keys():  # removed: names of hosts come and go
            del self.outcomes[host_id]
            self._discounts.pop(host_id, None)

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """See HostsListener."""
        self._inner.observed(host_id, inventory)
        for row in inventory.seen:
            watch = self._watched.get(row.token) if row.token else None
            if watch is None or watch.host != host_id or row.state is VmState.PENDING:
                continue
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
        # What was foretold, and what the ledger has moved since, come to what it counts now, but for what was untold.
        least, most = self._counted(host)
        for watch in created:
            expected = min(max(reported, least - watch.untold), most - watch.untold)
            self._judge(Outcome(host_id, watch.uid, watch.at_s, watch.forecast, watch.took_s, reported, expected))

    def _counted(self, host: Host) -> tuple[float, float]:
        """How full the ledger says that a host is, without and with what the two may count differently for a moment:
        orders that are on their way there, and deletes that have been carried out and not been heard of."""
        taken = self._state.taken.get(host.id, ZERO)
        firm = taken.minus(self._state.moving.get(host.id, ZERO))
        return utilisation(host.allocatable, firm, ZERO), utilisation(host.allocatable, taken, ZERO)

    def left(self, host_id: str) -> None:
        """See HostsListener."""
        self._inner.left(host_id)
        self._created.pop(host_id, None)
        for token in [token for token, watch in self._watched.items() if watch.host == host_id]:
            del self._watched[token]

    def _judge(self, outcome: Outcome) -> None:
        kept = self.outcomes[outcome.host]
        kept.append(outcome)
        self._keep(outcome)
        before, now = self._discounts.pop(outcome.host, NO_DISCOUNT), discount(list(kept))
        if now != NO_DISCOUNT:
            self._discounts[outcome.host] = now
        if now != NO_DISCOUNT and before == NO_DISCOUNT:
            log.warning("this host's bids are wrong, and count for less", host=outcome.host, **now._asdict())
        elif now == NO_DISCOUNT and before != NO_DISCOUNT:
            log.info("this host's bids are right again", host=outcome.host)
