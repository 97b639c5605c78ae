"""The outcome of `billet simulate` as rows of text, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from billet.show.marks import table
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
