"""A store as seen by backup, restore and checks."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from billet.ports import Store, Term
from billet.store.groupcommit import GroupCommit
from billet.store_watch import Health


class Vitals(NamedTuple):
    """The condition of a store's engine. Sizes are those of its file, or of the largest of several."""

    engine: str  # "SQLite 3.40.1"
    term: int  # the greatest term number so far
    size_bytes: int
    used_bytes: int  # the rest of the file is free for new records
    troubles: tuple[str, ...] = ()  # one line each


class Engine(Store, Protocol):
    """A store as seen by backup, restore and checks: raw records. `group` runs its transactions."""

    group: GroupCommit

    async def records(self) -> tuple[int, dict[str, bytes]]:
        """The revision that was read, and every record by its key, not decoded."""

    async def write(self, term: Term, writes: dict[str, bytes | None]) -> int:
        """Write raw records as `commit` does; None deletes a key."""

    async def vitals(self) -> Vitals:
        """The condition of the engine."""

    async def health(self) -> Health:
        """A quick look, for people and alerts: answers within about a second, and raises no StoreError."""
