"""What a server counts for Prometheus while it works. Everything else is read on a scrape.

Plain numbers, for which families are made on a scrape: prometheus_client's counters lock, and cost a create 70 µs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from billet.core.accuracy import Outcome
from billet.core.model import Placement, PlacementState
from billet.core.questions.record import AuctionRecord
from billet.core.state import Change, DropPlacement, PutPlacement
from billet.leader.archive import Archive
from billet.leader.recorder import AuctionRecorder

LEG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BOOT_S = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
RATIO = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
LEGS = ("bids", "reserve", "boot_order", "total")
OUTCOMES = ("created", "denied", "unplaced", "unknown", "cancelled", "failed")


class Distribution:
    """A histogram: how many values are at most each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def put(self, family: HistogramMetricFamily, *labels: str) -> None:
        """Add it to a family."""
        buckets = zip((*map(str, self._bounds), "+Inf"), accumulate(self._counts), strict=True)
        family.add_metric(labels, list(buckets), self._sum)


class Meters(Collector):
    """The counters and histograms of one server's process. Only those of the leader move, commits included."""

    def __init__(self) -> None:
        self._creates = Counter(dict.fromkeys(OUTCOMES, 0))  # all of them, so that a rate has a beginning
        self._legs = {leg: Distribution(LEG_S) for leg in LEGS}
        self._refusals: Counter[str] = Counter()
        self._bids = Counter(fresh=0, standing=0)
        self._boots, self._ratio = Distribution(BOOT_S), Distribution(RATIO)
        self._ends = 0
        self._corrections: Counter[str] = Counter()
        self._transactions = Distribution(LEG_S)
        self._commits = Counter(written=0, failed=0)

    def auction_ended(self, record: AuctionRecord) -> None:
        """Count an auction."""
        self._creates[record.outcome or "failed"] += 1
        for leg, took_ms in record.legs_ms.items():
            if leg in self._legs:
                self._legs[leg].observe(took_ms / 1e3)
        for attempt in record.attempts:
            standing = sum([bid.age_s > 0 for bid in attempt.bids])
            self._bids["standing"] += standing
            self._bids["fresh"] += len(attempt.bids) - standing
            for refusal in attempt.refusals:
                self._refusals[refusal.reason.name] += 1

    def booted(self, outcome: Outcome) -> None:
        """Count a boot whose end the leader has seen."""
        self._boots.observe(outcome.took_s)
        if (ratio := outcome.ratio) is not None:
            self._ratio.observe(ratio)

    def ended(self) -> None:
        """Count the end of a placement."""
        self._ends += 1

    def corrected(self, changes: Sequence[Change]) -> None:
        """Count what the reconciler has written."""
        for change in changes:
            if name := _correction(change):
                self._corrections[name] += 1

    def transacted(self, took_s: float, commits: int, error: BaseException | None) -> None:
        """Count a transaction of the store (store.groupcommit.Heard)."""
        self._transactions.observe(took_s)
        self._commits["failed" if error else "written"] += commits

    def collect(self) -> Iterator[Metric]:
        """See Collector. In a thread beside the event loop."""
        refusals = {reason.lower(): count for reason, count in self._refusals.copy().items()}
        yield counter("billet_creates", "Creates that this server has led", self._creates, "outcome")
        yield counter("billet_refusals", "Hosts that did not take a microVM", refusals, "reason")
        yield counter(
            "billet_bids", "Bids in a decision: fresh, or standing of a late or unasked host", self._bids, "kind"
        )
        yield counter("billet_reconciler_changes", "Placements changed because hosts showed so",
                      self._corrections, "to")  # fmt: skip
        yield counter("billet_store_commits", "Commits by outcome", self._commits, "outcome")
        yield CounterMetricFamily("billet_placements_ended", "Placements whose room is free again", self._ends)
        legs = HistogramMetricFamily("billet_create_leg_seconds", "Time of each leg of a create", labels=["leg"])
        for leg, times in self._legs.items():
            times.put(legs, leg)
        yield legs
        for name, text, values in (
            ("billet_boot_seconds", "Time from the award to CREATED", self._boots),
            ("billet_boot_prediction_ratio", "Actual over predicted seconds to CREATED", self._ratio),
            ("billet_store_transaction_seconds", "Time of a transaction of the store", self._transactions),
        ):
            family = HistogramMetricFamily(name, text, labels=[])
            values.put(family)
            yield family


def counter(name: str, text: str, counts: Mapping[str, int], label: str) -> CounterMetricFamily:
    """A family of counters with one label."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in list(counts.items()):
        family.add_metric([value], count)
    return family


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
    """leader.archive.Archive that counts, and passes on to another."""

    def __init__(self, inner: Archive, meters: Meters) -> None:
        self._inner = inner
        self._meters = meters
        self.outcomes = inner.outcomes
        self.add_event = inner.add_event
        self.events = inner.events

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
