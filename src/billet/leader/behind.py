"""Records that are written behind a reply, and again until the store takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

import structlog

from billet.core.errors import StoreError
from billet.core.model import Placement
from billet.leader.ledger import Ledger

log = structlog.get_logger()

RETRY_S = 1.0  # pause after the store refused a record
STOP_S = 5.0  # how long a server that stops waits for them; the next leader asks the hosts for the others


class Behind:
    """Writes in the background, until the store takes the record or the term ends.

    Meanwhile the placement stays in hand. The reconciler would take a microVM that vanishes, because its Delete was
    accepted, for LOST.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._tasks: set[asyncio.Task[None]] = set()

    def write(
        self, what: str, placement: Placement, write: Callable[[], Awaitable[None]], refusal: StoreError | None = None
    ) -> None:
        """Begin to write the record of a placement that the caller has in hand. `write` makes one attempt.

        `what` names the record in the log. With a `refusal` there was an attempt just now, and the next one is later.
        """
        hand = ExitStack()
        hand.enter_context(self._ledger.held(placement.id))
        task = asyncio.create_task(self._work(hand, what, placement, write, refusal))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        """Wait until everything is written, for STOP_S at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)

    async def _work(
        self,
        hand: ExitStack,
        what: str,
        placement: Placement,
        write: Callable[[], Awaitable[None]],
        refusal: StoreError | None,
    ) -> None:
        with hand:
            refusal = refusal or await _refusal(write)
            if refusal is None or self._ledger.over.is_set():
                return
            uid, host = placement.uid, placement.host
            log.warning(f"{what} not recorded, retrying", uid=uid, host=host, error=refusal.text)
            while refusal and not self._ledger.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._ledger.over.wait()
                refusal = await _refusal(write)
            if refusal is None:
                log.info(f"{what} recorded", uid=uid, host=host)


async def _refusal(write: Callable[[], Awaitable[None]]) -> StoreError | None:
    try:
        await write()
    except StoreError as error:
        return error
    return None
