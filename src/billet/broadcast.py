"""Wake every task that waits for something which happens again and again."""

from __future__ import annotations

import asyncio


class Broadcast:
    """A repeatable event: each `send` wakes all tasks that wait at that moment, and later ones wait for the next.

    Take `next` before you check a condition and wait for it afterwards: a `send` in between is not missed.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """The event that the next `send` sets. It stays set."""
        return self._next

    def send(self) -> None:
        """Wake all waiting tasks."""
        sent, self._next = self._next, asyncio.Event()
        sent.set()

    async def wait(self) -> None:
        """Wait for the next `send`."""
        await self._next.wait()
