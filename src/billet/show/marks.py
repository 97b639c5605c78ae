"""Formatting of single values for the terminal (bars, amounts, ages), and the table style."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from billet.show.plain import PlainTable

EIGHTHS = " ▏▎▍▌▋▊▉"
STATE_STYLES = {
    "READY": "green", "AWAY": "red", "DAEMON_DOWN": "red", "CORDONED": "yellow", "SUSPECT": "yellow",
    "FENCED": "magenta", "UNREACHABLE": "red", "REFUSED": "red", "LATER_TERM": "yellow",
    "CREATED": "green", "STARTED": "green", "PENDING": "cyan", "RESERVED": "cyan",
    "FAILED": "red", "LOST": "red", "DELETING": "dim", "RELEASING": "dim",
}  # fmt: skip


def bar(share: float, width: int = 16) -> Text:
    """A utilisation (0 = idle, 1 = full) as a bar with its percentage; red above 1."""
    filled = min(max(share, 0.0), 1.0) * width
    whole, eighth = int(filled), int(filled % 1 * 8)
    blocks = ("█" * whole + (EIGHTHS[eighth] if eighth else "")).ljust(width)
    text = Text(blocks, style=f"{share_colour(share)} on grey19")
    text.append(f" {share * 100:3.0f}%", style="red bold" if share > 1 else "default on default")
    return text


def share_colour(share: float) -> str:
    """Green up to 85 %, yellow up to 100 %, red above."""
    if share > 1:
        return "red"
    return "yellow" if share > 0.85 else "green"


def gib(mib: float) -> str:
    """MiB as GiB with one decimal, or none for a whole number."""
    return f"{mib / 1024:.1f}".removesuffix(".0")


def state(name: str) -> Text:
    """A state's name in its colour."""
    return Text(name, style=STATE_STYLES.get(name, "default"))


def age(seconds: float) -> str:
    """An age in its largest unit that is not zero: 3 d, 5 min."""
    if seconds < 0:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """A duration: 1.2 s, 340 ms, 85 µs."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 1e-3 or seconds == 0 else f"{seconds * 1e6:.0f} µs"


def size(count_bytes: int) -> str:
    """Bytes as 12.3 MB or 49 kB."""
    return f"{count_bytes / 1e6:.1f} MB" if count_bytes >= 1e6 else f"{count_bytes / 1e3:.0f} kB"


def table(*columns: str, title: str = "") -> Table:
    """A table without frames. ">" before a column's title aligns it right; "~" lets it fold on a narrow terminal."""
    frameless = PlainTable(
        box=SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        frameless.add_column(
            column.lstrip(">~"),
            justify="right" if column.startswith(">") else "left",
            header_style="bold dim",
            no_wrap=not column.startswith("~"),
            overflow="fold",
        )
    return frameless
