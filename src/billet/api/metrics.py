"""Metrics for Prometheus: how well the hosts' bids foretell, as the leader sees it. A follower has none of them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from billet.core.accuracy import discount, errors
from billet.leader.leadership import Leadership

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
BY = ["host"]


class AccuracyMetrics(Collector):
    """Worked out when it is asked for, from what the auditor keeps."""

    def __init__(self, leadership: Leadership | None) -> None:
        self._leadership = leadership

    def collect(self) -> Iterator[Metric]:
        """One row for each host whose bids were held against what came."""
        outcomes = GaugeMetricFamily("billet_bid_outcomes", "Bids held against what came, of those kept", labels=BY)
        ratio = GaugeMetricFamily("billet_bid_seconds_ratio", "Median of taken over foretold seconds", labels=BY)
        error = GaugeMetricFamily("billet_bid_seconds_error", "Median distance of that from 1", labels=BY)
        within = GaugeMetricFamily("billet_bid_within_bound", "Share within the bound, to be 0.9", labels=BY)
        low = GaugeMetricFamily("billet_bid_understated", "Mean of understated utilisation, 0 to 1", labels=BY)
        delay = GaugeMetricFamily("billet_bid_discount_delay", "Its seconds are multiplied by this", labels=BY)
        share = GaugeMetricFamily("billet_bid_discount_utilisation", "Its score is raised by this", labels=BY)
        for host_id, kept in sorted(self._leadership.accuracy.outcomes.items()) if self._leadership else ():
            found, off = errors(list(kept)), discount(list(kept))
            if found is None:
                continue
            for family, value in (
                (outcomes, found.outcomes), (ratio, found.ratio), (error, found.error), (within, found.within),
                (low, found.understated), (delay, off.delay), (share, off.utilisation),
            ):  # fmt: skip
                if value is not None:
                    family.add_metric([host_id], value)
        yield from (outcomes, ratio, error, within, low, delay, share)


def exposition(leadership: Leadership | None) -> bytes:
    """All of it, as Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(AccuracyMetrics(leadership))
    return generate_latest(registry)
