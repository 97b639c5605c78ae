"""Results of `billet simulate` and `billet replay` as rows of text, for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType

from billet.show.marks import table
from billet.whatif.bursts import Accuracy, Waits
from billet.whatif.simulation import SimulationResult, mean_balance, mean_refused


def columns(marks: Sequence[str]) -> list[str]:
    """Column headings of `rows`. Jain's index and "hosts used" are measured at the first mark."""
    at_marks = [f"{head} {mark}" for head in ("CoV", "fullest", "stranded vCPU", "stranded mem") for mark in marks]
    return ["rule", *at_marks, f"Jain {marks[0]}", f"hosts used {marks[0]}", "refused", "refused vCPU", "refused 16+"]


def rows(results: Mapping[str, Sequence[SimulationResult]], marks: Sequence[str]) -> list[list[str]]:
    """One row per rule: the means over the workloads."""
    table_rows = []
    for rule, of_rule in results.items():
        at = [mean_balance([result.marks[mark] for result in of_rule]) for mark in marks]
        refused = mean_refused([result.refused for result in of_rule])
        table_rows.append(
            [rule]
            + [f"{balance.cov:.3f}" for balance in at]
            + [f"{balance.fullest:.2f}" for balance in at]
            + [f"{balance.stranded_vcpu:.1%}" for balance in at]
            + [f"{balance.stranded_memory:.1%}" for balance in at]
            + [f"{at[0].jain:.3f}", f"{at[0].used:.0f}"]
            + ["-" if share is None else f"{share:.1%}" for share in refused]
        )
    return table_rows


def comparison_table(headings: Sequence[str], body: Sequence[Sequence[str]], width: int) -> RenderableType:
    """The comparison for a terminal. If it is too wide, it is split into several tables with a rule column each."""
    titles = [heading.replace(" ", "\n") for heading in headings]
    cells = [[title, *column] for title, column in zip(titles, zip(*body, strict=True), strict=True)]
    widths = [max(len(line) for cell in column for line in cell.split("\n")) + 2 for column in cells]
    parts: list[list[int]] = [[]]
    for column in range(1, len(headings)):
        if parts[-1] and widths[0] + sum(widths[n] for n in (*parts[-1], column)) > width:
            parts.append([])
        parts[-1].append(column)
    return Group(*(_part(titles, body, columns) for columns in parts))


def _part(titles: Sequence[str], body: Sequence[Sequence[str]], columns: Sequence[int]) -> RenderableType:
    part = table(titles[0], *(f">{titles[n]}" for n in columns))
    for n, row in enumerate(body):
        part.add_row(row[0], *(row[n] for n in columns), style="" if n else "bold")
    return part


class BurstRow(NamedTuple):
    """Results of one rule on bursts of one size; `creates` is the size."""

    rule: str
    creates: int
    waits: Waits
    cov: float
    accuracy: Accuracy | None


BURST_HEADINGS = (
    "rule",
    "creates",
    "p50 s",
    "p99 s",
    "last s",
    "refused",
    "CoV",
    "median error",
    "within bound (90 %)",
)


def bursts_rows(rows: Sequence[BurstRow]) -> list[list[str]]:
    """Rows for BURST_HEADINGS: seconds to CREATED, final CoV of the hosts, accuracy of the predicted seconds."""
    table_rows = []
    for rule, creates, waits, cov, accuracy in rows:
        errors = (f"{accuracy.error:.1%}", f"{accuracy.within:.1%}") if accuracy else ("-", "-")
        seconds = (f"{value:.2f}" for value in waits[:3])
        table_rows.append([rule, str(creates), *seconds, f"{waits.refused:.0f}", f"{cov:.3f}", *errors])
    return table_rows


def bursts_table(rows: Sequence[BurstRow]) -> RenderableType:
    """The table of bursts for a terminal."""
    headings = (">p50 s", ">p99 s", ">last s", ">refused", ">CoV", ">median\nerror", ">within\nbound\n(90 %)")
    bursts = table(">creates", "~rule", *headings)
    for rule, creates, *cells in bursts_rows(rows):
        bursts.add_row(creates, rule, *cells, style="bold" if rule.startswith("billet") else "")
    return bursts
