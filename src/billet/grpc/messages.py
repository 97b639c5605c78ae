"""gRPC's messages in HTTP/2's data: one byte of flags, four of length, then the message."""

from __future__ import annotations

import zlib

from billet.core.errors import Code
from billet.grpc.status import RpcError

HEAD_BYTES = 5
PART_BYTES = 1024  # parts smaller than this, on average, are put together
LOOSE_PARTS = 64  # but for so many
_GZIP = 31  # zlib's number for a window of 32 KiB in gzip's format


def frame(message: bytes) -> bytes:
    """A message as it is sent: never compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Takes messages out of a stream's data. None may be larger than `limit_bytes`, also not once unpacked."""

    __slots__ = ("_limit_bytes", "_missing_bytes", "_parts", "_size", "encoding", "waiting_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []  # of the message that has not arrived entirely
        self._missing_bytes = 0  # of it, or of its head
        self._size = 0
        self.waiting_bytes = 0  # of the parts
        self.encoding = b"identity"  # of the grpc-encoding header

    @property
    def incomplete_bytes(self) -> int:
        """The size of the message that has not arrived entirely; 0 if there is none, or its size is not known yet."""
        return self._size

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete. Raises RpcError for one that is too large or malformed."""
        if self._parts:
            self._parts.append(data)
            if len(data) < self._missing_bytes:
                self._wait_for_more(len(data))
                return []
            data = b"".join(self._parts)
        found: list[bytes] = []
        at = size = 0
        while len(data) - at >= HEAD_BYTES:
            size = self._length(data, at)
            end = at + HEAD_BYTES + size
            if len(data) < end:
                break
            message = data[at + HEAD_BYTES : end]
            found.append(self._unpack(message) if data[at] else message)
            at, size = end, 0
        self._parts = [data[at:]] if at < len(data) else []
        self.waiting_bytes = len(data) - at
        self._size = size
        self._missing_bytes = HEAD_BYTES + size - self.waiting_bytes
        return found

    def _wait_for_more(self, came_bytes: int) -> None:
        self._missing_bytes -= came_bytes
        self.waiting_bytes += came_bytes
        if (
            len(self._parts) > LOOSE_PARTS + self.waiting_bytes // PART_BYTES
        ):  # a part takes more memory than its bytes
            self._parts = [b"".join(self._parts)]

    def _length(self, buffer: bytes, at: int) -> int:
        length = int.from_bytes(buffer[at + 1 : at + HEAD_BYTES], "big")
        if buffer[at] > 1:
            raise RpcError(Code.INTERNAL, f"malformed message: its flags are {buffer[at]}")
        if length > self._limit_bytes:
            raise self._too_large(str(length))
        return length

    def _unpack(self, packed: bytes) -> bytes:
        if self.encoding != b"gzip":
            encoding = self.encoding.decode("ascii", "replace")
            if encoding == "identity":
                raise RpcError(Code.INTERNAL, "a message is compressed, and grpc-encoding does not say how")
            raise RpcError(
                Code.UNIMPLEMENTED,
                f"messages compressed with {encoding} are not supported; use gzip or none",
                (("grpc-accept-encoding", "identity,gzip"),),
            )
        unpacker = zlib.decompressobj(_GZIP)
        try:
            message = unpacker.decompress(packed, self._limit_bytes + 1)
        except zlib.error as error:
            raise RpcError(Code.INTERNAL, f"a message is not gzip: {error}") from None
        if len(message) > self._limit_bytes:
            raise self._too_large("unpacked, more")
        if not unpacker.eof:
            raise RpcError(Code.INTERNAL, "a message is not gzip: it ends too early")
        return message

    def _too_large(self, size: str) -> RpcError:
        return RpcError(Code.RESOURCE_EXHAUSTED, f"received message larger than max ({size} vs. {self._limit_bytes})")
