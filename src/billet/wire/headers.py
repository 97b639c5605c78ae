"""Metadata of Billet's own on gRPC calls, and what a create is known by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b, sha256

from billet.core.errors import InvalidRequest
from billet.core.model import REQUESTED
from billet.wire.flintlock import read_labels

REQUEST_ID = "x-billet-request-id"  # from clients: the same create, however often it is sent
REQUEST_ID_LABEL = "billet.io/request-id"  # the same for those who cannot send metadata
STALE = "x-billet-stale-s"  # to clients, with an answer that was given without a leader: its age in seconds

TOKEN = "x-billet-token"  # between servers: the id of a create's auction, the same at every try
ZONE = "x-billet-zone"  # between servers: the zone that the address stands for through which a create came
FORWARDED = "x-billet-forwarded"  # between servers: this call has been passed on once, and is not passed on again
ANSWERED = "x-billet-answered"  # between servers, with an error: it is the leader's word, not the connection's
INTERNAL = frozenset({TOKEN, ZONE, FORWARDED})

REQUEST_ID_MAX_CHARS = 256


def token_of(request: bytes, metadata: Mapping[str, str], new_id: Callable[[], str]) -> str:
    """The token of a create: made from the client's request id where there is one, else a new one.

    Request ids are a namespace's own. The token is shown to the guest, so it is a hash. Raises InvalidRequest.
    """
    wanted = metadata.get(REQUEST_ID, "")
    namespace = ""
    labels: dict[str, str] = {}
    if wanted or REQUEST_ID_LABEL.encode() in request:
        namespace, labels = read_labels(request)
    wanted = wanted or labels.get(REQUEST_ID_LABEL, "")
    if not wanted:
        return new_id()
    if len(wanted) > REQUEST_ID_MAX_CHARS:
        raise InvalidRequest(f"the request id has {len(wanted)} characters; at most {REQUEST_ID_MAX_CHARS} are kept")
    return REQUESTED + blake2b(f"{namespace}\0{wanted}".encode(), digest_size=16).hexdigest()


def proof(link_token: str) -> str:
    """What a server shows with a call that it passes on, so that the other believes that it is a server."""
    return sha256(f"forwarded\0{link_token}".encode()).hexdigest()
