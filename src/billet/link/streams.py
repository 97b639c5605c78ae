"""Streaming calls through the link (exec, ssh, and every method that Billet has no stubs for).

The agent opens a separate connection for each stream, so that bulk data never delays bids. TCP slows down a sender
that is faster than the reader.

A client ends its messages in one of two ways, and the host has to know which. If it half-closes, a piece with `end`
follows its last message. If it cancels, or its connection breaks, or the server that it called dies, nothing follows,
and the call to flintlockd is cancelled. A cancel must not wait behind data that nobody reads, so it goes another way:
the leader names the stream on the agent's link and drops its connection, and an agent whose link breaks cancels all
streams that came over it.

Whether the other side lives is the link's to find out, too: a side that does not read now answers no pings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from billet.closing import closing
from billet.core.errors import BilletError, Cancelled, Code, HostVerdict, Unreachable
from billet.core.metadata import ReplyMetadata
from billet.link import bounds
from billet.link.messages import get_metadata, put_metadata
from billet.ports import Flintlock
from billet.wire.pb import link_pb2 as pb

HIGH_WATER = 64  # unread pieces at which reading from the connection is paused
BROKEN = "the link to the host closed during a stream"


class Pipe(WSListener):
    """One stream's connection. Both ends use this class."""

    def __init__(self, on_abandoned: Callable[[], object] = lambda: None) -> None:
        """`on_abandoned` is called once, when this side gives the stream up before the other side has ended it."""
        self.transport: WSTransport | None = None
        self.opened = asyncio.Event()
        self._on_abandoned = on_abandoned
        self._on_closed: Callable[[], object] = lambda: None
        self._pieces: asyncio.Queue[pb.Piece | None] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self.ended = False  # the other side's last piece was read
        self._left = False  # this side has closed or abandoned the stream
        self._closed = False  # the connection is
        self._failure: BilletError | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The connection is open."""
        self.transport = transport
        self.opened.set()
        if self._left:
            transport.disconnect(graceful=False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Queue a piece; pause reading when too many are unread."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        if frame.msg_type != WSMsgType.BINARY:
            return
        self._pieces.put_nowait(pb.Piece.FromString(frame.get_payload_as_bytes()))
        if self._pieces.qsize() >= HIGH_WATER and not self._paused:
            self._paused = True
            transport.underlying_transport.pause_reading()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is closed."""
        self._closed = True
        self._pieces.put_nowait(None)
        self._writable.set()
        self._on_closed()

    def when_closed(self, call: Callable[[], object]) -> None:
        """Call this when the connection is closed; at once if it is."""
        self._on_closed = call
        if self._closed:
            call()

    def send_user_specific_ping(self, transport: WSTransport) -> None:
        """Send a ping, for the sake of machines on the way that forget idle connections; no answer is needed."""
        transport.send_ping()
        asyncio.get_running_loop().call_soon(transport.notify_user_specific_pong_received)

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self._writable.set()

    async def send(self, piece: pb.Piece) -> None:
        """Send one piece once the write buffer has room. Raises Unreachable when the connection is closed."""
        await self._writable.wait()
        if self.transport is None or self.transport.is_disconnected:
            raise Unreachable(BROKEN)
        self.transport.send(WSMsgType.BINARY, piece.SerializeToString())

    async def pieces(self) -> AsyncIterator[pb.Piece]:
        """The pieces from the other side.

        Raises Unreachable when the connection closes before the last one, or the error that the stream failed with.
        """
        while True:
            piece = await self._pieces.get()
            if self._failure:
                raise self._failure
            if piece is None:
                raise Unreachable(BROKEN)
            if self._paused and self._pieces.qsize() < HIGH_WATER // 2 and self.transport:
                self._paused = False
                self.transport.underlying_transport.resume_reading()
            self.ended = piece.end
            yield piece
            if piece.end:
                return

    def fail(self, error: BilletError) -> None:
        """Abandon the stream; whoever reads from it gets this error, also instead of pieces that have arrived."""
        self._failure = self._failure or error
        self._pieces.put_nowait(None)
        self.abandon()

    def abandon(self) -> None:
        """Give the stream up before its end: drop the connection, with all that is unsent."""
        if not self._left:
            self._left = True
            self._on_abandoned()
            if self.transport and not self.transport.is_disconnected:
                self.transport.disconnect(graceful=False)

    def close(self) -> None:
        """Close the connection when all that was sent is written."""
        self._left = True
        if self.transport and not self.transport.is_disconnected:
            self.transport.disconnect()


async def send_all(pipe: Pipe, messages: AsyncIterator[bytes]) -> None:
    """Send the client's messages, then an end marker. If they end with an error, the client has cancelled."""
    try:
        async for message in messages:
            await pipe.send(pb.Piece(data=message))
        await pipe.send(pb.Piece(end=True))
    except Unreachable:
        return  # who reads from the pipe notices it too, after what has arrived: perhaps flintlockd's status
    except BilletError as error:
        pipe.fail(error)
    except (Exception, asyncio.CancelledError):
        pipe.fail(Cancelled("the client's messages broke off"))
        raise


async def receive_all(pipe: Pipe, told: ReplyMetadata) -> AsyncIterator[bytes]:
    """flintlockd's messages; its metadata goes into `told`. Raises HostVerdict when its status is not OK."""
    async for piece in pipe.pieces():
        if piece.headers:
            told.headers = get_metadata(piece.headers)
        if not piece.end:
            yield piece.data
            continue
        told.trailers = get_metadata(piece.trailers)
        if piece.code != Code.OK:
            raise HostVerdict(bounds.status(piece.code), bounds.error(piece.text), told.trailers)


async def copy_all(pipe: Pipe, opening: pb.OpenStream, flintlock: Flintlock) -> pb.Piece:
    """The agent's part: copy messages between leader and flintlockd. Return the last piece, with the status."""
    timeout_s = opening.timeout_ms / 1e3 if opening.timeout_ms else None
    sent, told = get_metadata(opening.metadata), ReplyMetadata()
    status, text = int(Code.OK), ""
    try:
        async with closing(flintlock.stream(opening.method, _sent_by_client(pipe), timeout_s, sent, told)) as replies:
            async for reply in replies:
                await pipe.send(pb.Piece(data=reply, headers=put_metadata(told.headers)))
                told.headers = ()  # they are sent
    except HostVerdict as verdict:
        status, text = verdict.status, verdict.text
    except BilletError as error:
        status, text = int(Code.UNAVAILABLE), error.text
    headers, trailers = put_metadata(told.headers), put_metadata(told.trailers)
    return pb.Piece(end=True, code=status, text=text, headers=headers, trailers=trailers)


async def _sent_by_client(pipe: Pipe) -> AsyncIterator[bytes]:
    """The client's messages. They end when it has half-closed, and with an error when the stream broke off."""
    async for piece in pipe.pieces():
        if not piece.end:
            yield piece.data
