"""Deletes that the reconciler wants: one after another on each host, so that no host holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from billet.core.errors import Unreachable

log = structlog.get_logger()

Delete = Callable[[str, str], Awaitable[bool]]  # (host id, uid): whether it was accepted; raises Unreachable


class Deletes:
    """Nothing is promised: what fails is logged, and wanted again at the reconciler's next look."""

    def __init__(self, delete: Delete) -> None:
        self._delete = delete
        self._wanted: dict[str, dict[str, None]] = {}  # uids by host, in order; a host that is here has a task
        self._tasks: set[asyncio.Task[None]] = set()

    def want(self, host_id: str, uids: Iterable[str]) -> None:
        """Begin to delete these microVMs, unless that is under way."""
        wanted = dict.fromkeys(uids)
        if not wanted:
            return
        if host_id in self._wanted:
            self._wanted[host_id] |= wanted
            return
        self._wanted[host_id] = wanted
        task = asyncio.create_task(self._work(host_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End what is under way; what was sent is not called back."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, host_id: str) -> None:
        wanted = self._wanted[host_id]
        try:
            while wanted:
                uid = next(iter(wanted))
                accepted = await self._delete(host_id, uid)
                del wanted[uid]
                log.info("deleted on a host", host=host_id, uid=uid, accepted=accepted)
        except Unreachable as error:
            log.warning("a host cannot delete now; trying again", host=host_id, left=len(wanted), error=error.text)
        finally:
            del self._wanted[host_id]
