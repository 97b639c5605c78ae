"""The outcome of `billet simulate` as rows of text, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import RenderableType

from billet.show.marks import table
from billet.whatif.bursts import Accuracy, Waits
from billet.whatif.run import Result, mean_balance, mean_refused


def columns(marks: Sequence[str]) -> list[str]:
    """The heads of `rows`."""
    at_marks = [f"{head} {mark}" for head in ("CoV", "fullest", "stranded vCPU", "stranded mem") for mark in marks]
    return ["rule", *at_marks, "Jain", "hosts used", "refused", "refused vCPU", "refused 16+"]


def rows(results: Mapping[str, Sequence[Result]], marks: Sequence[str]) -> list[list[str]]:
    """One row for each rule: the means over its workloads. Jain's index and the hosts used are of the first mark."""
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
            + [f"{share:.1%}" for share in refused]
        )
    return made


def compared(heads: Sequence[str], body: Sequence[Sequence[str]]) -> RenderableType:
    """The table for a terminal."""
    made = table(*(("" if n == 0 else ">") + head.replace(" ", "\n") for n, head in enumerate(heads)))
    for n, row in enumerate(body):
        made.add_row(*row, style="" if n else "bold")
    return made


class Burst(NamedTuple):
    """One rule on bursts of one size."""

    rule: str
    creates: int
    waits: Waits
    accuracy: Accuracy | None


def bursts_table(rows: Sequence[Burst]) -> RenderableType:
    """Seconds to CREATED, and how well bids foretold them."""
    made = table(
        ">creates", "rule", ">p50 s", ">p99 s", ">last s", ">refused", ">median error", ">within\nthe 90 % bound"
    )
    for rule, creates, waits, told in rows:
        foretold = (f"{told.error:.1%}", f"{told.within:.1%}") if told else ("-", "-")
        seconds = (f"{value:.2f}" for value in waits[:3])
        style = "bold" if rule.startswith("billet") else ""
        made.add_row(str(creates), rule, *seconds, f"{waits.refused:.0f}", *foretold, style=style)
    return made
