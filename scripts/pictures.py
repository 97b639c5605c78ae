"""Creates the README's pictures, docs/img/*.svg, from a run of the demo. Run it with the checkout's Python:

.venv/bin/python scripts/pictures.py
"""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from billet.demo import walkthrough
from billet.demo.cluster import BootTimes

FOLDER = Path(__file__).parents[1] / "docs" / "img"
WIDTH = 88


def main() -> None:
    """Run the demo with the defaults of `billet demo`, and cut its output into the parts of the pictures."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    walkthrough.Console = lambda **_: console  # type: ignore[attr-defined,assignment]  # records its output
    boots = BootTimes(0.3, 0.5, 0.2, 1)
    walkthrough.run_demo(walkthrough.DemoSettings(5, 1, "sqlite", 60, 10.0, 1, boots, keep=False, json=False))
    lines = console.export_text(styles=True).splitlines()
    explained, static, compared, ended = (
        next(n for n, line in enumerate(lines) if words in line)
        for words in ("One auction explained", "static list (crc32", "Comparison", "has removed everything")
    )
    draw("demo", "billet demo", [*lines[:explained], *lines[compared:ended]])
    draw("explain", "billet explain", lines[explained + 2 : static])


def draw(name: str, title: str, lines: list[str]) -> None:
    """Write docs/img/NAME.svg: a picture of these lines in a terminal."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text.from_ansi("\n".join(lines).strip("\n")), soft_wrap=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(FOLDER / f"{name}.svg"), title=title)


if __name__ == "__main__":
    main()
