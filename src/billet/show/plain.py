"""The one way of text to a terminal: markup is text, and what cannot be printed is shown as "?".

Names, labels and errors come from clients and hosts. Raw, they could move the cursor, colour the rest, or add lines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


def plain(text: str, lines: bool = False) -> str:
    """The text with "?" for each character that cannot be printed. `lines`: its line breaks stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or (lines and char == "\n") else "?" for char in text)


class PlainConsole(Console):
    """A console to which everything is text. Line breaks stay, because sentences and reports have them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See Console, which renders each part of a whole, a table's cell for example, by this method."""
        if isinstance(renderable, str):
            renderable = Text(plain(renderable, lines=True))
        elif isinstance(renderable, Text):
            renderable = _plain(renderable, lines=True)
        return super().render(renderable, options)


class PlainTable(Table):
    """A table whose cells have one line each, so that no name looks like another row."""

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """See Table."""
        super().add_row(*map(_cell, cells), **settings)


def _cell(cell: RenderableType | None) -> RenderableType | None:
    if isinstance(cell, str):
        return Text(plain(cell))
    return _plain(cell) if isinstance(cell, Text) else cell


def _plain(text: Text, lines: bool = False) -> Text:
    if (cleaned := plain(text.plain, lines)) == text.plain:
        return text
    copy = text.copy()
    copy.plain = cleaned  # of the same length, so the styles stay where they are
    return copy
