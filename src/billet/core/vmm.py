"""VMMs: the processes that microVMs run in."""

from __future__ import annotations

from enum import Enum


class Vmm(Enum):
    """What a CREATED microVM's VMM does, by its number on the wire."""

    UNKNOWN = 0
    RUNS = 1
    DEAD = 2
