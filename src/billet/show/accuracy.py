"""Predicted vs actual results of bids: a table with a row per host, and a histogram of the errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from billet.core.accuracy import LATE, WINDOW, Errors, Outcome, errors
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.show.marks import table
from billet.show.tables import natural

STEPS = (0.5, 0.75, 0.9, 1.0, 1.1, LATE, 1.5, 2.0)  # upper ends of the bars, actual / predicted seconds
WIDTH = 40  # characters of the longest bar


def accuracy_report(outcomes: Sequence[Outcome], corrections: Mapping[str, Discount]) -> RenderableType:
    """The output of `billet accuracy`: table, histogram and the hosts whose bids are corrected.

    `corrections` are those in force, by host. They cannot be worked out from the outcomes: where a correction ends
    depends on whether it was in force.
    """
    by_host: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_host.setdefault(outcome.host, []).append(outcome)
    corrected = {host: found for host in by_host if (found := corrections.get(host, NO_DISCOUNT)) != NO_DISCOUNT}
    parts: list[RenderableType] = [_table(by_host, corrected)]
    ratios = [outcome.ratio for outcome in outcomes if outcome.ratio is not None]
    if ratios:
        parts += [Text("seconds to CREATED, actual / predicted", style="bold"), *histogram(ratios), Text("")]
    for host, correction in corrected.items():
        line = Text(f"{host}'s predictions are wrong", style="yellow")
        if correction.delay > 1:
            line.append(f"; its predicted seconds are multiplied by {correction.delay:.2f}")
        if correction.utilisation:
            line.append(f"; its score is raised by {correction.utilisation:.3f}")
        parts.append(line.append(f", until its last {WINDOW} microVMs were predicted well."))
    if not corrected:
        parts.append(Text("No host's bids need a correction."))
    return Group(*parts)


def _table(by_host: Mapping[str, Sequence[Outcome]], corrected: Mapping[str, Discount]) -> RenderableType:
    hosts = table(
        "~HOST", ">VMs", ">WITH\nFORECAST", ">ACTUAL /\nFORECAST", ">MEDIAN\nERROR", ">WITHIN\n90 %\nBOUND",
        ">UTIL.\nERROR", ">WORST\nUTIL.\nERROR", ">CORRECTION",
    )  # fmt: skip
    everything = [outcome for kept in by_host.values() for outcome in kept]
    for host in sorted(by_host, key=natural):
        found = corrected.get(host)
        correction = f"x {found.delay:.2f} +{found.utilisation:.3f}" if found else "-"
        hosts.add_row(Text(host, style="bold"), *_cells(errors(by_host[host])), correction)
    if len(by_host) > 1:
        hosts.add_row(Text("all"), *_cells(errors(everything)), "", style="dim")
    return hosts


def _cells(found: Errors | None) -> list[str]:
    assert found  # a host is listed only if it has outcomes
    return [
        str(found.outcomes),
        str(found.boots),
        _number(found.ratio, ".2f"),
        _number(found.error, ".1%"),
        _number(found.within, ".1%"),
        f"{found.understated:+.2%}",
        f"{found.worst:.2%}",
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def histogram(ratios: Sequence[float]) -> list[Text]:
    """One bar per step: how many of the ratios lie between it and the step before."""
    counts = [0] * (len(STEPS) + 1)
    for ratio in ratios:
        counts[sum(ratio > step for step in STEPS)] += 1
    most = max(counts)
    ends = [f"to {step:g}" for step in STEPS] + [f"over {STEPS[-1]:g}"]
    return [
        Text(f"  {end:>9} ").append("█" * round(count / most * WIDTH), style="green").append(f" {count}")
        for end, count in zip(ends, counts, strict=True)
    ]
