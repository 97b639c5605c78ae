"""Reads that ask the same of all hosts at the same time share their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

NEXT_S = 1.0  # a look that takes longer than this, because a host is slow, holds up the next one no more


class SharedLooks(Generic[T]):
    """Looks at the hosts, by request. A call joins only a look that begins after the call came.

    So a List that begins after a create was acknowledged shows it, as if it had asked the hosts itself. However many
    calls come while a look is under way, they cost one more.
    """

    def __init__(self, look: Callable[[bytes], Awaitable[T]]) -> None:
        self._look = look
        self._running: dict[bytes, asyncio.Task[T]] = {}  # the newest
        self._next: dict[bytes, asyncio.Task[T]] = {}  # that have not begun

    async def see(self, request: bytes) -> T:
        """The result of a look that begins now or later."""
        look = self._next.get(request)
        if look is None:
            running = self._running.get(request)
            look = asyncio.create_task(self._begin(request, running))
            look.add_done_callback(_retrieved)
            (self._next if running else self._running)[request] = look
        return await asyncio.shield(look)

    async def _begin(self, request: bytes, before: asyncio.Task[T] | None) -> T:
        this = asyncio.current_task()
        assert this is not None
        try:
            if before:
                await asyncio.wait({before}, timeout=NEXT_S)
                self._running[request] = self._next.pop(request)
            return await self._look(request)
        finally:
            if self._running.get(request) is this:
                del self._running[request]


def _retrieved(look: asyncio.Task[T]) -> None:
    """Nobody may be left who would see its error."""
    if not look.cancelled():
        look.exception()
