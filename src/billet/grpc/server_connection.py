"""A gRPC server's side of one connection, and its calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

import ngh2
import structlog

from billet.core import networks
from billet.core.errors import Code
from billet.core.metadata import RETRY_PUSHBACK, retry_ms
from billet.core.shares import Shares
from billet.core.turns import Turns
from billet.grpc import metadata as md
from billet.grpc.connection import Connection
from billet.grpc.http2 import NO_ERROR, SETTING_STREAMS, SETTING_WINDOW
from billet.grpc.interface import Routes, StreamHandler, UnaryHandler
from billet.grpc.limits import MIB, Limits
from billet.grpc.messages import frame
from billet.grpc.metadata import Headers, Metadata
from billet.grpc.server_call import HEAD, ServerCall
from billet.grpc.status import RpcError
from billet.grpc.stream import REFUSED

log = structlog.get_logger()

OK = (b"grpc-status", b"0")
WINDOW_BYTES = 64 * MIB  # of a connection: above Limits.held_bytes, so that no call waits for another one's reader
# libnghttp2 gives no credit back for data that comes after we have ended its call. Once so little is left, the client
# has to take a new connection. Calls alone never use up as much: Limits.held_bytes is half of the window.
WINDOW_LEFT_BYTES = 16 * MIB
GOAWAY_WAIT_S = 1.0  # for the answer that shows that the client has seen the first GOAWAY
GOAWAY_PING = b"billet/g"
LOOK_AGAIN_S = 1.0  # at a request that comes slowly
STOPPING = "the server is stopping; try again"


class Owner(Protocol):
    """The server that a connection belongs to."""

    routes: Routes
    limits: Limits
    held: Shares[ServerConnection]
    turns: Turns[str, ServerCall]
    stopping: bool

    def entered(self, connection: ServerConnection) -> bool:
        """A client has connected; False: it must leave."""

    def left(self, connection: ServerConnection) -> None:
        """A client's connection has ended."""


class ServerConnection(Connection[ServerCall]):
    """One client's connection."""

    def __init__(self, server: Owner) -> None:
        limits = server.limits
        settings = {SETTING_STREAMS: limits.streams, SETTING_WINDOW: limits.large_bytes}
        super().__init__(ngh2.Role.SERVER, limits, settings, WINDOW_BYTES)
        self._server = server
        self.address = ""  # of the client; who shares it shares turns
        self._later: deque[tuple[ServerCall, bytes]] = deque()  # unary calls that have not been started
        self._last_goaway: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = transport
        self.address = networks.of_ip(str((transport.get_extra_info("peername") or ("",))[0]))
        tls = transport.get_extra_info("ssl_object")
        speaks_http2 = tls is None or tls.selected_alpn_protocol() == "h2"
        if not (self._server.entered(self) and speaks_http2):
            self.transport.abort()
            return
        super().connection_made(transport)
        if self._server.stopping:
            self.go_away()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._server.left(self)
        if self._last_goaway:
            self._last_goaway.cancel()
        super().connection_lost(error)

    def hold(self, size: int) -> bool:
        """See Connection. There are also too many if this connection has more than its share of the server's."""
        fits = self._server.held.count(self, size)
        return super().hold(size) and fits

    # Large requests: each has its turn, and keeps it until its call is over.

    def wait_for_turn(self, call: ServerCall) -> None:
        """A call has a large request. It gets credit for all of it now, or within `turn_wait_s`. Raises RpcError."""
        if call.method in self._server.routes.small:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{call.method} takes no request of {call.large_bytes} bytes")
        call.turn_timer = self.loop.call_later(self.limits.turn_wait_s, self._waited, call)
        if self._server.turns.ask(self.address, call, call.large_bytes):
            self.take_turn(call)

    def take_turn(self, call: ServerCall) -> None:
        """It is the turn of a call: let it send all of its request."""
        call.has_turn = True
        with suppress(ngh2.NGH2Error):
            window_bytes = self.limits.large_bytes + call.large_bytes
            self.h2.set_local_window_size(window_bytes, stream_id=call.id)
        call.credit()
        self.flush_soon()
        if call.turn_timer:
            call.turn_timer.cancel()
        within_s = self.limits.rest_wait_s + call.large_bytes / self.limits.rest_bytes_per_s
        call.turn_timer = self.loop.call_later(within_s, self._late, call)

    def _waited(self, call: ServerCall) -> None:
        self._refuse_large(call, f"a large request has waited for {self.limits.turn_wait_s:g} s behind others")

    def _late(self, call: ServerCall) -> None:
        """The rest of a request should be here. It may come later as long as nobody else waits."""
        if call.ended:
            call.turn_timer = None
        elif self._server.turns.waiting:
            self._refuse_large(call, "the rest of a large request came too slowly, and others wait")
        else:
            call.turn_timer = self.loop.call_later(LOOK_AGAIN_S, self._late, call)

    def _refuse_large(self, call: ServerCall, why: str) -> None:
        pause_ms = retry_ms(call.id, REFUSED.refused(self.loop.time(), self._server.turns.waiting))
        text = f"{why}; send fewer at a time, or try again"
        self.failed(call, RpcError(Code.UNAVAILABLE, text, ((RETRY_PUSHBACK, str(pause_ms)),)))

    def _leave_turn(self, call: ServerCall) -> None:
        if call.turn_timer:
            call.turn_timer.cancel()
        if call.has_turn:
            REFUSED.ended(self.loop.time())
        for following in self._server.turns.leave(self.address, call):
            following.connection.take_turn(following)

    def headers(self, stream_id: int, headers: Headers, end: bool) -> None:
        """See Connection: a call begins."""
        if self.transport.is_closing():
            return
        fields = dict(headers)
        call = ServerCall(self, stream_id, fields.get(b":path", b"").decode("ascii", "replace"))
        self.calls[stream_id] = call
        is_post = fields.get(b":method") == b"POST"
        if not is_post or not fields.get(b"content-type", b"").startswith(b"application/grpc"):
            self.respond(stream_id, [(b":status", b"415" if is_post else b"405")], end=True)
            self._hang_up(call, end)
            return
        try:
            self._begin(call, headers, fields)
        except md.Malformed as error:
            self.failed(call, RpcError(Code.INTERNAL, str(error)))
        except RpcError as error:
            self.failed(call, error)
        if end and call.open:
            self.messages_ended(call, ())

    def _begin(self, call: ServerCall, headers: Headers, fields: Mapping[bytes, bytes]) -> None:
        if (encoding := fields.get(b"grpc-encoding")) is not None:
            call.reader.encoding = encoding
        if (timeout := fields.get(b"grpc-timeout")) is not None:
            call.expire_in(md.decode_timeout(timeout))
        call.admit(headers)
        if md.list_bytes(headers) > self.limits.header_list_bytes:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED, f"metadata larger than max ({self.limits.header_list_bytes} bytes)"
            )
        routes = self._server.routes
        if routes.admit:
            call.identity = routes.admit(call)
        call.handler = routes.unary.get(call.method)
        if call.handler is None:
            handler = routes.streams.get(call.method) or routes.fallback
            with suppress(ngh2.NGH2Error):
                self.h2.set_local_window_size(self.limits.window_bytes, stream_id=call.id)
            call.task = self.loop.create_task(self._run_stream(call, handler))

    def messages_ended(self, call: ServerCall, trailers: Headers) -> None:
        """See Connection."""
        call.ended = True
        if call.handler is None or call.task is not None:
            call.wake()
        elif (request := call.only()) is None:
            self.failed(call, RpcError(Code.INTERNAL, "this method takes exactly one message"))
        else:
            self._later.append((call, request))
            self.flushed()

    def flushed(self) -> None:
        """See Connection: start the unary calls that came, unless the client first has many replies to take."""
        limit_bytes = self.limits.queued_bytes
        while self._later and not (limit_bytes and self.queued_bytes() > limit_bytes):
            call, request = self._later.popleft()
            if call.open and call.handler:
                call.task = self.loop.create_task(self._run_unary(call, call.handler, request))

    async def _run_unary(self, call: ServerCall, handler: UnaryHandler, request: bytes) -> None:
        try:
            reply = await handler(request, call)
        except BaseException as error:
            self._handler_failed(call, error)
            return
        if call.open:
            call.start()
            self.send_data(call.id, frame(reply))
            self._finish(call, [OK])

    async def _run_stream(self, call: ServerCall, handler: StreamHandler) -> None:
        try:
            await handler(call)
        except BaseException as error:
            self._handler_failed(call, error)
            return
        if call.open:
            self._finish(call, [OK])

    def _handler_failed(self, call: ServerCall, error: BaseException) -> None:
        call.task = None
        match error:
            case RpcError():
                self.failed(call, error)
            case asyncio.CancelledError():
                self.failed(call, RpcError(Code.UNAVAILABLE, STOPPING))
            case Exception():
                log.exception("unexpected error", method=call.method, exc_info=error)
                self.failed(call, RpcError(Code.UNKNOWN, "internal error; see the server's log"))
            case _:
                raise error

    def failed(self, call: ServerCall, error: RpcError) -> None:
        """See Connection: end a call with an error, and cancel its handler."""
        if not call.open:
            return
        call.error = error.bare()
        trailers = [(b"grpc-status", b"%d" % error.code)]
        if error.text:
            trailers.append((b"grpc-message", md.encode_text(error.text)))
        self._finish(call, trailers, error.trailers)
        if call.task and not call.task.done():
            call.task.cancel()

    def _finish(self, call: ServerCall, trailers: list[tuple[bytes, bytes]], own: Metadata = ()) -> None:
        try:
            trailers += md.encode(own or call.trailers)
        except md.Malformed as error:
            log.error("metadata left out", method=call.method, error=str(error))
        if call.started:
            self.end(call.id, trailers)
        else:
            self.respond(call.id, [*HEAD, *trailers], end=True)
        self._hang_up(call, call.ended)

    def _hang_up(self, call: ServerCall, ended: bool) -> None:
        """Forget a call that was answered; the client need not send the rest."""
        if not ended:
            self.flush()
            if not self.backed_up(call.id, 0):
                self.reset(call.id, NO_ERROR)
            with suppress(ngh2.NGH2Error):
                if self.h2.local_window_size < WINDOW_LEFT_BYTES:
                    self.loop.call_soon(self.go_away)
        self.forget(call)
        self.flush_soon()

    def forget(self, call: ServerCall) -> None:
        """See Connection."""
        call.drop()
        super().forget(call)
        if call.large_bytes:
            self._leave_turn(call)

    def respond(self, stream_id: int, headers: Headers, end: bool = False) -> None:
        """Send a reply's headers."""
        try:
            self.h2.send_response(stream_id, headers, end_stream=end)
        except ngh2.NGH2Error:
            return
        self.control.give(2)
        self.flush_soon()

    def end(self, stream_id: int, trailers: Headers) -> None:
        """Send a reply's end."""
        with suppress(ngh2.NGH2Error):
            self.h2.send_trailers(stream_id, trailers)

    def reset_received(self, call: ServerCall, h2_code: int) -> None:
        """See Connection: the client has cancelled."""
        self._gone(call, RpcError(Code.CANCELLED, "the client has cancelled the call"))

    def lost(self, call: ServerCall, why: str) -> None:
        """See Connection."""
        self._gone(call, RpcError(Code.CANCELLED, f"the client is gone: {why}"))

    def _gone(self, call: ServerCall, error: RpcError) -> None:
        call.error = error
        self.forget(call)
        if call.task:
            call.task.cancel()

    # Going away in two steps: the client may send calls until it has seen the first GOAWAY.

    def go_away(self) -> None:
        """Ask the client to begin no further calls here; those that it has begun are finished."""
        if self._last_goaway or self.draining:
            return
        try:
            self.h2.send_shutdown_notice()
        except ngh2.NGH2Error:
            return
        self.ping(GOAWAY_PING)
        self._last_goaway = self.loop.call_later(GOAWAY_WAIT_S, self.finish_going)

    def pong_received(self, data: bytes) -> None:
        """See Connection."""
        if data == GOAWAY_PING and self._last_goaway:
            self.finish_going()

    def finish_going(self) -> None:
        """The client has seen the first GOAWAY: name the last call that is answered, and close after it."""
        if self._last_goaway:
            self._last_goaway.cancel()
        if self.draining:
            return
        with suppress(ngh2.NGH2Error):
            self.h2.send_goaway(NO_ERROR)
        self.drain()

    def idle(self) -> None:
        """See Connection."""
        self.go_away()

    def stop(self) -> None:
        """End the calls that are left with UNAVAILABLE, and close."""
        for call in list(self.calls.values()):
            self.failed(call, RpcError(Code.UNAVAILABLE, STOPPING))
        self.draining = True
        self.flush()
        if not self.transport.is_closing():
            self.transport.close()
