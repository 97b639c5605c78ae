"""Services of newer releases: ServerInfo (0.15), exec and SSH streams (0.13). Raw protobuf both ways.

Only what a proxy has to get right is imitated: which message carries the uid, that bytes flow both ways while the
stream is open, and how it ends. Our sources give the numbers of few fields: of ServerInfo's reply only `version` = 1
is sent, a message with only the text, and whoever reads the other fields sees zeros.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from billet.core.errors import Code, HostVerdict
from billet.wire.newer import EXEC, NO_UID, SSH

_EXIT_0 = b"\x18\x00"  # field 3, varint 0: zero, but there

# Raises the verdict for a uid that this host does not have.
Exists = Callable[[str], None]


def server_info(version: str) -> bytes:
    """A ServerInfo reply."""
    return _field(1, _field(1, version.encode()))


async def exec_command(requests: AsyncIterator[bytes], exists: Exists) -> AsyncIterator[bytes]:
    """A command that writes its input to its output and exits with 0 when the input ends.

    Requests: field 1 = start {uid = 1, cmd = 2, shell = 6}, first and once; field 2 = input; field 3 = end of input.
    Replies: field 1 = output; field 3 = exit code, last.
    """
    first = read_fields(await anext(requests, b""))
    start = read_fields(_bytes(first.get(1, b"")))
    if not start.get(1) or not (start.get(2) or start.get(6)):
        raise HostVerdict(Code.INVALID_ARGUMENT, NO_UID[EXEC])
    exists(_text(start[1]))
    async for request in requests:
        fields = read_fields(request)
        if given := _bytes(fields.get(2, b"")):
            yield _field(1, given)
        if fields.get(3):
            break
    yield _EXIT_0


async def ssh_proxy(requests: AsyncIterator[bytes], exists: Exists) -> AsyncIterator[bytes]:
    """A guest's SSH port that sends back what it gets. Field 1 of the first request = uid, field 2 = data."""
    first = read_fields(await anext(requests, b""))
    if not first.get(1):
        raise HostVerdict(Code.INVALID_ARGUMENT, NO_UID[SSH])
    exists(_text(first[1]))
    if given := _bytes(first.get(2, b"")):
        yield _field(1, given)
    async for request in requests:
        yield _field(1, _bytes(read_fields(request).get(2, b"")))


def read_fields(message: bytes) -> dict[int, bytes | int]:
    """Field numbers and values, the last one of each: bytes for strings and messages, numbers for varints."""
    try:
        fields: Any = UnknownFieldSet(Empty.FromString(message))
        return {field.field_number: field.data for field in fields}
    except DecodeError as error:
        raise HostVerdict(Code.INTERNAL, "grpc: error unmarshalling request: proto: malformed") from error


def _bytes(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else b""


def _text(value: bytes | int) -> str:
    return _bytes(value).decode(errors="replace")


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field; the number is below 16."""
    length, left = bytearray(), len(value)
    while left > 0x7F:
        length.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([number << 3 | 2, *length, left]) + value
