"""The metadata of calls: what both sides say beside their messages."""

from __future__ import annotations

Metadata = tuple[tuple[str, str | bytes], ...]  # keys and values, in order; bytes for keys that end in -bin

# A trailer, as gRPC defines it: the milliseconds after which a client that retries may do so.
RETRY_PUSHBACK = "grpc-retry-pushback-ms"
RETRY_MAX_S = 60.0


def retry_ms(number: int, backlog_s: float = 0.0) -> int:
    """The pause after a refusal, by its number: those who are refused together come back apart.

    It is 1 to 2 s, or up to twice the time that the others take who were there before, RETRY_MAX_S at most.
    """
    least_ms = int(min(max(1.0, backlog_s), RETRY_MAX_S / 2) * 1000)
    return least_ms + number * 37 % 1000 * least_ms // 1000


class ReplyMetadata:
    """The metadata of a streamed reply.

    Whoever makes the messages fills it in: the headers before the first message, the trailers before the end, or the
    error, that follows the last.
    """

    def __init__(self) -> None:
        self.headers: Metadata = ()
        self.trailers: Metadata = ()
