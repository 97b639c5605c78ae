"""The documentation as the tests read it: its pages, their fenced blocks, and the commands in these blocks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
)
COMMANDS = "sh"  # the language of a block of commands
NOT_COMMANDS = {"text", "csv", "json", "toml", "mermaid"}
OLD_NAMES = "## Old and new names"  # a section of CONTRIBUTING.md about files that are no longer there


class Block(NamedTuple):
    """A fenced block: its page, its language, and its text without the fences."""

    page: Path
    language: str
    text: str


class Command(NamedTuple):
    """A command of a page: `text` on one line without its comment, `raw` as a shell can run it."""

    page: Path
    text: str
    raw: str


def prose(page: Path) -> str:
    """A page without its fenced blocks and without the section about old names."""
    text = (ROOT / page).read_text().partition(OLD_NAMES)[0]
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found = re.findall(r"^```([a-z]*)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [Block(page, language, text) for language, text in found]


def commands(page: Path) -> Iterator[Command]:
    """The commands of a page, in order. Continued lines are joined; a here-document belongs to its command."""
    for block in blocks(page):
        if block.language != COMMANDS:
            continue
        lines = iter(block.text.splitlines())
        for line in lines:
            whole = line
            while whole.endswith("\\"):
                whole = whole[:-1] + next(lines)
            text = " ".join(re.sub(r"(^|\s)#.*", "", whole).split())
            if not text:
                continue
            raw = [whole]
            if end := re.search(r"<<'(\w+)'", whole):
                raw.append(next(lines))
                while raw[-1] != end[1]:
                    raw.append(next(lines))
            yield Command(page, text, "\n".join(raw))


def retry_policy() -> dict[str, Any]:
    """The service config that docs/compatibility.md tells clients to set."""
    config: dict[str, Any] = next(
        json.loads(block.text) for block in blocks(Path("docs/compatibility.md")) if block.language == "json"
    )
    return config
