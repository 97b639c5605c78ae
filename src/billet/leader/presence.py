"""The hosts that may bid, and a way to wait for more of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from billet.broadcast import Broadcast
from billet.core.columns import Columns, Mask


class Presence:
    """The hosts that are connected and whose microVMs are all in the ledger. Maintained by the reconciler."""

    def __init__(self) -> None:
        self.coming: set[str] = set()  # connected, but not all their microVMs are in the ledger yet
        self._hosts: dict[str, None] = {}  # ordered by arrival: a set's order differs between runs
        self._came = Broadcast()  # sent whenever a host may bid that could not before
        self._rows: tuple[int, Mask] | None = None  # the fleet's version, and the rows of these hosts

    def __contains__(self, host_id: object) -> bool:
        return host_id in self._hosts

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def rows(self, fleet: Columns) -> Mask:
        """The rows of these hosts."""
        if self._rows is None or self._rows[0] != fleet.version:
            self._rows = fleet.version, fleet.mask(self._hosts)
        return self._rows[1]

    def expect(self, host_id: str) -> None:
        """A host has connected; it may not bid yet."""
        self._hosts.pop(host_id, None)
        self._rows = None
        self.coming.add(host_id)

    def add(self, host_id: str) -> None:
        """A host may bid from now on."""
        self.coming.discard(host_id)
        if host_id not in self._hosts:
            self._hosts[host_id] = None
            self._rows = None
            self._came.send()

    def discard(self, host_id: str) -> None:
        """A host has disconnected."""
        self.coming.discard(host_id)
        self._hosts.pop(host_id, None)
        self._rows = None

    async def next_one(self, timeout_s: float) -> bool:
        """Wait until one more host may bid; return False if none does within the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._came.wait()
        except TimeoutError:
            return False
        return True
