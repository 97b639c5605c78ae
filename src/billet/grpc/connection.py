"""An HTTP/2 connection that carries gRPC calls: what servers and clients share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import ngh2
from ngh2 import events

from billet.grpc.http2 import CALM_DOWN, SETTING_HEADER_LIST, configuration
from billet.grpc.limits import Bucket, Limits
from billet.grpc.liveness import Due, Liveness
from billet.grpc.metadata import Headers
from billet.grpc.status import RpcError
from billet.grpc.stream import Stream

S = TypeVar("S", bound=Stream)

SLICE_BYTES = 16 << 10  # data is looked at in slices, so that a flood is noticed before it has cost much
PING = b"billet/k"
UNFINISHED_BYTES = 32 << 10  # of a frame that is not complete: twice the largest
BYTES_PER_IGNORED_FRAME = 256  # above that, bytes mean nothing, as those of ended calls; so many count as one frame
BYTES_PER_FRAME = 1024  # sent data that explains one more control frame from the peer


class Connection(asyncio.Protocol, Generic[S]):
    """One connection. Subclasses say what headers, the end of messages and a reset mean."""

    def __init__(self, role: ngh2.Role, limits: Limits, settings: dict[int, int], window_bytes: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits
        self.calls: dict[int, S] = {}
        self.blocked: set[Stream] = set()  # those whose writer waits for room
        self.transport: Any = None  # asyncio.Transport; typeshed's protocols are looser
        self.established = False  # the peer's first SETTINGS have come
        self.draining = False  # no further calls begin; the connection closes after the last
        self.why = ""  # why this side has closed the connection
        self.h2 = ngh2.Connection(role, configuration(limits))
        self.h2.initiate_connection({SETTING_HEADER_LIST: limits.header_list_bytes, **settings})
        self.h2.set_local_window_size(window_bytes)
        self._before = b""  # to be sent before what libnghttp2 has
        self._sent_bytes = 0  # of messages
        self._ignored_bytes = 0  # since something happened; below 0: so many of calls that we ended may still come
        self._flush_scheduled = False
        self._paused = False  # the transport takes no more at the moment
        self.held_bytes = 0  # that came and were not read
        self.control = Bucket(limits.control_frames_per_s)
        self._timer: asyncio.TimerHandle | None = None
        self.live = Liveness(limits, self.loop.time())

    # The transport's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self.transport = transport
        self._wake_in(self.live.wait_s(False), self._tick)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self.live.hear(self.loop.time())
        try:
            for at in range(0, len(data), SLICE_BYTES):
                if self._received(data[at : at + SLICE_BYTES] if len(data) > SLICE_BYTES else data):
                    return
        except ngh2.NGH2Error as error:
            self.give_up(f"HTTP/2: {error}")
            return
        self.flush()

    def _received(self, data: bytes) -> bool:
        """Handle the events of some bytes; True when the connection is over."""
        cost: int | None = None
        try:
            self.h2.receive_data(data)
        finally:
            cost = self._handle_events()
        self._ignored_bytes = self._ignored_bytes + len(data) if cost is None else min(self._ignored_bytes, 0)
        if self._ignored_bytes > UNFINISHED_BYTES:
            cost = len(data) // BYTES_PER_IGNORED_FRAME
        if cost and not self.control.take(cost):
            self.give_up("too many control frames", CALM_DOWN)
        return bool(self.transport.is_closing())

    def _handle_events(self) -> int | None:
        """Handle what has happened; how many control frames that counts for, None if nothing has."""
        if not (found := self.h2.events()):
            return None
        return sum(_HANDLERS[type(event)](self, event) for event in found if type(event) in _HANDLERS)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._paused = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._paused = False
        self.flush_soon()  # asyncio calls connection_lost twice if the transport is closed in here
        self._wake_writers()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        if self._timer:
            self._timer.cancel()
        for call in list(self.calls.values()):
            self.lost(call, f"the connection broke: {error}" if error else "the connection was closed")

    # HTTP/2's events. Each returns how many control frames the event counts for.

    def _on_data(self, event: events.DataReceived) -> int:
        call = self.calls.get(event.stream_id)
        data = event.data
        if call is None:
            self.consumed(event.stream_id, len(data))
            return 1
        self.live.busy_s = self.live.heard_s
        try:
            call.received(data)
        except RpcError as error:
            self.failed(call, error)
            return 1
        if event.end_stream:
            self.messages_ended(call, ())
        return 0 if data else 1

    def _on_headers(self, event: events.RequestReceived | events.ResponseReceived) -> int:
        self.headers(event.stream_id, event.headers, event.end_stream)
        return 0

    def _on_trailers(self, event: events.TrailersReceived) -> int:
        if call := self.calls.get(event.stream_id):
            self.messages_ended(call, event.headers)
        return 0

    def _on_reset(self, event: events.StreamReset) -> int:
        if call := self.calls.get(event.stream_id):
            self.reset_received(call, event.error_code)
        return 0

    def _on_closed_stream(self, event: events.StreamClosed) -> int:
        if (event.error_code or event.local_error) and (call := self.calls.get(event.stream_id)):
            self.reset_received(call, event.error_code)
        return 0

    def _on_settings(self, event: events.SettingsReceived) -> int:
        self.established = True
        self.settings_received()
        return 1

    def _on_pong(self, event: events.PingAcknowledged) -> int:
        self.pong_received(event.opaque_data)
        return 1

    def _on_goaway(self, event: events.GoAwayReceived) -> int:
        self.goaway_received(event.last_stream_id, event.error_code, event.debug_data)
        return 1

    def _on_closed(self, event: events.ConnectionClosed) -> int:
        self.give_up(f"HTTP/2: the connection ended with error {event.error_code}")
        return 1

    # What subclasses say

    def headers(self, stream_id: int, headers: Headers, end: bool) -> None:
        """A request's or a reply's headers came."""
        raise NotImplementedError

    def messages_ended(self, call: S, trailers: Headers) -> None:
        """The other side sends no more messages."""
        raise NotImplementedError

    def failed(self, call: S, error: RpcError) -> None:
        """This side ends a call with an error."""
        raise NotImplementedError

    def reset_received(self, call: S, h2_code: int) -> None:
        """The other side has reset a call."""
        raise NotImplementedError

    def lost(self, call: S, why: str) -> None:
        """The connection has ended under a call."""
        raise NotImplementedError

    def settings_received(self) -> None:
        """The other side's settings came."""

    def pong_received(self, data: bytes) -> None:
        """The answer to a ping came."""

    def goaway_received(self, last_stream_id: int, h2_code: int, text: bytes) -> None:
        """The other side wants no further calls; it has seen none beyond this stream."""

    # Sending. Each call of ngh2 may raise, as the peer may have ended the stream or the connection meanwhile.
    def send_data(self, stream_id: int, data: bytes) -> bool:
        """Queue data of a call; False if its stream has ended."""
        try:
            self.h2.send_data(stream_id, data)
        except ngh2.NGH2Error:
            return False
        self.control.give(2 + len(data) // BYTES_PER_FRAME)
        self.live.busy_s = self.loop.time()
        self._sent_bytes += len(data)
        self.flush_soon()
        return True

    def reset(self, stream_id: int, h2_code: int) -> None:
        """Reset a call's stream after what it has to send and may send now. What was under way to us is ignored."""
        with suppress(ngh2.NGH2Error):
            self._ignored_bytes -= self.h2.stream_local_window_size(stream_id)
            # libnghttp2 drops what a stream still has to send once it is reset.
            self._before += self.h2.data_to_send()
            self.flushed()
            self.h2.reset_stream(stream_id, h2_code)
        self.flush_soon()

    def consumed(self, stream_id: int, size: int) -> None:
        """The bytes that came on a stream are dealt with: let the sender send as many more."""
        with suppress(ngh2.NGH2Error):
            self.h2.acknowledge_received_data(size, stream_id)

    def hold(self, size: int) -> bool:
        """Count bytes that came and wait to be read, or that wait no longer; False: there are too many."""
        self.held_bytes += size
        return not self.limits.held_bytes or self.held_bytes <= self.limits.held_bytes

    def backed_up(self, stream_id: int, limit_bytes: int) -> bool:
        """Whether a call's writer has to wait."""
        return self._paused or self.h2.queued_body_size(stream_id) > limit_bytes

    def queued_bytes(self) -> int:
        """Bytes of messages that the peer has not taken yet."""
        return self.h2.queued_body_size()

    def flush_soon(self) -> None:
        """Send what is queued in this turn of the event loop, together with what else is queued in it."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what is queued and may be sent now."""
        self._flush_scheduled = False
        if self.transport is None or self._paused or self.transport.is_closing():
            return
        try:
            data = self._before + self.h2.data_to_send()
        except ngh2.NGH2Error as error:
            self.give_up(f"HTTP/2: {error}")
            return
        self._before = b""
        if data:
            self.transport.write(data)
            self.flushed()
            self._wake_writers()
        self._handle_events()  # libnghttp2 ends calls while it sends: those with headers that HTTP/2 does not allow
        done = self.draining and not self.calls and not self.queued_bytes()
        if done or not (self.h2.want_read or self.h2.want_write):
            self.transport.close()

    def flushed(self) -> None:
        """Everything that could be sent is with the transport."""

    def _wake_writers(self) -> None:
        for call in tuple(self.blocked):
            call.room()

    # The end

    def forget(self, call: S) -> None:
        """A call is over."""
        if self.calls.pop(call.id, None) is not None:
            call.close()
            self.live.busy_s = self.loop.time()

    def drain(self) -> None:
        """Begin no further calls, and close the connection after the last."""
        self.draining = True
        self.flush_soon()

    def give_up(self, why: str, h2_code: int | None = None) -> None:
        """Close the connection now, telling the peer a code if there is one. Its calls end as lost."""
        if self.transport.is_closing():
            return
        self.why = why
        with suppress(ngh2.NGH2Error):  # there may be nothing left to say, as after a wrong preface
            if h2_code is not None:
                self.h2.terminate_connection(h2_code)
            if data := self._before + self.h2.data_to_send():
                self.transport.write(data)
                self.flushed()
        self._before = b""
        self.transport.close()
        for call in list(self.calls.values()):
            self.lost(call, why)
        # A peer that reads nothing would keep a closed connection for ever.
        self._wake_in(self.limits.keepalive_wait_s, self.transport.abort)

    def ping(self, data: bytes = PING) -> None:
        """Ask the peer for a sign of life."""
        with suppress(ngh2.NGH2Error):
            self.h2.ping(data)
        self.flush()

    def _wake_in(self, seconds: float, then: Callable[[], None]) -> None:
        """Set the one timer: it keeps a closed connection in memory until then, or until `connection_lost`."""
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then)

    def _tick(self) -> None:
        """Look at the time now and then."""
        waits_bytes = self.queued_bytes() + self.transport.get_write_buffer_size()
        calls, taken_bytes = len(self.calls), self._sent_bytes - waits_bytes
        finishing, now_s = self.draining and not calls, self.loop.time()
        match self.live.look(now_s, self.established, waits_bytes, taken_bytes, calls, finishing=finishing):
            case Due.SILENT:
                self.give_up("the other side does not speak HTTP/2, or is too slow")
            case Due.STALLED:
                self.give_up(f"the other side has taken no data for {self.limits.stalled_s:g} s", CALM_DOWN)
            case Due.DEAD:
                self.transport.abort()
            case Due.PING:
                self.ping()
            case Due.IDLE:
                self.idle()
        if not self.transport.is_closing():
            self._wake_in(self.live.wait_s(self.established), self._tick)

    def idle(self) -> None:
        """There has been no call for `idle_s`."""


_HANDLERS: dict[type[events.Event], Callable[[Any, Any], int]] = {
    events.DataReceived: Connection._on_data,
    events.RequestReceived: Connection._on_headers,
    events.ResponseReceived: Connection._on_headers,
    events.TrailersReceived: Connection._on_trailers,
    events.StreamReset: Connection._on_reset,
    events.StreamClosed: Connection._on_closed_stream,
    events.SettingsReceived: Connection._on_settings,
    events.WindowUpdated: lambda connection, update: 1,
    events.PingReceived: lambda connection, ping: 1,
    events.PingAcknowledged: Connection._on_pong,
    events.GoAwayReceived: Connection._on_goaway,
    events.ConnectionClosed: Connection._on_closed,
}
