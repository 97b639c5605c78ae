"""gRPC's messages in HTTP/2's data: one byte of flags, four of length, then the message."""

from __future__ import annotations

import zlib

from billet.core.errors import Code
from billet.grpc.status import RpcError

HEAD_BYTES = 5
_GZIP = 31  # zlib's number for a window of 32 KiB in gzip's format


def frame(message: bytes) -> bytes:
    """A message as it is sent: never compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Takes messages out of a stream's data. None may be larger than `limit_bytes`, also not once unpacked."""

    __slots__ = ("_buffer", "_limit_bytes", "encoding")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer: bytes | bytearray = b""  # of bytes as long as nothing waits, which is nearly always
        self.encoding = b"identity"  # of the grpc-encoding header

    @property
    def waiting_bytes(self) -> int:
        """Bytes of a message that has not arrived entirely."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that these bytes complete. Raises RpcError for one that is too large or malformed."""
        buffer = self._append(data)
        found: list[bytes] = []
        at = 0
        while len(buffer) - at >= HEAD_BYTES:
            end = at + HEAD_BYTES + self._length(buffer, at)
            if len(buffer) < end:
                break
            message = bytes(memoryview(buffer)[at + HEAD_BYTES : end])
            found.append(self._unpack(message) if buffer[at] else message)
            at = end
        self._keep(buffer, at)
        return found

    def _append(self, data: bytes) -> bytes | bytearray:
        if not self._buffer:
            return data
        if isinstance(self._buffer, bytes):
            self._buffer = bytearray(self._buffer)
        self._buffer += data
        return self._buffer

    def _keep(self, buffer: bytes | bytearray, at: int) -> None:
        if at == len(buffer):
            self._buffer = b""
        elif isinstance(buffer, bytearray):
            del buffer[:at]
        else:
            self._buffer = buffer[at:]

    def _length(self, buffer: bytes | bytearray, at: int) -> int:
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
