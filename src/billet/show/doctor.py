"""What `billet doctor` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from billet.core.plural import counted
from billet.show.marks import table

if TYPE_CHECKING:
    from billet.doctor.checks import Check

STYLES = {"ok": "green", "warning": "yellow", "FAILED": "red bold", "skipped": "dim"}


def failed(checks: Sequence[Check]) -> int:
    """How many have failed."""
    return sum(one.level == "FAILED" for one in checks)


def show_checks(screen: Console, checks: Sequence[Check]) -> None:
    """One line for each check, and below those that are not ok what to do."""
    result = table("~CHECK", "RESULT", "~FOUND")
    for one in checks:
        result.add_row(Text(one.name), Text(one.level, STYLES[one.level]), Text(one.found))
        if one.cure:
            result.add_row("", "", Text(f"-> {one.cure}"))
    screen.print(result)
    count = failed(checks)
    text = f"{counted(count, 'check')} failed." if count else "Nothing failed."
    screen.print(Text(text, STYLES["FAILED" if count else "ok"]))
