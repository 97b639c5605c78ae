"""A gRPC client's side of one connection, and its calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import ngh2

from billet.core.errors import Code
from billet.grpc import metadata as md
from billet.grpc.connection import Connection
from billet.grpc.http2 import CANCEL, REFUSED_STREAM, SETTING_PUSH, SETTING_STREAMS, SETTING_WINDOW
from billet.grpc.interface import Pairs
from billet.grpc.limits import Limits
from billet.grpc.messages import frame
from billet.grpc.metadata import Headers
from billet.grpc.status import RpcError, from_http, from_reset, name_of
from billet.grpc.stream import Stream

WINDOW_BYTES = (1 << 31) - 1  # of a connection: only the calls' own windows bound what a server may send
TLS_ALERT = b"\x15\x03"  # what a TLS server answers to a client without TLS
NOT_GRPC = "it is not a gRPC port"
STATUS_DIGITS = 10
CLOSES = "it closes the connection"
STREAMS_AT_FIRST = 100  # calls at a time until the server says how many
STATUS, TEXT, HTTP_STATUS = b"grpc-status", b"grpc-message", b":status"


class NotSeen(RpcError):
    """A connection ended before the server saw the call, which can be made on the next one."""

    def __init__(self, text: str) -> None:
        super().__init__(Code.UNAVAILABLE, text, unsent=True)


class ClientCall(Stream):
    """interface.ClientCall."""

    __slots__ = ("_head", "_tail", "client", "done", "half_closed", "headers", "trailers")

    def __init__(self, connection: ClientConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.client = connection
        self._head: Headers | None = None
        self.headers: Pairs = ()
        self.trailers: Pairs = ()
        self.done: asyncio.Future[RpcError | None] = connection.loop.create_future()
        self.half_closed = False  # this side has ended its messages

    async def write(self, message: bytes) -> bool:
        """Send a message, and wait while the server reads too slowly. False: the call is over; read() says how."""
        return await self.send(message)

    def send_only(self, request: bytes) -> None:
        """Send the message of a unary call, and end."""
        self.client.send_data(self.id, frame(request))
        self.end()

    def end(self) -> None:
        """Send no more messages."""
        if self.open and not self.half_closed:
            self.half_closed = True
            self.client.end(self.id)

    def cancel(self, code: int = Code.CANCELLED, text: str = "cancelled by the caller") -> None:
        """Give the call up; the server is told at once. No effect once it is over."""
        self.client.failed(self, RpcError(code, text))

    def head_received(self, headers: Headers) -> None:
        """The reply's headers came. Raises Malformed."""
        self._head = headers
        self.headers = md.decode(headers)
        for name, value in headers:
            if name == b"grpc-encoding":
                self.reader.encoding = value

    def outcome(self, tail: Headers) -> RpcError | None:
        """The call's end by its last headers; None = OK. Raises Malformed."""
        self.trailers = md.decode(tail)
        fields = dict(tail) if tail else {}
        head = dict(self._head or ())
        status = fields.get(STATUS) or head.get(STATUS)
        if status is None:
            http = int(head.get(HTTP_STATUS, b"0"))
            text = f"the server has ended the call without a gRPC status (HTTP status {http})"
            return RpcError(from_http(http), text)
        if status == b"0":
            return None
        code = int(status) if status.isdigit() and len(status) < STATUS_DIGITS else Code.UNKNOWN
        text = md.decode_text(fields.get(TEXT) or head.get(TEXT) or b"")
        return RpcError(code, text, self.trailers if tail else self.headers, answered=True)


class ClientConnection(Connection[ClientCall]):
    """One connection to the server."""

    def __init__(self, limits: Limits, lost: Callable[[ClientConnection], None]) -> None:
        settings = {SETTING_WINDOW: limits.window_bytes, SETTING_PUSH: 0}
        super().__init__(ngh2.Role.CLIENT, limits, settings, WINDOW_BYTES)
        self._lost = lost
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self._waiting: deque[asyncio.Future[None]] = deque()  # calls above the server's limit
        self._limit = STREAMS_AT_FIRST
        self._opened = self._sent = 0  # the last stream that was asked for, and that was handed to the transport

    @property
    def usable(self) -> bool:
        """Whether further calls may begin here."""
        return not self.draining and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.transport = transport
            self._unready(NOT_GRPC)
            self.transport.abort()
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol: the first bytes show who answers."""
        if not self.established and data.startswith(TLS_ALERT):
            self.give_up(CLOSES)
            return
        super().data_received(data)
        if not self.established and self.transport.is_closing():
            self.why = NOT_GRPC

    async def begin(self, head: list[tuple[bytes, bytes]]) -> ClientCall | None:
        """Begin a call; None if no further call may begin here."""
        while self.usable and len(self.calls) >= self._limit:
            place = self.loop.create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                self._next()
                raise
        if not self.usable:
            return None
        try:
            stream_id = self.h2.send_request(head)
        except ngh2.NGH2Error:
            self.draining = True
            return None
        self._opened = stream_id
        call = self.calls[stream_id] = ClientCall(self, stream_id)
        self.live.busy_s = self.loop.time()
        self.flush_soon()
        return call

    def end(self, stream_id: int) -> None:
        """End a call's messages."""
        with suppress(ngh2.NGH2Error):
            self.h2.end_stream(stream_id)
        self.flush_soon()

    def flushed(self) -> None:
        """See Connection."""
        self._sent = self._opened

    def settings_received(self) -> None:
        """See Connection."""
        self._limit = self.h2.remote_settings.get(SETTING_STREAMS, 1 << 31)
        if not self.ready.done():
            self.ready.set_result(None)
        self._next()

    def headers(self, stream_id: int, headers: Headers, end: bool) -> None:
        """See Connection: the reply's headers."""
        if call := self.calls.get(stream_id):
            try:
                call.head_received(headers)
            except md.Malformed as malformed:
                self.failed(call, RpcError(Code.INTERNAL, str(malformed)))
            if end and call.open:
                self.messages_ended(call, ())

    def messages_ended(self, call: ClientCall, trailers: Headers) -> None:
        """See Connection."""
        call.ended = True
        try:
            error = call.outcome(trailers)
        except md.Malformed as malformed:
            error = RpcError(Code.INTERNAL, str(malformed))
        if error is None and call.reader.waiting_bytes:
            error = RpcError(Code.INTERNAL, "the reply ends inside a message")
        if not call.half_closed:
            self.reset(call.id, CANCEL)
        self._conclude(call, error)

    def failed(self, call: ClientCall, error: RpcError) -> None:
        """See Connection: give a call up."""
        if call.open:
            self.reset(call.id, CANCEL)
            self._conclude(call, error)

    def reset_received(self, call: ClientCall, h2_code: int) -> None:
        """See Connection."""
        if h2_code == REFUSED_STREAM:
            error: RpcError = NotSeen("the server has refused the call")
        else:
            code = from_reset(h2_code)
            if code == Code.CANCELLED and call.deadline and call.deadline.when() <= self.loop.time():
                code = Code.DEADLINE_EXCEEDED  # the server's clock was first; grpc-go's client says so too
            error = RpcError(code, f"the server has reset the call ({name_of(code)}, HTTP/2 error {h2_code})")
        self._conclude(call, error)

    def lost(self, call: ClientCall, why: str) -> None:
        """See Connection."""
        self._conclude(call, NotSeen(why) if call.id > self._sent else RpcError(Code.UNAVAILABLE, why))

    def _conclude(self, call: ClientCall, error: RpcError | None) -> None:
        call.error, call.ended = error, True
        self.forget(call)
        if not call.done.done():
            call.done.set_result(error)
        self._next()
        if self.draining:
            self.flush_soon()

    def goaway_received(self, last_stream_id: int, h2_code: int, text: bytes) -> None:
        """See Connection: calls that the server has not seen are repeated elsewhere."""
        self._lost(self)
        for call in [call for call in self.calls.values() if call.id > min(last_stream_id, self._sent)]:
            self._conclude(call, NotSeen("the server goes away"))
        self.drain()
        self._wake_all()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._lost(self)
        super().connection_lost(error)
        self._unready(self.why or (f"{CLOSES}: {error}" if error else CLOSES))
        self._wake_all()

    def _unready(self, why: str) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(why))
            self.ready.exception()  # nobody may be waiting

    def _next(self) -> None:
        """Let as many calls begin as the server allows."""
        free = self._limit - len(self.calls)
        while self._waiting and free > 0:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1

    def _wake_all(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
