"""The metadata of calls: what both sides say beside their messages."""

from __future__ import annotations

Metadata = tuple[tuple[str, str | bytes], ...]  # keys and values, in order; bytes for keys that end in -bin


class ReplyMetadata:
    """The metadata of a streamed reply.

    Whoever makes the messages fills it in: the headers before the first message, the trailers before the end, or the
    error, that follows the last.
    """

    def __init__(self) -> None:
        self.headers: Metadata = ()
        self.trailers: Metadata = ()
