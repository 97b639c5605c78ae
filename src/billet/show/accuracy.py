"""Bids held against what came, as a table with a row for each host, and a chart of how they err."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from billet.core.accuracy import LATE, WINDOW, Errors, Outcome, discount, errors
from billet.core.model import NO_DISCOUNT
from billet.show.marks import table
from billet.show.tables import natural

STEPS = (0.5, 0.75, 0.9, 1.0, 1.1, LATE, 1.5, 2.0)  # of taken over foretold: where a bar of the chart ends
WIDTH = 40


def accuracy(outcomes: Sequence[Outcome]) -> RenderableType:
    """The whole answer."""
    of: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        of.setdefault(outcome.host, []).append(outcome)
    parts: list[RenderableType] = [_table(of)]
    ratios = [outcome.ratio for outcome in outcomes if outcome.ratio is not None]
    if ratios:
        parts += [Text("seconds to CREATED, taken / foretold", style="bold"), *chart(ratios), Text("")]
    wrong = {host: off for host, kept in of.items() if (off := discount(kept)) != NO_DISCOUNT}
    for host, off in wrong.items():
        line = Text(f"{host}'s bids are wrong", style="yellow")
        if off.delay > 1:
            line.append(f"; the seconds that it foretells count {off.delay:.2f} times")
        if off.utilisation:
            line.append(f"; its score is raised by {off.utilisation:.3f}")
        parts.append(line.append(f", until its last {WINDOW} microVMs say otherwise."))
    if not wrong:
        parts.append(Text("No host's bids are wrong enough to be discounted."))
    return Group(*parts)


def _table(of: Mapping[str, Sequence[Outcome]]) -> RenderableType:
    made = table(
        "~HOST", ">VMs", ">TIMES\nTOLD", ">TAKEN /\nTOLD", ">MEDIAN\nERROR", ">WITHIN\n90 %\nBOUND",
        ">FULLER\nTHAN\nTOLD", ">WORST", ">DISCOUNT",
    )  # fmt: skip
    everything = [outcome for kept in of.values() for outcome in kept]
    for host in sorted(of, key=natural):
        off = discount(of[host])
        said = "-" if off == NO_DISCOUNT else f"x {off.delay:.2f} +{off.utilisation:.3f}"
        made.add_row(Text(host, style="bold"), *_cells(errors(of[host])), said)
    if len(of) > 1:
        made.add_row(Text("all"), *_cells(errors(everything)), "", style="dim")
    return made


def _cells(found: Errors | None) -> list[str]:
    assert found  # a host is only there with outcomes
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


def chart(ratios: Sequence[float]) -> list[Text]:
    """How many of the ratios lie between one step and the next, as bars."""
    counts = [0] * (len(STEPS) + 1)
    for ratio in ratios:
        counts[sum(ratio > step for step in STEPS)] += 1
    most = max(counts)
    ends = [f"to {step:g}" for step in STEPS] + [f"over {STEPS[-1]:g}"]
    return [
        Text(f"  {end:>9} ").append("█" * round(count / most * WIDTH), style="green").append(f" {count}")
        for end, count in zip(ends, counts, strict=True)
    ]
