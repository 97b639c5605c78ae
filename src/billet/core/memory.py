"""A dictionary of limited size, which drops its oldest entries."""

from __future__ import annotations

from typing import TypeVar

REMEMBERED = 10_000  # entries, by default

K = TypeVar("K")
T = TypeVar("T")


def remember(memory: dict[K, T], key: K, value: T, most: int = REMEMBERED) -> None:
    """Add an entry, and drop the oldest one when there are more than `most`."""
    memory[key] = value
    if len(memory) > most:
        del memory[next(iter(memory))]
