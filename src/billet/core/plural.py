"""Numbers with nouns, for texts that people read."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 host, 3 hosts."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
