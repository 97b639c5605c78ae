"""Renders the result of `billet store check`."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from billet.core.plural import counted
from billet.show.marks import duration, size


def check_table(report: dict[str, Any]) -> Table:
    """The store's properties, and below them the findings."""
    rows = Table(show_header=False, box=None, pad_edge=False)
    rows.add_column(style="dim")
    rows.add_column()
    rows.add_row("engine", report["engine"])
    rows.add_row("size", f"{size(report['size_bytes'])}, {size(report['used_bytes'])} of it in use")
    rows.add_row("round trip", f"{duration(report['round_trip_ms'] / 1e3)}, median of {report['round_trips']}")
    rows.add_row("leader", report["leader"] or "none")
    rows.add_row("revision", f"{report['revision']}, terms up to {report['term']}")
    rows.add_row("records", f"{counted(report['hosts'], 'host')}, {counted(report['placements'], 'placement')}")
    for finding in report["findings"]:
        wrong = finding["wrong"]
        rows.add_row(Text("problem" if wrong else "note", "red" if wrong else "yellow"), finding["text"])
    if not report["findings"]:
        rows.add_row(Text("ok", "green"), "no problems found")
    return rows
