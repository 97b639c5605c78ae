"""The page of Prometheus metrics; and of these: creates that wait, certificates, accuracy of predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from billet.core.accuracy import errors
from billet.leader.create_slots import CreateSlots
from billet.leader.leadership import Leadership
from billet.reloading import validities

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
BY = ["host"]
AT = ["at"]


class AccuracyMetrics(Collector):
    """Computes the metrics on each scrape from the outcomes that the leader keeps."""

    def __init__(self, leadership: Leadership | None) -> None:
        self._leadership = leadership

    def collect(self) -> Iterator[Metric]:
        """One sample per host that has outcomes, for each metric."""
        outcomes = GaugeMetricFamily(
            "billet_bid_outcomes", "Number of bids compared with the actual result", labels=BY
        )
        ratio = GaugeMetricFamily(
            "billet_bid_seconds_ratio", "Median of actual over predicted seconds to CREATED", labels=BY
        )
        error = GaugeMetricFamily(
            "billet_bid_seconds_error", "Median distance of actual over predicted seconds from 1", labels=BY
        )
        within = GaugeMetricFamily(
            "billet_bid_within_bound", "Share of boots within the predicted bound; 0.9 is ideal", labels=BY
        )
        low = GaugeMetricFamily(
            "billet_bid_understated", "Mean of reported minus predicted utilisation, 0 to 1", labels=BY
        )
        delay = GaugeMetricFamily(
            "billet_bid_discount_delay", "Correction: factor applied to the predicted seconds", labels=BY
        )
        share = GaugeMetricFamily(
            "billet_bid_discount_utilisation", "Correction: amount added to the score", labels=BY
        )
        tracker = self._leadership.accuracy if self._leadership else None
        for host_id, kept, off in tracker.all() if tracker else ():
            found = errors(kept)
            if found is None:
                continue
            for family, value in (
                (outcomes, found.outcomes), (ratio, found.ratio), (error, found.error), (within, found.within),
                (low, found.understated), (delay, off.delay), (share, off.utilisation),
            ):  # fmt: skip
                if value is not None:
                    family.add_metric([host_id], value)
        yield from (outcomes, ratio, error, within, low, delay, share)


class CreateMetrics(Collector):
    """Creates in work and waiting: those that this server's clients make, and those that the leader carries out."""

    def __init__(self, slots: Mapping[str, CreateSlots]) -> None:
        self._slots = slots

    def collect(self) -> Iterator[Metric]:
        """One sample for each of them, for each metric."""
        in_work = GaugeMetricFamily("billet_creates_in_work", "Creates that have a slot", labels=AT)
        waiting = GaugeMetricFamily("billet_creates_waiting", "Creates that wait for a slot", labels=AT)
        held = GaugeMetricFamily("billet_creates_held_bytes", "Memory that creates count for", labels=AT)
        refused = CounterMetricFamily("billet_creates_refused", "Creates refused for overload", labels=AT)
        for at, slots in self._slots.items():
            queue = slots.queue
            for family, value in (
                (in_work, queue.in_work), (waiting, queue.waiting), (held, queue.held_bytes), (refused, slots.refused)
            ):  # fmt: skip
                family.add_metric([at], value)
        yield from (in_work, waiting, held, refused)


class CertificateMetrics(Collector):
    """Until when this server's certificates are valid."""

    def collect(self) -> Iterator[Metric]:
        """One sample for each file."""
        family = GaugeMetricFamily(
            "billet_certificate_not_after_seconds",
            "When a certificate expires, in seconds since 1970",
            labels=["file"],
        )
        for path, valid in sorted(validities().items()):
            family.add_metric([path], valid.ends_s)
        yield family


class CredentialMetrics(Collector):
    """How current the credentials are that this server goes by."""

    def __init__(self, age_s: float | None) -> None:
        self._age_s = age_s

    def collect(self) -> Iterator[Metric]:
        """One sample, once they have been read."""
        family = GaugeMetricFamily(
            "billet_credentials_age_seconds", "Time since this server has read the credentials from the store"
        )
        if self._age_s is not None:
            family.add_metric([], self._age_s)
        yield family


def exposition(
    leadership: Leadership | None,
    credentials_age_s: float | None = None,
    passing: CreateSlots | None = None,
    others: Iterable[Collector] = (),
) -> bytes:
    """The metrics in Prometheus' text format.

    `credentials_age_s` None = they were not read yet. `passing`: the creates that this server passes to the leader.
    `others` are those of the server and of the fleet (server_metrics.py, meters.py).
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    for collector in others:
        registry.register(collector)
    registry.register(AccuracyMetrics(leadership))
    slots = {"server": passing, "leader": leadership.slots if leadership else None}
    registry.register(CreateMetrics({at: one for at, one in slots.items() if one}))
    registry.register(CertificateMetrics())
    registry.register(CredentialMetrics(credentials_age_s))
    return generate_latest(registry)
