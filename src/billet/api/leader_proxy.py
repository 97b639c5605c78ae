"""Passes client calls to the server that leads. While no server leads, calls wait instead of failing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress

from billet.api import fleet_service as fleet
from billet.broadcast import Broadcast
from billet.closing import closing
from billet.core.errors import (
    BilletError,
    Code,
    CommitOutcomeUnknown,
    CreateOutcomeUnknown,
    HostVerdict,
    LeaderLost,
    StaleTerm,
    StoreError,
    Unreachable,
    says_not_found,
)
from billet.core.fair_queue import DEFAULT_BOUNDS, Bounds, Key
from billet.core.metadata import ReplyMetadata
from billet.core.reconcile import RESEND_S
from billet.leader.create_slots import CreateSlots
from billet.ports import Answer, Backend
from billet.wire import flintlock as wire
from billet.wire.headers import FORWARDED, IDENTITY, TOKEN

READS = frozenset({
    wire.GET, wire.LIST,
    fleet.HOSTS, fleet.STATUS, fleet.PLACEMENTS, fleet.EXPLAIN, fleet.RECORDS, fleet.ACCURACY,
    fleet.EVENTS,
})  # fmt: skip
PAUSE_S = 0.1  # before the same leader is asked again
LED_S = 1.0  # a backend that held a call for longer than this was the leader
NOBODY = "no server leads at the moment; try again"
PASSED_ON = 500  # creates at a time that a server passes to the leader; half of the calls that a connection takes
STALE_AFTER_S = 2.0  # how long a read waits for a leader before a stale answer is given

Token = Callable[[bytes, Mapping[str, str]], str]


class LeaderProxy:
    """ports.Backend for this server's clients, and for other servers that believe this server leads.

    A call whose leader is lost is sent again to the next leader. Reads can be repeated. A repeated create keeps its
    token, by which its host recognises a microVM that exists already, and the next leader one that was deleted since;
    it is not repeated later than RESEND_S after it began, when that token may be forgotten. A repeated delete that
    finds nothing has succeeded: the first one may have been carried out.
    """

    def __init__(self, token: Token, hold_s: float, creates: Bounds = DEFAULT_BOUNDS) -> None:
        """`token` makes a create's token from its request and metadata; `hold_s` limits the wait for a leader.

        `creates` bounds those that wait here and their bytes; how many are passed on is the same for all servers.
        """
        self.stale: Backend | None = None  # answers reads while no server leads
        self.own_stale: Backend | None = None  # answers other servers' reads from this server's last term
        self._token = token
        self._hold_s = hold_s
        self._backend: Backend | None = None
        self._leads = False
        self._why = NOBODY
        self.slots = CreateSlots(
            creates._replace(in_work=PASSED_ON, shared=False, slow_s=0.0), "create of this server's clients"
        )
        self._moved = Broadcast()  # sent at every change of the leader
        self._asking: dict[asyncio.Timeout, None] = {}  # the limits of the calls that the leader has

    def route(self, backend: Backend | None, leads: bool = False) -> None:
        """Pass calls to `backend`: this server's own service when it `leads`, else the leader; None = no leader."""
        if backend is self._backend:
            return
        self._backend, self._leads = backend, leads
        if backend:
            self._why = NOBODY
        asked, self._asking = self._asking, {}
        for asking in asked:
            asking.reschedule(0.0)
        self._moved.send()

    def trouble(self, why: str) -> None:
        """No server leads, and why: the error text of calls that wait in vain."""
        self._why = why

    @property
    def serving(self) -> bool:
        """Whether calls are answered now."""
        return self._backend is not None

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        if FORWARDED in metadata:
            return await self._for_another_server(method, request, timeout_s, metadata)
        if method == wire.CREATE:
            token = metadata.get(TOKEN) or self._token(request, metadata)
            wire.refuse_too_long(request, token)  # here, because the way to the leader has the same limit
            return await self._create(request, timeout_s, {**metadata, TOKEN: token})
        return await self._steadily(method, request, timeout_s, metadata)

    async def _create(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """Pass a create on in fair order: all of a server's calls go to the leader over one connection."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        key = Key(metadata.get(IDENTITY, ""), wire.namespace_of(request))
        async with self.slots.slot(key, len(request)):
            return await self._steadily(wire.CREATE, request, until_s - loop.time(), metadata)

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend. Waits for a leader at the start; when a stream breaks, the client must reopen it."""
        loop = asyncio.get_running_loop()
        given_up_s = loop.time() + min(self._hold_s, self._hold_s if timeout_s is None else timeout_s)
        while self._backend is None or (FORWARDED in metadata and not self._leads):
            if FORWARDED in metadata or not await self._until_moved(self._moved.next, given_up_s):
                raise LeaderLost(self._why)
        async with closing(self._backend.stream(method, requests, timeout_s, metadata, told)) as replies:
            async for reply in replies:
                yield reply

    async def _steadily(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """Try until there is an answer, the client's timeout ends, or no server has led for `hold_s`."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        led_s = begun_s  # when a server last led, as far as this call knows
        tried = False
        while True:
            moved, left_s = self._moved.next, timeout_s - (loop.time() - begun_s)
            backend = self._backend
            if backend is None and method in READS and loop.time() - begun_s > STALE_AFTER_S:
                backend = self.stale
            asked_s = loop.time()
            if backend:
                try:
                    return await self._ask(backend.unary(method, request, left_s, metadata))
                except HostVerdict as verdict:
                    if tried and method == wire.DELETE and _is_gone(verdict):
                        return Answer(b"")
                    raise
                except BilletError as failure:
                    if not _lost(failure, moved):
                        raise
                    tried = True
                    timeout_s = _resent_for(method, timeout_s)
                    if loop.time() - asked_s > LED_S:
                        led_s = loop.time()
            until_s = min(begun_s + timeout_s, led_s + self._hold_s)
            if loop.time() >= until_s:
                raise _given_up(method, tried, self._why)
            await self._until_moved(moved, min(until_s, loop.time() + PAUSE_S))

    async def _for_another_server(
        self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]
    ) -> Answer:
        """Answer a call that another server forwarded. Never forward it again: that server tries the next leader."""
        backend, moved = self._backend, self._moved.next
        if backend is None and self.own_stale and method in READS:
            return await self.own_stale.unary(method, request, timeout_s, metadata)
        if backend is None or not self._leads:
            raise LeaderLost(self._why)
        try:
            return await self._ask(backend.unary(method, request, timeout_s, metadata))
        except BilletError as failure:
            if _lost(failure, moved):
                raise LeaderLost(failure.text) from None
            raise

    async def _ask(self, answer: Awaitable[Answer]) -> Answer:
        """The answer, or LeaderLost as soon as the leader changes, even if the old one has not answered yet."""
        asking = asyncio.timeout(None)
        try:
            async with asking:
                self._asking[asking] = None
                return await answer
        except TimeoutError:
            if not asking.expired():
                raise
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            # closing the connection to the leader cancels the calls on it
        finally:
            self._asking.pop(asking, None)
        raise LeaderLost("the leader has changed")

    @staticmethod
    async def _until_moved(moved: asyncio.Event, until_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                await moved.wait()
        return moved.is_set()


def _lost(failure: BilletError, moved: asyncio.Event) -> bool:
    """Whether a failure only means that the leader was lost, so that the next one may be asked."""
    if isinstance(failure, LeaderLost | StaleTerm | CommitOutcomeUnknown):
        return True
    return moved.is_set() and isinstance(failure, Unreachable | CreateOutcomeUnknown | StoreError)


def _resent_for(method: str, timeout_s: float) -> float:
    """How long after it began a call may be sent again: a create only as long as leaders know the deleted ones."""
    return min(timeout_s, RESEND_S) if method == wire.CREATE else timeout_s


def _given_up(method: str, tried: bool, why: str) -> BilletError:
    """The error of a call that no leader has answered; a create that was sent may have been carried out."""
    if tried and method == wire.CREATE:
        return CreateOutcomeUnknown(
            f"{why}, but list the namespace first: a leader that was lost may have created the microVM"
        )
    return LeaderLost(why)


def _is_gone(verdict: HostVerdict) -> bool:
    return verdict.status == Code.UNKNOWN and says_not_found(verdict.text)
