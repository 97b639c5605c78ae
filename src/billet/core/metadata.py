"""The metadata of calls: what both sides say beside their messages."""

from __future__ import annotations

Metadata = tuple[tuple[str, str | bytes], ...]  # keys and values, in order; bytes for keys that end in -bin

# A trailer, as gRPC defines it: the milliseconds after which a client that retries may do so.
RETRY_PUSHBACK = "grpc-retry-pushback-ms"


def retry_ms(number: int) -> int:
    """The pause after a refusal, 1 to 2 s, by its number: those who are refused together come back apart."""
    return 1000 + number * 37 % 1000


class ReplyMetadata:
    """The metadata of a streamed reply.

    Whoever makes the messages fills it in: the headers before the first message, the trailers before the end, or the
    error, that follows the last.
    """

    def __init__(self) -> None:
        self.headers: Metadata = ()
        self.trailers: Metadata = ()
