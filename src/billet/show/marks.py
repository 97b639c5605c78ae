"""The smallest pieces of a picture: bars, amounts, ages, tables of one look."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

EIGHTHS = " ▏▎▍▌▋▊▉"
STATE_STYLES = {
    "READY": "green", "AWAY": "red", "DAEMON_DOWN": "red", "CORDONED": "yellow",
    "FENCED": "magenta", "UNREACHABLE": "red",
    "CREATED": "green", "STARTED": "green", "PENDING": "cyan", "RESERVED": "cyan",
    "FAILED": "red", "LOST": "red", "DELETING": "dim", "RELEASING": "dim",
}  # fmt: skip


def bar(share: float, width: int = 16) -> Text:
    """A share of one host, 0 = idle to 1 = full, as a bar with its percentage; above 1 it turns red."""
    filled = min(max(share, 0.0), 1.0) * width
    whole, eighth = int(filled), int(filled % 1 * 8)
    blocks = ("█" * whole + (EIGHTHS[eighth] if eighth else "")).ljust(width)
    text = Text(blocks, style=f"{share_colour(share)} on grey19")
    text.append(f" {share * 100:3.0f}%", style="red bold" if share > 1 else "default on default")
    return text


def share_colour(share: float) -> str:
    """Green while there is room, yellow when it gets tight, red when there is none."""
    if share > 1:
        return "red"
    return "yellow" if share > 0.85 else "green"


def gib(mib: float) -> str:
    """Memory or disk as a person says it: GiB with one decimal, none when it is a whole number."""
    return f"{mib / 1024:.1f}".removesuffix(".0")


def state(name: str) -> Text:
    """A state's name in its colour."""
    return Text(name, style=STATE_STYLES.get(name, "default"))


def age(seconds: float) -> str:
    """How long ago, in the largest unit that is not zero."""
    if seconds < 0:
        return "-"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """A measured time with three digits or so: 1.2 s, 340 ms, 85 µs."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 1e-3 or seconds == 0 else f"{seconds * 1e6:.0f} µs"


def size(count_bytes: int) -> str:
    """The size of a file: 12.3 MB, 49 kB."""
    return f"{count_bytes / 1e6:.1f} MB" if count_bytes >= 1e6 else f"{count_bytes / 1e3:.0f} kB"


def table(*columns: str, title: str = "") -> Table:
    """A table without frames. A title that begins with ">" is of a column flush right, one with "~" of a
    column that is folded where the terminal is too narrow."""
    made = Table(
        box=SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        made.add_column(
            column.lstrip(">~"),
            justify="right" if column.startswith(">") else "left",
            header_style="bold dim",
            no_wrap=not column.startswith("~"),
            overflow="fold",
        )
    return made
