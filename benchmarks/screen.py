"""Print the figures as a table and a chart."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.plan import Case, Figures, Report
from billet.show.marks import table as plain_table

WIDTH = 120  # characters that the table needs
PARTS = ("server", "etcd", "agents", "fakes", "client")
COLOURS = {"sqlite": "#3b7dd8", "etcd": "#e08a2e"}


def table(report: Report) -> Table:
    """A line for each case, fleet by fleet, and the floor's own lines at the end."""
    made = plain_table(
        "STORE", ">HOSTS", ">PLACED", ">AT ONCE", ">PER S", ">OF FLOOR", ">p50 ms", ">x FLOOR", ">p99 ms",
        *(f">{part.upper()}" for part in PARTS), title="Creates; from SERVER on: milliseconds of CPU for each",
    )  # fmt: skip
    for _, fleet in groupby(report.cases, key=lambda case: (case.hosts, case.placed, case.store)):
        for case in fleet:
            named = (case.store, str(case.hosts), str(case.placed), str(case.in_flight))
            made.add_row(*named, *numbers(case.billet, f"{case.rate_to_floor:.0%}", f"{case.p50_to_floor:.1f}"))
        made.add_section()
    for in_flight, floor in floors(report.cases).items():
        made.add_row("floor", "1", "", str(in_flight), *numbers(floor, "", ""), style="dim")
    return made


def markdown(report: Report) -> str:
    """The same table for a document."""
    made = table(report)
    made.box, made.title = MARKDOWN, None
    for row in made.rows:
        row.end_section = False
    console = Console(width=WIDTH, record=True, file=StringIO(), color_system=None)
    console.print(made)
    return console.export_text().strip() + "\n"


def numbers(figures: Figures, rate_to_floor: str, p50_to_floor: str) -> tuple[str, ...]:
    """The right part of a line."""
    used = [f"{figures.cpu_ms[part]:.2f}" if part in figures.cpu_ms else "" for part in PARTS]
    rate, p50, p99 = f"{figures.creates_per_s:.0f}", f"{figures.p50_ms:.1f}", f"{figures.p99_ms:.1f}"
    return rate, rate_to_floor, p50, p50_to_floor, p99, *used


def floors(cases: Sequence[Case]) -> dict[int, Figures]:
    """The floor by the number in flight: of all its figures beside the cases, those with the median rate."""
    by_count: dict[int, list[Figures]] = {}
    for case in cases:
        by_count.setdefault(case.in_flight, []).append(case.floor)
    return {
        count: sorted(found, key=lambda figures: figures.creates_per_s)[len(found) // 2]
        for count, found in by_count.items()
    }


def draw(report: Report, path: Path) -> None:
    """Rates above, median times below; a column for each number in flight, the floor as a line."""
    in_flight = list(dict.fromkeys(case.in_flight for case in report.cases))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "billet", "font.size": 9}):
        figure = Figure(figsize=(3.6 * len(in_flight) + 0.6, 5.6), layout="constrained")
        axes = figure.subplots(2, len(in_flight), squeeze=False)
        for column, count in enumerate(in_flight):
            cases = [case for case in report.cases if case.in_flight == count]
            _bars(axes[0][column], cases, "creates_per_s")
            _bars(axes[1][column], cases, "p50_ms")
            axes[0][column].set_title(f"{count} in flight")
            axes[1][column].set_xlabel("hosts (+ microVMs placed before)")
        axes[0][0].set_ylabel("creates per second")
        axes[1][0].set_ylabel("p50, milliseconds")
        axes[0][0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _bars(axes: Any, cases: list[Case], figure: str) -> None:
    """One bar for each fleet and store, its value above it."""
    fleets = list(dict.fromkeys((case.hosts, case.placed) for case in cases))
    stores = list(dict.fromkeys(case.store for case in cases))
    width = 0.8 / len(stores)
    for n, store in enumerate(stores):
        of_store = [case for case in cases if case.store == store]
        at = [fleets.index((case.hosts, case.placed)) + (n - (len(stores) - 1) / 2) * width for case in of_store]
        bars = axes.bar(
            at, [getattr(case.billet, figure) for case in of_store], width, color=COLOURS[store], label=store
        )
        axes.bar_label(bars, fmt="%.0f" if figure == "creates_per_s" else "%.1f", fontsize=7)
    (floor,) = floors(cases).values()
    axes.axhline(
        getattr(floor, figure),
        color="black",
        linewidth=1,
        linestyle="--",
        label="floor: one flintlockd, called directly",
    )
    axes.set_xticks(range(len(fleets)), [f"{hosts}\n+{placed}" if placed else str(hosts) for hosts, placed in fleets])
    axes.spines[["top", "right"]].set_visible(False)
