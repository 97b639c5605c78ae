"""Streaming calls through the link (exec, ssh, and every method that Billet has no stubs for).

The agent opens a separate connection for each stream, so that bulk data never delays bids. TCP slows down a sender
that is faster than the reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from billet.core.errors import Code, HostVerdict, Unreachable
from billet.wire.pb import link_pb2 as pb

HIGH_WATER = 64  # unread pieces at which reading from the connection is paused


class Pipe(WSListener):
    """One stream's connection. Both ends use this class."""

    def __init__(self) -> None:
        self.transport: WSTransport | None = None
        self.opened = asyncio.Event()
        self._pieces: asyncio.Queue[pb.Piece | None] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The connection is open."""
        self.transport = transport
        self.opened.set()

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
        self._pieces.put_nowait(None)
        self._writable.set()

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
            raise Unreachable("the link to the host closed during a stream")
        self.transport.send(WSMsgType.BINARY, piece.SerializeToString())

    async def pieces(self) -> AsyncIterator[pb.Piece]:
        """The pieces from the other side. Raises Unreachable when the connection closes before the last one."""
        while True:
            piece = await self._pieces.get()
            if piece is None:
                raise Unreachable("the link to the host closed during a stream")
            if self._paused and self._pieces.qsize() < HIGH_WATER // 2 and self.transport:
                self._paused = False
                self.transport.underlying_transport.resume_reading()
            yield piece
            if piece.end:
                return

    def close(self) -> None:
        """Close the connection."""
        if self.transport and not self.transport.is_disconnected:
            self.transport.disconnect()


async def send_all(pipe: Pipe, messages: AsyncIterator[bytes]) -> None:
    """Send the client's messages, then an end marker."""
    async for message in messages:
        await pipe.send(pb.Piece(data=message))
    await pipe.send(pb.Piece(end=True))


async def receive_all(pipe: Pipe) -> AsyncIterator[bytes]:
    """flintlockd's messages. Raises HostVerdict when its status is not OK."""
    async for piece in pipe.pieces():
        if not piece.end:
            yield piece.data
        elif piece.code != Code.OK:
            raise HostVerdict(piece.code, piece.text)
