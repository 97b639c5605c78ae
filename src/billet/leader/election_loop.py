"""The reigns of one server, one after another. node.py and sim/servers.py say what each of them consists of."""

from __future__ import annotations

import asyncio
from typing import Protocol

from billet.core.errors import StoreCorrupt, StoreError
from billet.leader.ledger import Ledger
from billet.leader.reconciler import Reconciler
from billet.ports import Store

RETRY_S = 1.0  # after the store was in trouble


class Candidate(Protocol):
    """A server that stands for election."""

    stopping: bool  # it wants no further reign

    async def elected(self) -> Ledger:
        """Stand, and return once it leads. Raises StoreError."""

    def trouble(self, error: StoreError) -> None:
        """It cannot lead now; it tries again."""


async def next_term(candidate: Candidate) -> Ledger | None:
    """The book of the next reign, once this server is elected; None when it is stopping. Raises StoreCorrupt.

    Whoever takes a book resigns its term when the reign is over.
    """
    while not candidate.stopping:
        try:
            return await candidate.elected()
        except StoreCorrupt:
            raise
        except StoreError as error:
            candidate.trouble(error)
            await asyncio.sleep(RETRY_S)
    return None


async def until_over(store: Store, ledger: Ledger, reconciler: Reconciler) -> None:
    """Until the term ends, by the store's word or because a commit's outcome is not known; meanwhile, reconcile."""
    work = [
        asyncio.create_task(reconciler.run()),
        asyncio.create_task(store.ended(ledger.term)),
        asyncio.create_task(ledger.over.wait()),
    ]
    try:
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        ledger.end("the term has ended")
        for task in work:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
    finally:
        ledger.end("the server is stopping")
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
