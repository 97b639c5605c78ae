"""Deletes: the reconciler's are carried out, and those that hosts have accepted from clients are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import structlog

from billet.core.errors import CommitOutcomeUnknown, DeleteNotRecorded, StaleTerm, StoreError, Unreachable
from billet.core.model import Placement
from billet.leader.behind import Behind
from billet.leader.ledger import Ledger

log = structlog.get_logger()

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
    """Records of deletes that hosts have accepted. One that the store refuses is written as soon as it can be."""

    def __init__(self, ledger: Ledger, behind: Behind, become: Callable[[Placement], Placement]) -> None:
        """`become` maps a placement to what an accepted delete makes of it."""
        self._ledger = ledger
        self._behind = behind
        self._become = become

    async def write(self, placement: Placement) -> None:
        """Record the delete of a placement that the caller has in hand. Raises StoreError when the term has ended.

        Raises DeleteNotRecorded when the store refuses the record, which is then tried again in the background.
        """
        record = partial(self._ledger.change, placement.id, self._become)
        try:
            await record()
        except (StaleTerm, CommitOutcomeUnknown):
            raise
        except StoreError as error:
            self._behind.write("delete", placement, record, error)
            raise DeleteNotRecorded(
                f"host {placement.host} deletes microVM {placement.uid}, but the store did not take the record "
                f"({error.reason}); Billet writes it as soon as the store does"
            ) from None
