"""The outcome of `billet simulate` as rows of text, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType

from billet.show.marks import table
from billet.whatif.bursts import Accuracy, Waits
from billet.whatif.simulation import SimulationResult, mean_balance, mean_refused


def columns(marks: Sequence[str]) -> list[str]:
    """The heads of `rows`. Jain's index and the hosts used are of the first mark."""
    at_marks = [f"{head} {mark}" for head in ("CoV", "fullest", "stranded vCPU", "stranded mem") for mark in marks]
    return ["rule", *at_marks, f"Jain {marks[0]}", f"hosts used {marks[0]}", "refused", "refused vCPU", "refused 16+"]


def rows(results: Mapping[str, Sequence[SimulationResult]], marks: Sequence[str]) -> list[list[str]]:
    """One row for each rule: the means over its workloads."""
    made = []
    for rule, of_rule in results.items():
        at = [mean_balance([result.marks[mark] for result in of_rule]) for mark in marks]
        refused = mean_refused([result.refused for result in of_rule])
        made.append(
            [rule]
            + [f"{balance.cov:.3f}" for balance in at]
            + [f"{balance.fullest:.2f}" for balance in at]
            + [f"{balance.stranded_vcpu:.1%}" for balance in at]
            + [f"{balance.stranded_memory:.1%}" for balance in at]
            + [f"{at[0].jain:.3f}", f"{at[0].used:.0f}"]
            + ["-" if share is None else f"{share:.1%}" for share in refused]
        )
    return made


def compared(heads: Sequence[str], body: Sequence[Sequence[str]], width: int) -> RenderableType:
    """The table for a terminal; several beneath each other, each with the rules, where one would be too wide."""
    titles = [head.replace(" ", "\n") for head in heads]
    cells = [[title, *column] for title, column in zip(titles, zip(*body, strict=True), strict=True)]
    widths = [max(len(line) for cell in column for line in cell.split("\n")) + 2 for column in cells]
    parts: list[list[int]] = [[]]
    for column in range(1, len(heads)):
        if parts[-1] and widths[0] + sum(widths[n] for n in (*parts[-1], column)) > width:
            parts.append([])
        parts[-1].append(column)
    return Group(*(_part(titles, body, columns) for columns in parts))


def _part(titles: Sequence[str], body: Sequence[Sequence[str]], columns: Sequence[int]) -> RenderableType:
    made = table(titles[0], *(f">{titles[n]}" for n in columns))
    for n, row in enumerate(body):
        made.add_row(row[0], *(row[n] for n in columns), style="" if n else "bold")
    return made


class Burst(NamedTuple):
    """One rule on bursts of one size."""

    rule: str
    creates: int
    waits: Waits
    cov: float
    accuracy: Accuracy | None


BURST_HEADS = ("rule", "creates", "p50 s", "p99 s", "last s", "refused", "CoV", "median error", "within bound (90 %)")


def bursts_rows(rows: Sequence[Burst]) -> list[list[str]]:
    """Under BURST_HEADS: seconds to CREATED, how uneven the hosts are then, how well bids foretold the seconds."""
    made = []
    for rule, creates, waits, cov, told in rows:
        forecast = (f"{told.error:.1%}", f"{told.within:.1%}") if told else ("-", "-")
        seconds = (f"{value:.2f}" for value in waits[:3])
        made.append([rule, str(creates), *seconds, f"{waits.refused:.0f}", f"{cov:.3f}", *forecast])
    return made


def bursts_table(rows: Sequence[Burst]) -> RenderableType:
    """The same for a terminal."""
    heads = (">p50 s", ">p99 s", ">last s", ">refused", ">CoV", ">median\nerror", ">within\nbound\n(90 %)")
    made = table(">creates", "~rule", *heads)
    for rule, creates, *cells in bursts_rows(rows):
        made.add_row(creates, rule, *cells, style="bold" if rule.startswith("billet") else "")
    return made
