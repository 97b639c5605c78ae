"""The audit log: who changed what, from where, and how it ended. One line for each client's call, never a spec.

The server that a client calls writes the line (docs/adr/0037): it knows the client, sees refused calls, and gives the
answer, after however many leaders. What only the leader knows comes with its reply, under the header ABOUT.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from billet.api.audit_facts import Facts, asked, cut, told, what
from billet.api.http import Front
from billet.api.refusals import Refusals
from billet.closing import closing
from billet.core import networks
from billet.core.access import ITSELF
from billet.core.errors import BilletError, Code, InvalidRequest
from billet.core.metadata import Metadata, ReplyMetadata
from billet.ports import Answer, Clock
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.headers import ABOUT, FORWARDED, FROM, IDENTITY, TOKEN

REFUSED = (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED)
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


@dataclass(slots=True)
class Call:
    """One client's call. `what` it would do; "" = it changes nothing, and has a line only if it is refused."""

    method: str
    who: str
    address: str
    what: str = ""
    facts: Facts = field(default_factory=dict)


class Trail:
    """Writes the lines: `append` takes each as JSON in ASCII, so that no terminal obeys it."""

    def __init__(self, server: str, append: Callable[[bytes], None] | None, clock: Clock) -> None:
        """`server`: this server's id. `append` None = no audit log."""
        self._server = server
        self._append = append
        self._clock = clock
        self._refusals = Refusals(self._repeated, clock.monotonic_s)

    @property
    def on(self) -> bool:
        """Whether there is an audit log."""
        return self._append is not None

    def ended(self, call: Call, code: int) -> None:
        """A call has ended with this code."""
        if not self.on:
            return
        if code in REFUSED and not self._refusals.should_write((networks.of_address(call.address), call.who, code)):
            return
        if call.what or code in REFUSED:
            self._write(call.who, call.address, call.what or "call", code, {"method": cut(call.method), **call.facts})

    def refused(self, method: str, address: str, code: int, who: str = "") -> None:
        """A call was refused before anything was read of it."""
        self.ended(Call(method, who, address), code)

    def fenced(self, host_id: str, released: int) -> None:
        """The leader has fenced a host by itself."""
        self._write(ITSELF, "", "fence", Code.OK, {"host": host_id, "released": released, "why": "--fence-after-s"})

    def close(self) -> None:
        """Write what was counted only."""
        self._refusals.close()

    def _repeated(self, key: tuple[str, str, int], times: int) -> None:
        address, who, code = key
        self._write(who, address, "call", code, {"more": times})

    def _write(self, who: str, address: str, what: str, code: int, facts: Facts) -> None:
        if self._append is None:
            return
        name = CODES[code] if 0 <= code < len(CODES) else str(int(code))
        line = {
            "time": written(self._clock.now_s()), "server": self._server, "who": who, "from": address, "what": what,
            **facts, "code": name,
        }  # fmt: skip
        self._append(json.dumps(line).encode())


def lost(server: str, clock: Clock, lines: int) -> bytes:
    """The line that says how many are missing before it."""
    return json.dumps({"time": written(clock.now_s()), "server": server, "what": "lost", "lines": lines}).encode()


class Audited:
    """ports.Backend for clients: passes every call on, and has the trail write a line for each change and refusal.

    Calls that other servers forward are theirs to write.
    """

    def __init__(self, backend: Front, trail: Trail, token: Callable[[bytes, Mapping[str, str]], str]) -> None:
        """`token` makes a create's token, which is its auction's id, from its request and metadata."""
        self._backend = backend
        self._trail = trail
        self._token = token

    @property
    def serving(self) -> bool:
        """Whether calls are answered now."""
        return self._backend.serving

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        if FORWARDED in metadata:
            return await self._backend.unary(method, request, timeout_s, metadata)
        call = Call(method, metadata.get(IDENTITY, ""), metadata.get(FROM, ""), what(method, request))
        code: int = Code.CANCELLED  # the client gave it up; it may have been carried out
        try:
            if method == wire.CREATE:
                metadata = {**metadata, TOKEN: self._token(request, metadata)}
                call.facts["auction"] = metadata[TOKEN]
            answer = await self._backend.unary(method, request, timeout_s, metadata)
            code = Code.OK
        except Exception as error:
            code = _code_of(error)
            raise
        finally:
            if self._trail.on and (call.what or code in REFUSED):
                known = told(method, answer) if code == Code.OK else {}
                if "name" not in known:  # else there is no need to read a large request for it
                    call.facts = {**asked(method, request), **call.facts}
                call.facts |= known
                self._trail.ended(call, code)
        return answer._replace(trailers=_without_about(answer.trailers))

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend. What goes through to a host has a line, too: it may change a microVM."""
        if FORWARDED in metadata:
            async with closing(self._backend.stream(method, requests, timeout_s, metadata, told)) as replies:
                async for reply in replies:
                    yield reply
            return
        call = Call(method, metadata.get(IDENTITY, ""), metadata.get(FROM, ""), STREAMS.get(method, "forward"))
        code: int = Code.CANCELLED
        noted = _noted(method, requests, call.facts)
        try:
            async with closing(self._backend.stream(method, noted, timeout_s, metadata, told)) as replies:
                async for reply in replies:
                    yield reply
            code = Code.OK
        except Exception as error:
            code = _code_of(error)
            raise
        finally:
            self._trail.ended(call, code)


STREAMS = {newer.EXEC: "exec", newer.SSH: "ssh", wire.LIST_STREAM: ""}  # any other may do anything


def written(time_s: float) -> str:
    """A wall-clock time as RFC 3339, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def _noted(method: str, requests: AsyncIterator[bytes], facts: Facts) -> AsyncIterator[bytes]:
    """The messages, and what the first one is about."""
    first = True
    async for message in requests:
        if first:
            first = False
            with suppress(InvalidRequest):
                if method != wire.LIST_STREAM and (uid := newer.stream_uid(method, message)):
                    facts["uid"] = cut(uid)
        yield message


def _without_about(trailers: Metadata) -> Metadata:
    return tuple(pair for pair in trailers if pair[0] != ABOUT)


def _code_of(error: Exception) -> int:
    return error.status if isinstance(error, BilletError) else Code.INTERNAL
