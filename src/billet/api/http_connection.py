"""One HTTP connection, with the deadlines that uvicorn has no settings for."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from billet.wire.certificate_names import names_of_peer

CERTIFICATE = "certificate"  # of a request's state: the names in the client's certificate
HEADERS_S = 10.0  # from the connection, or from the last reply, to the end of a request's headers
BODY_S = 30.0  # from the headers to the end of the body
STALLED_S = 60.0  # a reply of which the client takes nothing
REFUSED_S = 1.0  # that a client which is still sending gets to read a refusal
DISCARDED_BYTES = 65_536  # a refused body up to this size is thrown away as it comes; the connection stays


class HttpConnection(H11Protocol):
    """uvicorn's connection, which closes itself when its client is too slow."""

    _awaited: Any = None  # what the timer waits for: a state of h11
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.app_state = {CERTIFICATE: names_of_peer(transport)}
        self._await(h11.IDLE, HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._await(None, 0)
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """See H11Protocol. Headers and body have a deadline each; a reply has none."""
        super().handle_events()
        state = self.conn.their_state
        if state is h11.IDLE:
            self._await(state, HEADERS_S)
        elif state is h11.SEND_BODY:
            self._await(state, BODY_S)
        else:
            self._await(None, 0)

    def on_response_complete(self) -> None:
        """See H11Protocol. If the body was refused, read no more of it."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._expected_bytes() > DISCARDED_BYTES:
            self.flow.pause_reading()
            self._await(h11.MUST_CLOSE, REFUSED_S)

    def send_400_response(self, msg: str) -> None:
        """See H11Protocol. What follows a request is malformed, and this is the last answer: the request gets none.

        uvicorn lets the request's handler answer too, which h11 refuses with an error that fills the log.
        """
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        with suppress(h11.LocalProtocolError):  # the request's own answer has begun
            super().send_400_response(msg)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """See H11Protocol. Closing waits for what the client has not taken yet, but not forever."""
        super().timeout_keep_alive_handler()
        self._await(h11.MUST_CLOSE, STALLED_S)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()
            self._stalled = None

    def _expected_bytes(self) -> float:
        """The size of the request's body, as far as it is said."""
        sizes = [value for name, value in self.headers if name == b"content-length"]
        return int(sizes[0]) if sizes else float("inf")

    def _await(self, state: Any, within_s: float) -> None:
        if self._awaited is state:
            return
        if self._timer:
            self._timer.cancel()
        self._awaited = state
        self._timer = self.loop.call_later(within_s, self.transport.abort) if state else None
