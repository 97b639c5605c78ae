"""How the result of `billet store check` looks."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from billet.core.plural import counted
from billet.show.marks import duration, size


def check_table(report: dict[str, Any]) -> Table:
    """What was looked at, and below it what was found."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    table.add_row("engine", report["engine"])
    table.add_row("size", f"{size(report['size_bytes'])}, {size(report['used_bytes'])} of it in use")
    table.add_row("round trip", f"{duration(report['round_trip_ms'] / 1e3)}, the median of {report['round_trips']}")
    table.add_row("leader", report["leader"] or "nobody leads")
    table.add_row("revision", f"{report['revision']}, terms up to {report['term']}")
    table.add_row("records", f"{counted(report['hosts'], 'host')}, {counted(report['placements'], 'placement')}")
    for finding in report["findings"]:
        wrong = finding["wrong"]
        table.add_row(Text("wrong" if wrong else "note", "red" if wrong else "yellow"), finding["text"])
    if not report["findings"]:
        table.add_row(Text("sound", "green"), "nothing wrong was found")
    return table
