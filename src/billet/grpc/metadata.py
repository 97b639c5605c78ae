"""Metadata, time-outs and status texts as gRPC writes them into HTTP/2 headers.

Source: gRPC's PROTOCOL-HTTP2.md. Metadata is a sequence of (name, value): a value is bytes where the name ends in
"-bin", else text.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote

from billet.core.metadata import RETRY_PUSHBACK

Metadata = Sequence[tuple[str, str | bytes]]
Headers = Sequence[tuple[bytes, bytes]]

_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT_DIGITS = 8
_TEXT_BYTES = 4096  # a status text that is longer as it is sent is cut; some clients take 8 KiB of trailers in all
_PLAIN = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what a status text may have beside letters and digits; no "%"
_OWN = {b"te", b"content-type", b"user-agent", b"content-length"}  # the transport's own headers
# Users' own, despite their prefix.
_PASSED = {b"grpc-status-details-bin", b"grpc-tags-bin", b"grpc-trace-bin", RETRY_PUSHBACK.encode()}


class Malformed(Exception):
    """A header that is not as gRPC defines it."""


def encode(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """Metadata as headers. Raises Malformed for names and values that HTTP/2 does not allow."""
    return [(_name(name), _value(name, value)) for name, value in metadata]


def _name(name: str) -> bytes:
    encoded = name.encode()
    if not encoded or not _NAME_BYTES.issuperset(encoded):
        raise Malformed(f"metadata name {name!r}: small letters, digits and -_. only")
    return encoded


_NAME_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")


def _value(name: str, value: str | bytes) -> bytes:
    if name.endswith("-bin"):
        raw = value if isinstance(value, bytes) else value.encode()
        return b64encode(raw).rstrip(b"=")
    text = (value.encode() if isinstance(value, str) else value).strip(b" ")  # HTTP/2 allows none at the ends
    if not all(0x20 <= byte < 0x7F for byte in text):
        raise Malformed(f"the value of metadata {name!r} is not printable ASCII; names of binary values end in -bin")
    return text


def list_bytes(headers: Headers) -> int:
    """The size of headers as HTTP/2 counts it (RFC 9113, section 6.5.2): 32 bytes more for each."""
    return sum(len(name) + len(value) for name, value in headers) + 32 * len(headers)


def decode(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str | bytes], ...]:
    """The users' metadata among the headers. Raises Malformed for a binary value that is not base64."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == b":" or name in _OWN or (name[:5] == b"grpc-" and name not in _PASSED):
            continue
        text = name.decode("ascii", "replace")
        if name.endswith(b"-bin"):
            found += [(text, _from_base64(text, part)) for part in value.split(b",")]
        else:
            found.append((text, value.decode("ascii", "replace")))
    return tuple(found)


def _from_base64(name: str, value: bytes) -> bytes:
    value = value.strip()
    try:
        return b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed(f"the value of metadata {name!r} is not base64") from None


def encode_timeout(seconds: float) -> bytes:
    """A time-out for the grpc-timeout header: at most eight digits, rounded down but to at least one."""
    for unit, per_s in ((b"u", 1e6), (b"m", 1e3), (b"S", 1.0)):
        number = max(1, int(seconds * per_s))
        if number < 10**_TIMEOUT_DIGITS:
            return b"%d%s" % (number, unit)
    return b"%dS" % (10**_TIMEOUT_DIGITS - 1)


def decode_timeout(value: bytes) -> float:
    """The seconds of a grpc-timeout header. Raises Malformed."""
    text = value.decode("ascii", "replace")
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _TIMEOUT_DIGITS and unit in _SECONDS):
        raise Malformed(f"malformed grpc-timeout: {text!r}")
    return int(digits) * _SECONDS[unit]


def encode_text(text: str) -> bytes:
    """A status text for the grpc-message header, which has no spaces at its ends."""
    encoded = quote(text[:_TEXT_BYTES], safe=_PLAIN, errors="replace")
    while len(encoded) > _TEXT_BYTES:
        text = text[: min(len(text), _TEXT_BYTES) * _TEXT_BYTES // len(encoded)]
        encoded = quote(text, safe=_PLAIN, errors="replace")
    inner = encoded.strip(" ")
    before = len(encoded) - len(encoded.lstrip(" "))
    return ("%20" * before + inner + "%20" * (len(encoded) - before - len(inner))).encode() if inner else b""


def decode_text(value: bytes) -> str:
    """The status text of a grpc-message header. A wrong encoding is shown as it is, never refused."""
    return unquote(value.decode("ascii", "replace"), errors="replace")
