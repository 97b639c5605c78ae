"""Call the host's flintlockd and interpret its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from billet.core.errors import Code, without_not_found
from billet.core.metadata import Metadata
from billet.core.model import Image, Observed, Reason, Refusal, Resources
from billet.host.verdicts import BROKEN, Meaning, meaning, passes
from billet.ports import (
    DEFAULT_OPTIONS,
    Created,
    CreateOptions,
    Denied,
    Failed,
    Flintlock,
    NotTaken,
    Outcome,
    Reply,
    Unknown,
)

LOOKUPS = 5  # how many Lists look for the token of a create whose outcome is unknown
LOOKUP_PAUSE_S = 0.5
BUSY_TRIES = 4  # creates that are sent while flintlockd says that a record is locked
BUSY_PAUSE_S = 0.1  # before the second of them; one more of it before each later one
RACE_TRIES = 8  # calls that are made while each meets a removal; on a busy host one List in four does
RACE_PAUSE_S = 0.05  # before the second of them; one more of it before each later one
CONNECT_S = 2.0  # a create that has no connection to flintlockd by then counts as not sent


class Codec(Protocol):
    """Reads and writes the Flintlock messages that an agent needs (wire/flintlock.py)."""

    CREATE: str
    DELETE: str
    GET: str
    LIST: str

    def with_token(self, request: bytes, token: str) -> bytes:
        """A create request with the token added."""

    def without_token(self, reply: bytes) -> bytes:
        """A reply with the token removed."""

    def with_uid(self, uid: str) -> bytes:
        """A request that names one microVM."""

    def read_uid(self, request: bytes) -> str:
        """The uid of a Get or Delete request."""

    def read_list(self, reply: bytes) -> list[Observed]:
        """The microVMs of a List."""

    def read_created(self, reply: bytes) -> Observed:
        """The microVM of a Create or a Get."""

    def has_name_of(self, request: bytes, row: Observed) -> bool:
        """Whether a microVM has the namespace and name that a create request asks for."""

    def read_images(self, request: bytes) -> tuple[Image, ...]:
        """The images that a create request boots from."""


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """A create that this host has won. `demand` is what the ledger charges for it."""

    term: int
    token: str
    request: bytes
    demand: Resources
    timeout_s: float
    options: CreateOptions = DEFAULT_OPTIONS


class Unsure(NamedTuple):
    """The token of a create has to be looked up. `cause` says why.

    `if_absent`: the outcome when flintlockd answers Lists and does not show the microVM; None = it stays unknown.
    `fault`: see Unknown.
    """

    cause: str
    if_absent: Outcome | None = None
    fault: bool = False


class Listed(NamedTuple):
    """The answer to a List. `rows`: all microVMs that flintlockd shows; None with the code and text of its error."""

    rows: list[Observed] | None
    code: int = Code.OK
    text: str = ""


class Daemon:
    """One flintlockd: creates and lookups. It keeps no state between calls."""

    def __init__(
        self,
        host_id: str,
        flintlock: Flintlock,
        codec: Codec,
        look: Callable[[Observed], Observed] = lambda row: row,
    ) -> None:
        """`look` adds what a microVM's VMM does."""
        self._look = look
        self._host_id = host_id
        self._flintlock = flintlock
        self._codec = codec
        self._latest: tuple[bytes, Observed] | None = None

    async def create(self, order: CreateOrder, fits: Callable[[], bool] = lambda: True) -> Outcome:
        """Send a create and return its outcome; look the token up when the answer is lost.

        `fits`: whether the host still has room for it: others may take that before it is sent again.
        """
        if not await self._flintlock.ready(min(CONNECT_S, order.timeout_s)):
            return NotTaken(Refusal(self._host_id, Reason.DAEMON_AWAY))
        outcome = self._interpret(await self._send(order, fits))
        if isinstance(outcome, Unsure):
            fault, outcome = outcome.fault, await self.look_up(order, outcome.cause, outcome.if_absent)
            if isinstance(outcome, Unknown):
                outcome = outcome._replace(fault=fault)
        if isinstance(outcome, Created) and order.options.verdict_only:
            return await self._take_back(outcome.uid)
        return outcome

    def _interpret(self, reply: Reply) -> Outcome | Unsure:
        """The outcome of a create by flintlockd's answer."""
        if reply.code == Code.OK:
            return Created(self.read(reply.payload).uid, reply.payload)
        answer = (reply.code, reply.text, reply.trailers)
        match meaning(reply.code, reply.text):
            case Meaning.VERDICT:
                return Denied(*answer)
            case Meaning.HOST_FAULT | Meaning.BUSY:
                return Failed(*answer)
            case Meaning.UNRECOGNISED:
                return Unsure(describe(reply), Denied(*answer, unclear=True))
        return Unsure(describe(reply), fault=reply.code == Code.UNKNOWN and reply.text != BROKEN)

    async def _send(self, order: CreateOrder, fits: Callable[[], bool]) -> Reply:
        """Send a create; send it again while its record is locked, since that has created nothing."""
        request = self._codec.with_token(order.request, order.token)
        reply = await self._flintlock.call(self._codec.CREATE, request, order.timeout_s)
        for tried in range(1, BUSY_TRIES):
            if reply.code == Code.OK or meaning(reply.code, reply.text) is not Meaning.BUSY:
                break
            await asyncio.sleep(tried * BUSY_PAUSE_S)
            if not fits():
                break
            reply = await self._flintlock.call(self._codec.CREATE, request, order.timeout_s)
        return reply

    async def _take_back(self, uid: str) -> Outcome:
        """Delete a microVM that flintlockd was expected to refuse: no room was reserved for it."""
        await self._flintlock.call(self._codec.DELETE, self._codec.with_uid(uid), CONNECT_S)
        detail = "its flintlockd accepted a create that Billet expected it to refuse; the microVM was deleted"
        return NotTaken(Refusal(self._host_id, Reason.DECLINED, detail))

    async def look_up(self, order: CreateOrder, cause: str, if_absent: Outcome | None = None) -> Outcome:
        """Look for the token of a create whose outcome is unknown (promise 4). The arguments are those of Unsure."""
        looked = False
        for attempt in range(LOOKUPS):
            if attempt:
                await asyncio.sleep(LOOKUP_PAUSE_S)
            await self._flintlock.ready(CONNECT_S)
            rows = (await self.list_all(order.timeout_s)).rows
            looked = looked or rows is not None
            uid = self.find(order, rows or ())
            if uid and (found := await self.fetch(uid, order.timeout_s)):
                return found
        if looked and if_absent:
            return if_absent
        found_what = "it does not show the microVM so far" if looked else "it does not answer"
        return Unknown(f"flintlockd did not confirm the create ({cause}), and {found_what}")

    def read(self, reply: bytes) -> Observed:
        """The microVM of a Create or a Get. The latest reply is not read twice."""
        if self._latest is None or self._latest[0] is not reply:
            self._latest = reply, self._codec.read_created(reply)
        return self._latest[1]

    def find(self, order: CreateOrder, rows: Iterable[Observed]) -> str:
        """The uid of the microVM that this order has created; "" = it is not among these.

        Its token alone proves little: it is visible in flintlockd's metadata, and copied with a spec.
        """
        with_token = (row for row in rows if row.token == order.token)
        return next((row.uid for row in with_token if self._codec.has_name_of(order.request, row)), "")

    async def fetch(self, uid: str, timeout_s: float) -> Created | None:
        """Replace a lost Create reply by a Get, which has the same form on the wire. None when it fails."""
        got = await self.call(self._codec.GET, self._codec.with_uid(uid), timeout_s)
        return Created(uid, got.payload) if got.code == Code.OK else None

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """Make any call but a create. One that has met another call or a removal at one record is repeated."""
        reply = await self._flintlock.call(method, request, timeout_s, metadata)
        for tried in range(1, RACE_TRIES):
            if not passes(reply.code, reply.text):
                break
            await asyncio.sleep(tried * RACE_PAUSE_S)
            reply = await self._flintlock.call(method, request, timeout_s, metadata)
        return reply

    async def list_all(self, timeout_s: float) -> Listed:
        """All microVMs that it shows."""
        reply = await self.call(self._codec.LIST, b"", timeout_s)
        if reply.code != Code.OK:
            return Listed(None, reply.code, reply.text)
        return Listed([self._look(row) for row in self._codec.read_list(reply.payload)])

    async def look_at(self, uid: str, timeout_s: float) -> Observed | None:
        """One microVM as flintlockd shows it now, None when it does not show it."""
        reply = await self.call(self._codec.GET, self._codec.with_uid(uid), timeout_s)
        return self._look(self._codec.read_created(reply.payload)) if reply.code == Code.OK else None


def describe(reply: Reply) -> str:
    """A status by name, and flintlockd's own text, but not gRPC's: neither may tell a client "not found"."""
    if reply.code == Code.UNKNOWN and reply.text != BROKEN:
        return without_not_found(reply.text)
    return f"{Code(reply.code).name}" if reply.code in set(Code) else f"code {reply.code}"
