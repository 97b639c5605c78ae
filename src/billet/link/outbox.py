"""Frames of the agents' link: what is sent within one turn of the event loop goes out as one."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message
from picows import WSMsgType, WSTransport

MAX_FRAME_BYTES = 64 * 1024 * 1024  # a List of one host comes in one frame: some 3,700 microVMs of 17 kB
PING_AFTER_S = 4.0  # silence after which a side asks whether the other is there
PONG_WITHIN_S = 4.0  # and how long it waits before the link counts as broken


class Outbox:
    """Collects messages for one connection.

    Protobuf messages that are written one after another read as one that is merged, and repeated fields append: so
    a message for many hosts is serialised once, and a frame is no more than the joined bytes.
    """

    def __init__(self, transport: WSTransport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def put(self, message: Message) -> None:
        """Send a message, soon."""
        self.put_bytes(message.SerializeToString())

    def put_bytes(self, serialised: bytes) -> None:
        """Send a message that is bytes already, soon."""
        if not self._parts:
            asyncio.get_running_loop().call_soon(self.flush)
        self._parts.append(serialised)

    def flush(self) -> None:
        """Send what is there now."""
        if self._parts and not self._transport.is_disconnected:
            self._transport.send(WSMsgType.BINARY, b"".join(self._parts))
        self._parts.clear()
