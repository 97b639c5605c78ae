"""Billet's own metadata on gRPC calls, and the token of a create."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b

from billet.core.errors import InvalidRequest
from billet.core.model import REQUESTED
from billet.wire.flintlock import read_labels

REQUEST_ID = "x-billet-request-id"  # from clients: creates with the same id are one create
REQUEST_ID_LABEL = "billet.io/request-id"  # the same, for clients that cannot send metadata
STALE = "x-billet-stale-s"  # to clients, with an answer given without a leader: its age in seconds

TOKEN = "x-billet-token"  # between servers: the id of a create's auction, the same at every attempt
ZONE = "x-billet-zone"  # between servers: the zone of the address that received the create
FORWARDED = "x-billet-forwarded"  # between servers: this call was forwarded once and must not be forwarded again
ANSWERED = "x-billet-answered"  # between servers, with an error: it comes from the leader, not from the connection
IDENTITY = "x-billet-identity"  # between servers: the name of the caller's credential; "" = none is configured
FROM = "x-billet-from"  # between servers: the client's address, "ip:port"
ABOUT = "x-billet-about"  # between servers, with a reply: JSON with what a change was about, for the audit log
INTERNAL = frozenset({TOKEN, ZONE, FORWARDED, IDENTITY, FROM})

REQUEST_ID_MAX_CHARS = 256


def token_of(request: bytes, metadata: Mapping[str, str], new_id: Callable[[], str]) -> str:
    """The token of a create: a hash of namespace and request id when the client sent one, else a new one.

    Request ids are unique within a namespace. The guest can see the token, so it is a hash. Raises InvalidRequest.
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
        raise InvalidRequest(
            f"the request id has {len(wanted)} characters; at most {REQUEST_ID_MAX_CHARS} are allowed"
        )
    return REQUESTED + blake2b(f"{namespace}\0{wanted}".encode(), digest_size=16).hexdigest()
