"""Draws the README's pictures, docs/img/*.svg, from a real run of the demo. Run it with the checkout's Python.

.venv/bin/python scripts/pictures.py
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from billet.demo import walkthrough as walkthrough
from billet.demo.cluster import BootTimes

FOLDER = Path(__file__).parents[1] / "docs" / "img"
WIDTH = 88


def main() -> None:
    """Run the demo as `billet demo` does by default, and cut its output where a new part begins."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    walkthrough.Console = lambda **_: console  # type: ignore[attr-defined,assignment]  # remembers what it printed
    walkthrough.tell(
        walkthrough.Settings(5, 1, "sqlite", 60, 10.0, 1, BootTimes(0.3, 0.5, 0.2, 1), keep=False, json=False)
    )
    lines = console.export_text(styles=True).splitlines()
    explained, static, beside, ended = (
        next(n for n, line in enumerate(lines) if words in line)
        for words in ("One auction explained", "static list (crc32", "Beside each other", "All of it is gone again")
    )
    draw("demo", "billet demo", [*lines[:explained], *lines[beside:ended]])
    draw("explain", "billet explain", lines[explained + 2 : static])


def draw(name: str, title: str, lines: list[str]) -> None:
    """Write one picture of these lines, as a terminal shows them."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(lines).strip("\n")), soft_wrap=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(FOLDER / f"{name}.svg"), title=title)


if __name__ == "__main__":
    main()
