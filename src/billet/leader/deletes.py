"""Deletes: the reconciler's are carried out, and those that hosts have accepted from clients are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog

from billet.core.errors import CommitOutcomeUnknown, DeleteNotRecorded, StaleTerm, StoreError, Unreachable
from billet.core.model import Placement
from billet.leader.ledger import Ledger

log = structlog.get_logger()

RETRY_S = 1.0  # pause after the store refused a record
Delete = Callable[[str, str], Awaitable[bool]]  # (host id, uid) -> accepted; raises Unreachable


class Deletes:
    """Deletes in the background, sequentially on each host, so that no host delays another.

    A failed one is logged; the reconciler requests it again at its next look.
    """

    def __init__(self, delete: Delete) -> None:
        self._delete = delete
        self._wanted: dict[str, dict[str, None]] = {}  # uids by host, in order; each host here has a task
        self._tasks: set[asyncio.Task[None]] = set()

    def want(self, host_id: str, uids: Iterable[str]) -> None:
        """Delete these microVMs, unless that is in progress."""
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
        """Cancel all deletes. Those already sent may still be carried out."""
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
                log.info("microVM deleted", host=host_id, uid=uid, accepted=accepted)
        except Unreachable as error:
            log.warning("deletes failed, retrying", host=host_id, left=len(wanted), error=error.text)
        finally:
            del self._wanted[host_id]


class DeleteRecords:
    """Records of deletes that hosts have accepted. One that the store refuses is written as soon as it can be.

    Until then the placement stays in hand: the reconciler would take the microVM, which vanishes, for LOST.
    """

    def __init__(self, ledger: Ledger, become: Callable[[Placement], Placement]) -> None:
        """`become` maps a placement to what an accepted delete makes of it."""
        self._ledger = ledger
        self._become = become
        self._tasks: set[asyncio.Task[None]] = set()

    async def write(self, placement: Placement) -> None:
        """Record the delete of a placement that the caller has in hand. Raises StoreError when the term has ended.

        Raises DeleteNotRecorded when the store refuses the record, which is then tried again in the background.
        """
        error = await self._refusal(placement)
        if error is None:
            return
        if isinstance(error, StaleTerm | CommitOutcomeUnknown):
            raise error
        log.warning("delete not recorded, retrying", uid=placement.uid, host=placement.host, error=error.text)
        held = asyncio.Event()
        task = asyncio.create_task(self._retry(placement, held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await held.wait()
        raise DeleteNotRecorded(
            f"host {placement.host} deletes microVM {placement.uid}, but the store did not take the record "
            f"({error.reason}); Billet writes it as soon as the store does"
        )

    async def _retry(self, placement: Placement, held: asyncio.Event) -> None:
        """Keep the placement in hand, and write until it succeeds or the term ends."""
        async with self._ledger.hold(placement.id):
            held.set()
            while not self._ledger.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._ledger.over.wait()
                if await self._refusal(placement) is None:
                    log.info("delete recorded", uid=placement.uid, host=placement.host)
                    return

    async def _refusal(self, placement: Placement) -> StoreError | None:
        """Try to write the record; returns the store's error, None when it is written."""
        try:
            await self._ledger.change(placement.id, self._become)
        except StoreError as error:
            return error
        return None
