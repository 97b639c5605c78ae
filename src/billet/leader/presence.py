"""Who is there: the hosts that may bid, and waiting for those that are still on their way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from billet.broadcast import Broadcast


class Presence:
    """Hosts that are connected and whose microVMs are all in the ledger. Kept by the reconciler."""

    def __init__(self) -> None:
        self.coming: set[str] = set()  # have said hello, and are not in the ledger yet, or not with all they have
        self._hosts: dict[str, None] = {}  # in the order of their coming: a set's order differs from run to run
        self._came = Broadcast()  # sent whenever a host may bid that could not before

    def __contains__(self, host_id: str) -> bool:
        return host_id in self._hosts

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def expect(self, host_id: str) -> None:
        """A host has said hello; it may not bid yet."""
        self._hosts.pop(host_id, None)
        self.coming.add(host_id)

    def add(self, host_id: str) -> None:
        """A host may bid from now on."""
        self.coming.discard(host_id)
        if host_id not in self._hosts:
            self._hosts[host_id] = None
            self._came.send()

    def discard(self, host_id: str) -> None:
        """A host has gone."""
        self.coming.discard(host_id)
        self._hosts.pop(host_id, None)

    async def next_one(self, timeout_s: float) -> bool:
        """Wait until one more host has come; False when none did in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._came.wait()
        except TimeoutError:
            return False
        return True
