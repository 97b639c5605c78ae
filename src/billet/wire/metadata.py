"""Metadata of forwarded calls: what a client and a flintlockd say to each other beside their messages.

Billet passes on what is theirs. What belongs to a connection (`authorization`, `user-agent`, `grpc-…`) or to Billet
(`x-billet-…`) stays on its hop. Keys that end in -bin have bytes as their values, all others printable ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from billet.core.errors import InvalidRequest
from billet.core.metadata import RETRY_PUSHBACK, Metadata

MAX_BYTES = 65_536  # of all pairs, counted as HTTP/2 does
PAIR_BYTES = 32  # that HTTP/2 counts for each pair besides its key and value
CHANNEL_BYTES = MAX_BYTES + 8192  # for gRPC's own limit: with what belongs to the connection and to Billet
DETAILS = "grpc-status-details-bin"  # a trailer: the details of a status, as gRPC encodes them

_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[ -~]*")
_OF_THE_HOP = frozenset({"authorization", "user-agent", "content-type", "content-length", "te", "host", "connection"})


class CallMetadata(dict[str, str]):
    """A call's metadata with text values, the last of each key; `pairs` are all that a client has sent, in order."""

    def __init__(self, texts: Mapping[str, str], pairs: Metadata) -> None:
        super().__init__(texts)
        self.pairs = pairs


def from_client(metadata: Mapping[str, str]) -> Metadata:
    """What of a call's metadata is passed on to flintlockd. Raises InvalidRequest if it is too large."""
    pairs = metadata.pairs if isinstance(metadata, CallMetadata) else tuple(metadata.items())
    kept = tuple(pair for pair in pairs if _passes(*pair))
    size = sum(map(size_of, kept))
    if size > MAX_BYTES:
        raise InvalidRequest(f"the metadata has {size:,} bytes; at most {MAX_BYTES:,} are passed on to a host")
    return kept


def from_host(pairs: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """What of a reply's headers or trailers is passed on to the client, as far as it is not too large."""
    kept: list[tuple[str, str | bytes]] = []
    left = MAX_BYTES
    for key, value in pairs or ():
        left -= size_of((key, value))
        own = key == RETRY_PUSHBACK or (key == DETAILS and isinstance(value, bytes))  # gRPC's, for the client
        if left >= 0 and (own or _passes(key, value)):
            kept.append((key, value))
    return tuple(kept)


def is_binary(key: str) -> bool:
    """Whether the values of this key are bytes."""
    return key.endswith("-bin")


def size_of(pair: tuple[str, str | bytes]) -> int:
    """The bytes of one pair."""
    return len(pair[0]) + len(pair[1]) + PAIR_BYTES


def _passes(key: str, value: str | bytes) -> bool:
    if key in _OF_THE_HOP or key.startswith(("grpc-", "x-billet-")) or not _KEY.fullmatch(key):
        return False
    if is_binary(key):
        return isinstance(value, bytes)
    return isinstance(value, str) and _TEXT.fullmatch(value) is not None
