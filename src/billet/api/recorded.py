"""What the services need of the records that a server keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from billet.broadcast import Broadcast
from billet.core.feed import Positions, Record

GATHER_S = 0.1  # what is written within this time after the first record is told together


class RecordedAuctions(Protocol):
    """The records of this server, its own and those that it has copied (store/auction_log.py)."""

    def find(self, name: str) -> list[bytes]:
        """The records of one microVM, newest first. `name` as in ExplainRequest.key."""

    def page(self, after: int, limit: int, gone: bool = False) -> tuple[list[bytes], int]:
        """Up to `limit` records after `after` (`gone`: ends of microVMs), oldest first; next `after`, 0 = end."""

    def about(self, auction: str) -> list[bytes]:
        """The events of a microVM, by its auction's id, oldest first."""

    def events(
        self, have: Positions, since_s: float, count: int, terms: int
    ) -> tuple[list[tuple[int, int, bytes]], dict[int, int], bool]:
        """Events after these positions: with term and number; how far they go; whether there are more."""


class NoRecordedAuctions:
    """RecordedAuctions of a server that keeps none."""

    def find(self, name: str) -> list[bytes]:
        """See Records."""
        return []

    def page(self, after: int, limit: int, gone: bool = False) -> tuple[list[bytes], int]:
        """See Records."""
        return [], 0

    def about(self, auction: str) -> list[bytes]:
        """See Records."""
        return []

    def events(
        self, have: Positions, since_s: float, count: int, terms: int
    ) -> tuple[list[tuple[int, int, bytes]], dict[int, int], bool]:
        """See Records."""
        return [], {}, False


class CopiedRecords(Protocol):
    """The records of this server, as other servers copy them (store/auction_log.py)."""

    @property
    def positions(self) -> Positions:
        """How far it has come in each term."""

    @property
    def written(self) -> Positions:
        """The same of what can be read already."""

    def since(self, have: Positions) -> tuple[list[Record], dict[int, int]]:
        """Records that a copy with these positions lacks, and how far it has come with them."""

    def take(self, records: Iterable[Record], up_to: Positions) -> None:
        """Keep another server's records."""

    def flush(self) -> None:
        """Return when they are written."""


class Growth:
    """Tells those who wait that there are new records, or that the server is stopping and nobody may wait."""

    def __init__(self) -> None:
        self.over = False
        self._sent = Broadcast()

    @property
    def next(self) -> asyncio.Event:
        """The next growth; take it before you look at the records."""
        return self._sent.next

    def send(self) -> None:
        """There are new records."""
        self._sent.send()

    def stop(self) -> None:
        """The server is stopping."""
        self.over = True
        self._sent.send()

    async def wait(self, grown: asyncio.Event, until_s: float) -> bool:
        """Wait for a growth. False if it is too late, by the loop's time, or the server is stopping."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await grown.wait()
        if self.over or not grown.is_set():
            return False
        await asyncio.sleep(GATHER_S)
        return True
