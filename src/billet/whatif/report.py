"""The HTML report of `billet simulate`: one self-contained page, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from billet.whatif.charts import COLOURS, Line, bands, curves
from billet.whatif.simulation import SimulationResult

CURVE_POINTS = 200  # maximum of one curve
LOWER = "Lower is better, except for Jain's index, whose best value is 1."

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 1180px; padding: 0 1em; color: #222 }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 1em 0; font-size: 13px }
td, th { padding: .3em .45em; text-align: right } th { border-bottom: 2px solid #ccc }
td:first-child, th:first-child { text-align: left }
tr.ours { font-weight: bold } svg { max-width: 100%; height: auto; margin: .4em }
.key span { display: inline-block; margin-right: 1em }
.key i { display: inline-block; width: 1.2em; height: .8em; margin-right: .3em }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #16191d } th { border-color: #555 }
  svg > rect { fill: #16191d } svg > text { fill: #ddd } svg > path { stroke: #3a3f45 }
  svg > polyline, svg > polygon, .key i { filter: brightness(1.5) }
}
"""


def page(
    sections: Sequence[tuple[str, Iterable[str]]],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    said: str,
    command: str = "billet simulate",
    notes: Sequence[str] = (),
) -> str:
    """The report of a command: a table, then the charts of each section. Each of `rows` begins with the rule's title.

    `said`: description of the input; `notes`: assumptions.
    """
    names = list(dict.fromkeys(row[0] for row in rows))
    body = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(command)}</title>",
        '<meta name=viewport content="width=device-width">',
        f"<style>{STYLE}</style><h1>{escape(command)}</h1>",
        f"<p>{escape(said)} The words are explained in docs/scheduling.md.</p>",
        _table(columns, rows),
        *([f"<p>Assumed: {escape('; '.join(notes))}.</p>"] if notes else []),
        _key(names),
    ]
    for name, charts in sections:
        body.append(f"<h2>{escape(name)}</h2>")
        body += charts
    return "\n".join(body)


def pictures(results: Sequence[SimulationResult]) -> dict[str, str]:
    """The charts of one workload, by name: comparisons of all rules, and the load under each rule."""
    uneven = "CoV of the dominant shares (0.6 and more at the top)"
    made = {"cov": _over_time(uneven, results, "cov", y_most=0.6, percent=False)}
    made["stranded-vcpu"] = _over_time("Stranded vCPU, share of the fleet", results, "stranded_vcpu")
    made["stranded-memory"] = _over_time("Stranded memory, share of the fleet", results, "stranded_memory")
    refusals = [Line(r.rule, [(s.event, s.refusals) for s in r.samples]) for r in results]
    made["refused"] = curves("MicroVMs refused so far", refusals, percent=False)
    for n, result in enumerate(results):
        x = [sample.event for sample in result.samples]
        shares = [sample.shares for sample in result.samples]
        made[f"load-{n}"] = bands(
            f"Load of the hosts (dominant share): {result.rule}", x, shares, COLOURS[n % len(COLOURS)]
        )
    return made


def waited(took_s: Sequence[tuple[str, Sequence[float]]]) -> str:
    """The chart of a burst: for each rule, the share of microVMs that are CREATED within x seconds."""
    lines = []
    for rule, times in took_s:
        row = sorted(times)
        ranks = sorted({round(n * (len(row) - 1) / CURVE_POINTS) for n in range(CURVE_POINTS + 1)})
        lines.append(Line(rule, [(0.0, 0.0), *((row[n], (n + 1) / len(row)) for n in ranks)] if row else []))
    return curves("MicroVMs that are CREATED", lines, y_most=1.0, across="seconds since their create")


def _over_time(
    title: str, results: Sequence[SimulationResult], part: str, y_most: float | None = None, percent: bool = True
) -> str:
    lines = [Line(r.rule, [(s.event, getattr(s.balance, part)) for s in r.samples]) for r in results]
    return curves(title, lines, y_most, percent)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def parts() -> Iterator[str]:
        yield "<div class=wide><table><tr>" + "".join(f"<th>{escape(column)}</th>" for column in columns) + "</tr>"
        for n, row in enumerate(rows):
            yield f"<tr{'' if n else ' class=ours'}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        yield "</table></div>"

    return "".join(parts())


def _key(names: Sequence[str]) -> str:
    marks = (
        f'<span><i style="background:{COLOURS[n % len(COLOURS)]}"></i>{escape(name)}</span>'
        for n, name in enumerate(names)
    )
    return f"<p class=key>{' '.join(marks)}</p>"
