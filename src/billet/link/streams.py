"""Streams through the agents' link (exec, ssh, anything Billet has no stubs for).

Each has a connection of its own, which the agent opens, so that bulk never delays bids; TCP holds back whoever
sends faster than the other side reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from picows import WSFrame, WSListener, WSMsgType, WSTransport

from billet.core.errors import Code, HostVerdict, Unreachable
from billet.wire.pb import link_pb2 as pb

HIGH_WATER = 64  # pieces waiting to be read, at which the other side is held back


class Pipe(WSListener):
    """One stream's connection, the same on both ends."""

    def __init__(self) -> None:
        self.transport: WSTransport | None = None
        self.opened = asyncio.Event()
        self._pieces: asyncio.Queue[pb.Piece | None] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._held = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The connection is there."""
        self.transport = transport
        self.opened.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A piece came."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        if frame.msg_type != WSMsgType.BINARY:
            return
        self._pieces.put_nowait(pb.Piece.FromString(frame.get_payload_as_bytes()))
        if self._pieces.qsize() >= HIGH_WATER and not self._held:
            self._held = True
            transport.underlying_transport.pause_reading()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is gone."""
        self._pieces.put_nowait(None)
        self._writable.set()

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up."""
        self._writable.set()

    async def send(self, piece: pb.Piece) -> None:
        """Send one piece, when the other side has room. Raises Unreachable when it has gone."""
        await self._writable.wait()
        if self.transport is None or self.transport.is_disconnected:
            raise Unreachable("the link to the host broke in the middle of a stream")
        self.transport.send(WSMsgType.BINARY, piece.SerializeToString())

    async def pieces(self) -> AsyncIterator[pb.Piece]:
        """What the other side sends. Raises Unreachable when it goes without saying that it has ended."""
        while True:
            piece = await self._pieces.get()
            if piece is None:
                raise Unreachable("the link to the host broke in the middle of a stream")
            if self._held and self._pieces.qsize() < HIGH_WATER // 2 and self.transport:
                self._held = False
                self.transport.underlying_transport.resume_reading()
            yield piece
            if piece.end:
                return

    def close(self) -> None:
        """Drop the connection."""
        if self.transport and not self.transport.is_disconnected:
            self.transport.disconnect()


async def send_all(pipe: Pipe, messages: AsyncIterator[bytes]) -> None:
    """The client's messages, then that there are no more."""
    async for message in messages:
        await pipe.send(pb.Piece(data=message))
    await pipe.send(pb.Piece(end=True))


async def receive_all(pipe: Pipe) -> AsyncIterator[bytes]:
    """flintlockd's messages. Ends with HostVerdict unless its status is OK."""
    async for piece in pipe.pieces():
        if not piece.end:
            yield piece.data
        elif piece.code != Code.OK:
            raise HostVerdict(piece.code, piece.text)
