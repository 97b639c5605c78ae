"""Compute the figures of the report from runs. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, median, pstdev

from benchmarks.plan import BILLET, Auctions, Beside, Case, Figures, Fleet, Measured, Seen

FEW = 3  # an auction with fewer bids had hardly a choice

Round = dict[str, Measured]  # by target


def cases(fleet: Fleet, measured: Sequence[Measured]) -> list[Case]:
    """One case for each number in flight. Each run of Billet is compared with the runs right beside it."""
    found = list(rounds(measured))
    return [
        _case(fleet, in_flight, [one for one in found if one[BILLET].load.in_flight == in_flight])
        for in_flight in dict.fromkeys(one[BILLET].load.in_flight for one in found)
    ]


def rounds(measured: Sequence[Measured]) -> Iterator[Round]:
    """The runs of one load against every target, one after the other."""
    targets = len({run.target for run in measured})
    for n in range(0, len(measured), targets):
        found = {run.target: run for run in measured[n : n + targets]}
        assert len(found) == targets
        yield found


def _case(fleet: Fleet, in_flight: int, found: Sequence[Round]) -> Case:
    ours = [one[BILLET] for one in found]
    return Case(
        *fleet,
        in_flight=in_flight,
        creates=sum(run.load.creates for run in ours),
        failed=sum(run.failed for run in ours),
        billet=figures(ours),
        auctions=auctions([run.seen for run in ours if run.seen]),
        beside={name: _beside(name, found) for name in found[0] if name != BILLET},
    )


def _beside(name: str, found: Sequence[Round]) -> Beside:
    pairs = [(one[BILLET], one[name]) for one in found]
    return Beside(
        figures([theirs for _, theirs in pairs]),
        rate_ratio=median(rate(ours) / rate(theirs) for ours, theirs in pairs),
        p50_ratio=median(median(ours.latencies_ms) / median(theirs.latencies_ms) for ours, theirs in pairs),
    )


def figures(runs: Sequence[Measured]) -> Figures:
    """What the repeats of one case come to."""
    return Figures(
        creates_per_s=median(rate(run) for run in runs),
        p50_ms=median(median(run.latencies_ms) for run in runs),
        p99_ms=percentile([latency_ms for run in runs for latency_ms in run.latencies_ms], 0.99),
        cpu_ms={part: median(run.cpu_s[part] * 1e3 / run.load.creates for run in runs) for part in runs[0].cpu_s},
    )


def auctions(seen: Sequence[Seen]) -> Auctions:
    """How the repeats of one case were placed. The spread is that of the run that was worst."""
    worst = max(reversed(seen), key=lambda run: cov(run.vms)).vms
    decided = [ages_ms for run in seen for ages_ms in run.ages_ms]
    ages_ms = [age_ms for of_auction in decided for age_ms in of_auction]
    return Auctions(
        least=min(worst),
        most=max(worst),
        cov=cov(worst),
        few_bids_share=fmean(len(of_auction) < FEW for of_auction in decided),
        age_p50_ms=percentile(ages_ms, 0.5),
        age_p99_ms=percentile(ages_ms, 0.99),
        legs_ms={leg: median(ms for run in seen for ms in run.legs_ms[leg]) for leg in seen[0].legs_ms},
    )


def cov(counts: Sequence[int]) -> float:
    """Coefficient of variation: 0 = all equal."""
    return pstdev(counts) / fmean(counts)


def rate(run: Measured) -> float:
    """Creates per second."""
    return run.load.creates / run.seconds


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
