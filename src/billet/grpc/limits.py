"""What one end of a connection allows the other. 0 = no limit, unless a line says otherwise."""

from __future__ import annotations

import time
from dataclasses import dataclass

MIB = 1 << 20
KIB = 1 << 10
LARGEST_BYTES = (1 << 31) - 1 - 64 * MIB  # of a message: protobuf's are below 2 GiB, and so are HTTP/2's windows


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a server or a client. docs/security.md explains those of a server."""

    # Time
    preface_s: float = 10.0  # from the connection to the other side's first SETTINGS
    handshake_s: float = 10.0  # of TLS; 0 = 60 s
    idle_s: float = 900.0  # a server's connection without a call; then it is told to go away
    stalled_s: float = 60.0  # a connection whose peer takes nothing of more than `stalled_bytes` that wait for it
    stalled_bytes: int = MIB
    keepalive_s: float = 60.0  # silence after which a connection with calls is asked for a sign of life
    keepalive_wait_s: float = 20.0  # for that sign; must not be 0
    # Connections of a server
    connections: int = 10_000
    connections_per_address: int = 5_000
    held_in_all_bytes: int = 64 * MIB  # received on all connections and not yet read; each has a share (core/shares)
    # Per connection
    streams: int = 1_000  # calls at a time; must not be 0
    resets_per_s: int = 200  # calls begun and cancelled; ten times as many at once
    control_frames_per_s: int = 500  # pings, settings, window updates, empty data; ten times as many at once,
    # and as many more as the data that is sent to this peer explains
    held_bytes: int = 32 * MIB  # received and not yet read by the calls' handlers
    queued_bytes: int = 16 * MIB  # of replies that the peer does not take; then it may begin no further call
    # Per call
    header_list_bytes: int = 64 * KIB  # as HTTP/2 counts them; must not be 0
    message_bytes: int = 4 * MIB  # of a message that is received, as grpc-go's default; 0 = 2 GiB
    window_bytes: int = 256 * KIB  # that a stream may send before its handler reads; must not be 0
    # Unary requests above `large_bytes`: their senders get no credit for the rest before their turn (core/turns.py)
    large_bytes: int = 32 * KIB  # must not be 0
    large_in_all_bytes: int = 32 * MIB  # of large requests until their calls end; each address has a share
    turn_wait_s: float = 30.0  # for that turn
    rest_wait_s: float = 5.0  # then, if others wait, for the rest of the request, and the time that it takes
    rest_bytes_per_s: int = 256 * KIB  # at this rate

    @property
    def message_limit_bytes(self) -> int:
        """The size of the largest message that is accepted."""
        return self.message_bytes or LARGEST_BYTES


class Bucket:
    """A token bucket: `per_s` tokens a second, ten seconds' worth at most. `per_s` 0 = it is never empty."""

    __slots__ = ("_at_s", "_per_s", "_tokens")

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._tokens = per_s * 10
        self._at_s = time.monotonic()

    def take(self, count: int) -> bool:
        """Take tokens; False if there were too few."""
        if not self._per_s:
            return True
        now_s = time.monotonic()
        self._tokens = min(self._per_s * 10, self._tokens + (now_s - self._at_s) * self._per_s) - count
        self._at_s = now_s
        return self._tokens >= 0

    def give(self, count: int) -> None:
        """Put tokens back."""
        self._tokens = min(self._per_s * 10, self._tokens + count)
