"""Batch outgoing messages: all that are queued in one turn of the event loop go out as one frame."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message
from picows import WSMsgType, WSTransport

MAX_FRAME_BYTES = 64 * 1024 * 1024  # a full inventory is one frame: about 3,700 microVMs of 17 kB
PING_AFTER_S = 4.0  # silence after which a side sends a ping
PONG_WITHIN_S = 4.0  # time for the answer; without one the link is closed


class Outbox:
    """The outgoing messages of one connection.

    Concatenated protobuf messages parse as one merged message whose repeated fields are appended. So a frame is just
    the joined bytes, and a message for many hosts is serialised once.
    """

    def __init__(self, transport: WSTransport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def put(self, message: Message) -> None:
        """Queue a message."""
        self.put_bytes(message.SerializeToString())

    def put_bytes(self, serialised: bytes) -> None:
        """Queue a serialised message."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self.flush)
        self._parts.append(serialised)

    def flush(self) -> None:
        """Send the queued messages now."""
        if self._parts and not self._transport.is_disconnected:
            self._transport.send(WSMsgType.BINARY, b"".join(self._parts))
        self._parts.clear()
