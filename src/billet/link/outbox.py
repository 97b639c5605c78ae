"""Messages to frames and back: all that are queued in one turn of the event loop go out as one WebSocket message."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message
from picows import WSFrame, WSMsgType, WSTransport

MAX_FRAME_BYTES = 64 << 20  # picows closes a connection that sends a larger frame; larger messages are fragmented
MAX_MESSAGE_BYTES = 256 << 20  # of all fragments together: the List of a host with thousands of microVMs
PING_AFTER_S = 4.0  # silence after which a side sends a ping
PONG_WITHIN_S = 4.0  # time for the answer; without one the link is closed


class Outbox:
    """The outgoing messages of one connection.

    Concatenated protobuf messages parse as one merged message whose repeated fields are appended. So a WebSocket
    message is just the joined bytes, and a message for many hosts is serialised once.
    """

    def __init__(self, transport: WSTransport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []
        self._size = 0  # bytes of the parts

    def put(self, message: Message) -> None:
        """Queue a message."""
        self.put_bytes(message.SerializeToString())

    def put_bytes(self, serialised: bytes) -> None:
        """Queue a serialised message."""
        if self._size + len(serialised) > MAX_FRAME_BYTES:
            self.flush()
        if not self._parts:
            asyncio.get_running_loop().call_soon(self.flush)
        self._parts.append(serialised)
        self._size += len(serialised)

    def flush(self) -> None:
        """Send the queued messages now."""
        if self._parts and not self._transport.is_disconnected:
            whole = b"".join(self._parts)
            if len(whole) <= MAX_FRAME_BYTES:
                self._transport.send(WSMsgType.BINARY, whole)
            else:
                self._send_fragments(whole)
        self._parts.clear()
        self._size = 0

    def _send_fragments(self, whole: bytes) -> None:
        kind = WSMsgType.BINARY
        for start in range(0, len(whole), MAX_FRAME_BYTES):
            end = start + MAX_FRAME_BYTES
            self._transport.send(kind, whole[start:end], fin=end >= len(whole))
            kind = WSMsgType.CONTINUATION


class Inbox:
    """Joins the fragments of one connection's incoming messages."""

    def __init__(self) -> None:
        self._joined = bytearray()  # not a list: one of many tiny fragments would cost time and memory for each

    def whole(self, frame: WSFrame, most_bytes: int = 0) -> bytes | None:
        """The message that ends with this frame; None when more frames follow.

        Raises ValueError if it is larger than `most_bytes`; 0 = MAX_MESSAGE_BYTES.
        """
        most_bytes = most_bytes or MAX_MESSAGE_BYTES
        payload = frame.get_payload_as_bytes()
        if len(self._joined) + len(payload) > most_bytes:
            self._joined = bytearray()
            raise ValueError(f"a message of more than {most_bytes >> 20} MiB")
        if not self._joined and frame.fin:
            return payload
        self._joined += payload
        if not frame.fin:
            return None
        whole, self._joined = bytes(self._joined), bytearray()
        return whole
