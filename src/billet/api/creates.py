"""The creates in progress on the leader, by token."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from billet.api.audit_facts import about
from billet.core.errors import BilletError, Cancelled
from billet.core.fair_queue import Key
from billet.core.model import Auction
from billet.leader.jobs import Caller
from billet.leader.leadership import Leadership
from billet.ports import Answer
from billet.wire import flintlock as wire
from billet.wire.headers import IDENTITY, TOKEN, ZONE

log = structlog.get_logger()


@dataclass(slots=True)
class PendingCreate:
    """A create in progress, and the clients that wait for it. `begun`: it waits for no slot any more."""

    task: asyncio.Task[bytes]
    caller: Caller
    begun: bool = False


class Creates:
    """Carries creates out, each once, as many at a time as there are slots."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership
        self._pending: dict[str, PendingCreate] = {}

    @property
    def tasks(self) -> list[asyncio.Task[bytes]]:
        """The creates in progress, including those whose client has disconnected."""
        return [pending.task for pending in self._pending.values()]

    async def create(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """Create a microVM. Once a host has the order, the create is completed even if the client disconnects.

        A retry with the same token, from the client or from another server, joins the create in progress.
        """
        token = metadata[TOKEN]
        while True:
            pending = self._pending.get(token) or self._begin(token, request, timeout_s, metadata)
            pending.caller.waiting += 1
            try:
                reply = await asyncio.shield(pending.task)
                return Answer(reply, about(self._leadership.ledger.state.placements.get(token)))
            except asyncio.CancelledError:
                pending.task.add_done_callback(_log_abandoned)
                raise
            except BilletError as error:
                if not isinstance(error, Cancelled):
                    raise  # CANCELLED means that earlier callers gave it up; this one begins it again
            finally:
                pending.caller.waiting -= 1
                if pending.caller.gone and not pending.begun:
                    self._forget(token, pending.caller)
                    pending.task.cancel()

    def _begin(self, token: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> PendingCreate:
        auction = wire.read_create(request, token, metadata.get(ZONE, ""))
        caller = Caller(timeout_s)
        key = Key(metadata.get(IDENTITY, ""), auction.namespace)
        task = asyncio.create_task(self._carry_out(key, auction, request, caller))
        self._pending[token] = pending = PendingCreate(task, caller)
        return pending

    async def _carry_out(self, key: Key, auction: Auction, request: bytes, caller: Caller) -> bytes:
        """Run the auction, and forget it as it ends: joining a finished task would never yield to the event loop."""
        try:
            if auction.id in self._leadership.ledger.state.placements:
                return await self._run(auction, request, caller)  # an earlier leader has begun it
            came_s = asyncio.get_running_loop().time()
            async with self._leadership.slots.slot(key, len(request)):
                caller.timeout_s -= asyncio.get_running_loop().time() - came_s
                return await self._run(auction, request, caller)
        finally:
            self._forget(auction.id, caller)

    async def _run(self, auction: Auction, request: bytes, caller: Caller) -> bytes:
        self._pending[auction.id].begun = True
        return await self._leadership.auctioneer.create(auction, request, caller)

    def _forget(self, token: str, caller: Caller) -> None:
        """Others may begin the same create from now on."""
        if (pending := self._pending.get(token)) and pending.caller is caller:
            del self._pending[token]


def _log_abandoned(task: asyncio.Task[bytes]) -> None:
    """Log an unexpected error of a create that no client waits for. BilletErrors are in its record."""
    if not task.cancelled() and (error := task.exception()) and not isinstance(error, BilletError):
        log.error("create failed after its client disconnected", error=repr(error))
