"""The flintlockd beside an agent: what is asked of it, and what its answers mean."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from billet.core.errors import Code
from billet.core.model import Image, Observed, Reason, Refusal, Resources
from billet.ports import DEFAULT_OPTIONS, Created, CreateOptions, Denied, Flintlock, NotTaken, Outcome, Reply, Unknown

LOOKUPS = 5  # how often a token is looked for after a create whose outcome is unknown
LOOKUP_PAUSE_S = 0.5
BROKEN = "Stream removed"  # what gRPC may say, under UNKNOWN, of a connection that broke
CONNECT_S = 2.0  # how long a create waits for a connection to flintlockd before it counts as not sent


class Codec(Protocol):
    """Flintlock's messages, as far as an agent reads and writes them (wire/flintlock.py)."""

    CREATE: str
    DELETE: str
    GET: str
    LIST: str

    def with_token(self, request: bytes, token: str) -> bytes:
        """A create request with the token in it."""

    def without_token(self, reply: bytes) -> bytes:
        """A reply without it."""

    def with_uid(self, uid: str) -> bytes:
        """A request that names one microVM."""

    def read_list(self, reply: bytes) -> list[Observed]:
        """The microVMs of a List."""

    def read_created(self, reply: bytes) -> Observed:
        """The microVM of a Create or a Get."""

    def read_images(self, request: bytes) -> tuple[Image, ...]:
        """The images that a create request boots from."""


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """A create that this host has won. `demand` is what it is charged."""

    term: int
    token: str
    request: bytes
    demand: Resources
    timeout_s: float
    options: CreateOptions = DEFAULT_OPTIONS


class Daemon:
    """One flintlockd, in the words of creates and microVMs; it remembers nothing."""

    def __init__(self, host_id: str, flintlock: Flintlock, codec: Codec) -> None:
        self._host_id = host_id
        self._flintlock = flintlock
        self._codec = codec

    async def create(self, order: CreateOrder) -> Outcome:
        """Send a create, and learn its outcome."""
        if not await self._flintlock.ready(min(CONNECT_S, order.timeout_s)):
            return NotTaken(Refusal(self._host_id, Reason.DAEMON_AWAY))
        request = self._codec.with_token(order.request, order.token)
        reply = await self._flintlock.call(self._codec.CREATE, request, order.timeout_s)
        match reply.code:
            case Code.OK if order.options.verdict_only:
                return await self._take_back(reply)
            case Code.OK:
                return Created(self._codec.read_created(reply.payload).uid, reply.payload)
            case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED | Code.CANCELLED | Code.INTERNAL:
                return await self.look_up(order, describe(reply))
            case Code.UNKNOWN if reply.text == BROKEN:
                return await self.look_up(order, describe(reply))
            case _:
                return Denied(reply.code, reply.text)

    async def _take_back(self, reply: Reply) -> Outcome:
        """flintlockd made what it should have refused, and no room was reserved for it: delete it again."""
        uid = self._codec.read_created(reply.payload).uid
        await self._flintlock.call(self._codec.DELETE, self._codec.with_uid(uid), CONNECT_S)
        detail = "its flintlockd accepts what Billet expects it to refuse; the microVM was deleted again"
        return NotTaken(Refusal(self._host_id, Reason.DECLINED, detail))

    async def look_up(self, order: CreateOrder, options: str) -> Outcome:
        """The outcome is unknown: look for the token before anything else (promise 4)."""
        looked = False
        for attempt in range(LOOKUPS):
            if attempt:
                await asyncio.sleep(LOOKUP_PAUSE_S)
            await self._flintlock.ready(CONNECT_S)
            rows = await self.list_all(order.timeout_s)
            looked = looked or rows is not None
            uid = next((row.uid for row in rows or () if row.token == order.token), None)
            if uid and (found := await self.fetch(uid, order.timeout_s)):
                return found
        what = "it does not show the microVM so far" if looked else "it does not answer"
        return Unknown(f"flintlockd broke off the create ({options}), and {what}")

    async def fetch(self, uid: str, timeout_s: float) -> Created | None:
        """The reply that was lost, from a Get, which is like a Create's on the wire."""
        got = await self._flintlock.call(self._codec.GET, self._codec.with_uid(uid), timeout_s)
        return Created(uid, got.payload) if got.code == Code.OK else None

    async def list_all(self, timeout_s: float) -> list[Observed] | None:
        """All that it shows, None when it does not answer."""
        reply = await self._flintlock.call(self._codec.LIST, b"", timeout_s)
        return self._codec.read_list(reply.payload) if reply.code == Code.OK else None

    async def look_at(self, uid: str, timeout_s: float) -> Observed | None:
        """One microVM as flintlockd shows it now, None when it does not."""
        reply = await self._flintlock.call(self._codec.GET, self._codec.with_uid(uid), timeout_s)
        return self._codec.read_created(reply.payload) if reply.code == Code.OK else None


def describe(reply: Reply) -> str:
    """A status for people. A channel's own text may say "not found" of a name, which must reach no client."""
    return f"{Code(reply.code).name}" if reply.code in set(Code) else f"code {reply.code}"
