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
        self._running: dict[bytes, asyncio.Future[None]] = {}  # done at the end of the newest
        self._next: dict[bytes, asyncio.Task[T]] = {}  # that have not begun

    async def see(self, request: bytes) -> T:
        """The result of a look that begins now or later."""
        shared = self._next.get(request)
        if shared is None:
            running = self._running.get(request)
            if running is None:
                return await self._run(request)  # nobody can join it
            shared = self._next[request] = asyncio.create_task(self._run_after(running, request))
            shared.add_done_callback(_retrieved)
        return await asyncio.shield(shared)

    async def _run_after(self, before: asyncio.Future[None], request: bytes) -> T:
        await asyncio.wait({before}, timeout=NEXT_S)
        del self._next[request]
        return await self._run(request)

    async def _run(self, request: bytes) -> T:
        ended = self._running[request] = asyncio.get_running_loop().create_future()
        try:
            return await self._look(request)
        finally:
            ended.set_result(None)
            if self._running.get(request) is ended:
                del self._running[request]


def _retrieved(look: asyncio.Task[T]) -> None:
    """Nobody may be left who would see its error."""
    if not look.cancelled():
        look.exception()
