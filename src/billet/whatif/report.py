"""What `billet simulate` writes as a file: one HTML page that needs nothing else, neither network nor scripts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from billet.whatif.charts import COLOURS, Line, bands, curves
from billet.whatif.run import Result

STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .7em; text-align: right }
th { border-bottom: 2px solid #ccc } td:first-child, th:first-child { text-align: left }
tr.ours { font-weight: bold } svg { max-width: 100%; height: auto; margin: .4em }
.key span { display: inline-block; width: 1.2em; height: .8em; margin: 0 .3em 0 1em }
"""


def page(
    sections: Sequence[tuple[str, list[Result]]],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    command: str = "billet simulate",
    said: str = "",
    notes: Sequence[str] = (),
) -> str:
    """The report of a command: the table, then the charts of each workload. `rows` begin with the rule's title.

    `said` is what the workloads are, `notes` what was assumed.
    """
    names = [row[0] for row in rows]
    said = said or f"Workloads: {', '.join(name for name, _ in sections)}. Means over all of them."
    body = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(command)}</title>",
        f"<style>{STYLE}</style><h1>{escape(command)}</h1>",
        f"<p>{escape(said)} Lower is better, but for Jain's index, whose best is 1. The words are explained in"
        " docs/scheduling.md.</p>",
        _table(columns, rows),
        *([f"<p>Assumed: {escape('; '.join(notes))}.</p>"] if notes else []),
        _key(names),
    ]
    for name, results in sections:
        body.append(f"<h2>{escape(name)}</h2>")
        body += pictures(results).values()
    return "\n".join(body)


def pictures(results: Sequence[Result]) -> dict[str, str]:
    """The charts of one workload, by name: load for each rule, and the rules beside each other."""
    made = {"cov": _over_time("CoV of the dominant shares", results, "cov", y_most=0.6, percent=False)}
    made["stranded-vcpu"] = _over_time("Stranded vCPU, share of the fleet", results, "stranded_vcpu")
    made["stranded-memory"] = _over_time("Stranded memory, share of the fleet", results, "stranded_memory")
    refusals = [Line(r.rule, [(s.event, s.refusals) for s in r.samples]) for r in results]
    made["refused"] = curves("MicroVMs refused so far", refusals, percent=False)
    for n, result in enumerate(results):
        x = [sample.event for sample in result.samples]
        shares = [sample.shares for sample in result.samples]
        made[f"load-{n}"] = bands(f"Load of the hosts: {result.rule}", x, shares, COLOURS[n % len(COLOURS)])
    return made


def _over_time(
    title: str, results: Sequence[Result], part: str, y_most: float | None = None, percent: bool = True
) -> str:
    lines = [Line(r.rule, [(s.event, getattr(s.balance, part)) for s in r.samples]) for r in results]
    return curves(title, lines, y_most, percent)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def parts() -> Iterator[str]:
        yield "<table><tr>" + "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr>"
        for n, row in enumerate(rows):
            yield f"<tr{'' if n else ' class=ours'}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        yield "</table>"

    return "".join(parts())


def _key(names: Sequence[str]) -> str:
    marks = (
        f'<span style="background:{COLOURS[n % len(COLOURS)]}"></span>{escape(name)}' for n, name in enumerate(names)
    )
    return f"<p class=key>{''.join(marks)}</p>"
