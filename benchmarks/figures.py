"""Compute the figures of the report from runs. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.plan import Case, Figures, Fleet, Measured


def cases(fleet: Fleet, measured: Sequence[Measured]) -> list[Case]:
    """One case for each number in flight. Each run of Billet is compared with the floor's run just before it."""
    pairs = list(paired(measured))
    return [
        _case(fleet, in_flight, [pair for pair in pairs if pair[1].run.in_flight == in_flight])
        for in_flight in dict.fromkeys(billet.run.in_flight for _, billet in pairs)
    ]


def paired(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    """(floor, Billet) as they were run, one after the other."""
    for floor, billet in zip(measured[::2], measured[1::2], strict=True):
        assert (floor.run.target, billet.run.target) == ("floor", "billet")
        yield floor, billet


def _case(fleet: Fleet, in_flight: int, pairs: Sequence[tuple[Measured, Measured]]) -> Case:
    return Case(
        *fleet,
        in_flight=in_flight,
        creates=sum(billet.run.creates for _, billet in pairs),
        billet=figures([billet for _, billet in pairs]),
        floor=figures([floor for floor, _ in pairs]),
        rate_to_floor=median(rate(billet) / rate(floor) for floor, billet in pairs),
        p50_to_floor=median(median(billet.latencies_ms) / median(floor.latencies_ms) for floor, billet in pairs),
    )


def figures(runs: Sequence[Measured]) -> Figures:
    """What the repeats of one case come to."""
    return Figures(
        creates_per_s=median(rate(run) for run in runs),
        p50_ms=median(median(run.latencies_ms) for run in runs),
        p99_ms=percentile([latency_ms for run in runs for latency_ms in run.latencies_ms], 0.99),
        cpu_ms={part: median(run.cpu_s[part] * 1e3 / run.run.creates for run in runs) for part in runs[0].cpu_s},
    )


def rate(run: Measured) -> float:
    """Creates per second."""
    return run.run.creates / run.seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
