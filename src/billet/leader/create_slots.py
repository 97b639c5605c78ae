"""Lets a bounded number of creates work at a time; the others wait in fair order (core/fair_queue.py decides)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from billet.core.backlog import Backlog
from billet.core.errors import Overloaded, without_not_found
from billet.core.fair_queue import Bounds, FairQueue, Key, Place, Refusal
from billet.core.metadata import retry_ms
from billet.log_throttle import LogThrottle

log = structlog.get_logger()

MIB = 1 << 20


class CreateSlots:
    """The slots of one server's creates. `what` names them in the log."""

    def __init__(self, bounds: Bounds, what: str) -> None:
        self.queue = FairQueue(bounds)
        self.refused = 0  # creates, so far
        self._bounds = bounds
        self._what = what
        self._begins: dict[Place, asyncio.Future[str]] = {}  # of those that wait: "", or why not
        self._timer: asyncio.Handle | None = None
        self._looks_at_s = 0.0  # when the timer goes off
        self._throttle = LogThrottle()
        self._backlog = Backlog()

    @asynccontextmanager
    async def slot(self, key: Key, size: int) -> AsyncIterator[None]:
        """Wait for a slot for a create whose request has `size` bytes, and keep it until the end. Raises Overloaded.

        Cancelling it while it waits takes the create out of its queue at once. Without a queue it does not wait for
        the event loop either.
        """
        loop = asyncio.get_running_loop()
        place = Place(key, size, loop.time())
        if refusal := self.queue.enter(place):
            raise self._overloaded(self._why(refusal, key))
        begins = self._begins[place] = loop.create_future()
        try:
            self._advance()
            if why := await begins:
                raise self._overloaded(why)  # not set as the future's: the error would hold the request in a cycle
            yield
            self._backlog.ended(loop.time())
        finally:
            self._begins.pop(place, None)
            self.queue.leave(place)
            self._advance()

    def _advance(self) -> None:
        """Let those begin that may, and refuse those that have waited for too long."""
        now_s = asyncio.get_running_loop().time()
        while place := self.queue.next(now_s):
            if (begins := self._begins.pop(place, None)) and not begins.done():
                begins.set_result("")
        for place in self.queue.late(now_s):
            if (begins := self._begins.pop(place, None)) and not begins.done():
                begins.set_result(self._why_late(place.key))
        self._look_again()

    def _look_again(self) -> None:
        """Advance when the next create is due, even if no other one ends."""
        due_s = self.queue.due_s()
        if self._timer and due_s is not None and self._looks_at_s <= due_s:
            return
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if due_s is not None:
            self._looks_at_s = due_s
            self._timer = asyncio.get_running_loop().call_at(due_s, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._advance()

    def _overloaded(self, why: str) -> Overloaded:
        self.refused += 1
        why = without_not_found(why)  # a namespace may be called so
        if self._throttle.should_log("refused", "", asyncio.get_running_loop().time()):
            log.warning(
                f"overload: {self._what} refused", why=why, refused=self.refused,
                in_work=self.queue.in_work, waiting=self.queue.waiting, held_bytes=self.queue.held_bytes,
            )  # fmt: skip
        wait_s = self._backlog.refused(asyncio.get_running_loop().time(), self.queue.waiting)
        return Overloaded(f"{why}; nothing was created", retry_ms(self.refused, wait_s))

    def _why(self, refusal: Refusal, key: Key) -> str:
        match refusal:
            case Refusal.QUEUE:
                return f"{self._bounds.waiting} creates of {key} wait already, as many as --create-queue allows"
            case Refusal.BYTES:
                held, limit = self.queue.held_bytes // MIB, self._bounds.held_bytes // MIB
                return f"creates fill {held} of {limit} MiB (--create-memory-mib), and {key} has its share of them"

    def _why_late(self, key: Key) -> str:
        return f"the create waited for {self._bounds.wait_s:g} s (--create-wait-s) behind others of {key}"
