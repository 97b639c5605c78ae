"""Print the figures as tables and a chart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.figures import FEW
from benchmarks.plan import OTHER, REST, Auctions, Case, Figures, Report
from billet.show.marks import table as plain_table

WIDTH = 160  # characters that the tables need
PARTS = ("server", "etcd", "agents", "fakes", "client")
FLEET = ("STORE", ">HOSTS", ">PLACED", ">AT ONCE")
LEGS = {"bids": "BIDS", "reserve": "RESERVE", "boot_order": "ORDER", REST: "REST"}
COLOURS = {"sqlite": "#3b7dd8", "etcd": "#e08a2e"}
LINES = ("--", ":", "-.")  # of the other targets, in the order of the table


def tables(report: Report) -> Iterator[Table]:
    """What the clients have seen, and below it what Billet says of the same creates."""
    yield creates_table(report.cases)
    yield auctions_table(report.cases)


def creates_table(cases: Sequence[Case]) -> Table:
    """A line for each case, fleet by fleet, and the lines of the other targets at the end."""
    others = list(cases[0].beside)
    rates, p50s = [f">OF {name}" for name in others], [f">x {name}" for name in others]
    made = plain_table(
        *FLEET, ">PER S", *rates, ">p50 ms", *p50s, ">p99 ms", *(f">{part.upper()}" for part in PARTS),
        title="Creates; from SERVER on: milliseconds of CPU for each",
    )  # fmt: skip
    for case in in_sections(made, cases):
        rates = [f"{beside.rate_ratio:.0%}" for beside in case.beside.values()]
        p50s = [f"{beside.p50_ratio:.1f}" for beside in case.beside.values()]
        made.add_row(*fleet(case), *numbers(case.billet, rates, p50s))
    blank = [""] * len(others)
    for name in others:
        for in_flight, figures in typical(cases, name).items():
            made.add_row(name, "", "", str(in_flight), *numbers(figures, blank, blank), style="dim")
    return made


def auctions_table(cases: Sequence[Case]) -> Table:
    """A line for each case: how even the hosts are, how much each decision knew, and where the time went."""
    legs = [leg for leg in LEGS if any(leg in case.auctions.legs_ms for case in cases)]
    made = plain_table(
        *FLEET, ">FAILED", ">VMS/HOST", ">CoV", f">BELOW {FEW} BIDS", ">AGE p50 ms", ">AGE p99 ms",
        *(f">{LEGS[leg]}" for leg in legs),
        title=f"Auctions; from {LEGS[legs[0]]} on: milliseconds of each create",
    )  # fmt: skip
    for case in in_sections(made, cases):
        made.add_row(
            *fleet(case),
            str(case.failed),
            *knowledge(case.auctions),
            *(f"{case.auctions.legs_ms[leg]:.1f}" for leg in legs),
        )
    return made


def in_sections(made: Table, cases: Iterable[Case]) -> Iterator[Case]:
    """All cases, with a line below each fleet."""
    for _, of_fleet in groupby(cases, key=lambda case: (case.hosts, case.placed, case.store)):
        yield from of_fleet
        made.add_section()


def fleet(case: Case) -> tuple[str, ...]:
    """The left part of a line."""
    return case.store, str(case.hosts), str(case.placed), str(case.in_flight)


def numbers(figures: Figures, rates: Sequence[str], p50s: Sequence[str]) -> tuple[str, ...]:
    """The right part of a line, with the ratios to the other targets."""
    used = [f"{figures.cpu_ms[part]:.2f}" if part in figures.cpu_ms else "" for part in PARTS]
    rate, p50, p99 = f"{figures.creates_per_s:.0f}", f"{figures.p50_ms:.1f}", f"{figures.p99_ms:.1f}"
    return rate, *rates, p50, *p50s, p99, *used


def knowledge(auctions: Auctions) -> tuple[str, ...]:
    """The middle of a line."""
    spread = f"{auctions.least}-{auctions.most}", f"{auctions.cov:.3f}"
    return *spread, f"{auctions.few_bids_share:.1%}", f"{auctions.age_p50_ms:.0f}", f"{auctions.age_p99_ms:.0f}"


def typical(cases: Sequence[Case], name: str) -> dict[int, Figures]:
    """Another target by the number in flight: of its figures beside all cases, those with the median rate."""
    by_count: dict[int, list[Figures]] = {}
    for case in cases:
        by_count.setdefault(case.in_flight, []).append(case.beside[name].figures)
    return {
        count: sorted(found, key=lambda figures: figures.creates_per_s)[len(found) // 2]
        for count, found in by_count.items()
    }


def markdown(report: Report) -> str:
    """The same tables for a document."""
    pages = []
    for made in tables(report):
        made.box, made.title = MARKDOWN, None
        for row in made.rows:
            row.end_section = False
        console = Console(width=WIDTH, record=True, file=StringIO(), color_system=None)
        console.print(made)
        pages.append(console.export_text().strip())
    return "\n\n".join(pages) + "\n"


def draw(report: Report, path: Path) -> None:
    """Rates above, median times below; a column for each number in flight, the other targets as lines."""
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
    for name, line in zip(cases[0].beside, LINES, strict=False):
        (figures,) = typical(cases, name).values()
        label = name if name == OTHER else f"one flintlockd on {name}, called directly"
        axes.axhline(getattr(figures, figure), color="black", linewidth=1, linestyle=line, label=label)
    axes.set_xticks(range(len(fleets)), [f"{hosts}\n+{placed}" if placed else str(hosts) for hosts, placed in fleets])
    axes.spines[["top", "right"]].set_visible(False)
