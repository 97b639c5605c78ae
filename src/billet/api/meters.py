"""What a server counts for Prometheus while it works. Everything else is read on a scrape."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator, Sequence

from prometheus_client import Counter, Histogram
from prometheus_client.registry import Collector

from billet.core.accuracy import Outcome
from billet.core.model import Placement, PlacementState
from billet.core.questions.record import AuctionRecord
from billet.core.state import Change, DropPlacement, PutPlacement
from billet.leader.leadership import Archive
from billet.leader.recorder import AuctionRecorder

LEG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BOOT_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
RATIO = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Meters:
    """The counters and histograms of one server's process. Only those of the leader move, commits included."""

    def __init__(self) -> None:
        self._creates = Counter(
            "billet_creates", "Creates that this server has led, by outcome", ["outcome"], registry=None
        )
        self._legs = Histogram(
            "billet_create_leg_seconds", "Time of each leg of a create", ["leg"], buckets=LEG_S, registry=None
        )
        self._refusals = Counter(
            "billet_refusals", "Hosts that did not take a microVM, by reason", ["reason"], registry=None
        )
        self._bids = Counter(
            "billet_bids", "Bids in a decision: fresh, or standing of a late or unasked host", ["kind"], registry=None
        )
        self._boots = Histogram(
            "billet_boot_seconds", "Time from the award to CREATED", buckets=BOOT_S, registry=None
        )
        self._ratio = Histogram(
            "billet_boot_prediction_ratio", "Actual over predicted seconds to CREATED", buckets=RATIO, registry=None
        )
        self._ends = Counter("billet_placements_ended", "Placements whose room is free again", registry=None)
        self._corrections = Counter(
            "billet_reconciler_changes", "Placements that were changed because hosts showed so", ["to"], registry=None
        )
        self._transactions = Histogram(
            "billet_store_transaction_seconds", "Time of a transaction of the store", buckets=LEG_S, registry=None
        )
        self._commits = Counter("billet_store_commits", "Commits, by outcome", ["outcome"], registry=None)
        self._leg = {leg: self._legs.labels(leg) for leg in ("bids", "reserve", "boot_order", "total")}
        self._fresh, self._standing = self._bids.labels("fresh"), self._bids.labels("standing")
        for outcome in ("created", "denied", "unplaced", "unknown", "cancelled", "failed"):
            self._creates.labels(outcome)  # so that a rate has a beginning
        for outcome in ("written", "failed"):
            self._commits.labels(outcome)

    @property
    def collectors(self) -> Iterator[Collector]:
        """All of them, for a registry."""
        yield from (self._creates, self._legs, self._refusals, self._bids, self._boots, self._ratio, self._ends)
        yield from (self._corrections, self._transactions, self._commits)

    def auction_ended(self, record: AuctionRecord) -> None:
        """Count an auction."""
        self._creates.labels(record.outcome or "failed").inc()
        for leg, took_ms in record.legs_ms.items():
            if meter := self._leg.get(leg):
                meter.observe(took_ms / 1e3)
        for attempt in record.attempts:
            standing = sum(bid.age_s > 0 for bid in attempt.bids)
            self._standing.inc(standing)
            self._fresh.inc(len(attempt.bids) - standing)
            for reason, count in Tally(refusal.reason.name for refusal in attempt.refusals).items():
                self._refusals.labels(reason.lower()).inc(count)

    def booted(self, outcome: Outcome) -> None:
        """Count a boot whose end the leader has seen."""
        self._boots.observe(outcome.took_s)
        if (ratio := outcome.ratio) is not None:
            self._ratio.observe(ratio)

    def ended(self) -> None:
        """Count the end of a placement."""
        self._ends.inc()

    def corrected(self, changes: Sequence[Change]) -> None:
        """Count what the reconciler has written."""
        for change in changes:
            if name := _correction(change):
                self._corrections.labels(name).inc()

    def transacted(self, took_s: float, commits: int, error: BaseException | None) -> None:
        """Count a transaction of the store (store.groupcommit.Heard)."""
        self._transactions.observe(took_s)
        self._commits.labels("failed" if error else "written").inc(commits)


def _correction(change: Change) -> str:
    """What a change makes of a placement; "" for one of a host."""
    match change:
        case PutPlacement(placement) if placement.adopted and placement.state is PlacementState.STARTED:
            return "adopted"
        case PutPlacement(placement):
            return placement.state.value.lower()
        case DropPlacement():
            return "dropped"
    return ""


class MeteredArchive:
    """leader.leadership.Archive that counts, and passes on to another."""

    def __init__(self, inner: Archive, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters
        self.outcomes = inner.outcomes

    def add_auction(self, recorder: AuctionRecorder) -> None:
        """See Archive."""
        self._meters.auction_ended(recorder.record)
        self._inner.add_auction(recorder)

    def add_end(self, placement: Placement, at_s: float) -> None:
        """See Archive."""
        self._meters.ended()
        self._inner.add_end(placement, at_s)

    def add_outcome(self, outcome: Outcome) -> None:
        """See Archive."""
        self._meters.booted(outcome)
        self._inner.add_outcome(outcome)
