"""The names in a client's certificate, by which its credential is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

NONE: tuple[str, ...] = ()
_read: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()  # by TLS session, as parsing takes long


def names_of_peer(transport: Any) -> tuple[str, ...]:
    """The names in the certificate that a connection's peer has shown and TLS has checked; () = it has shown none."""
    session = transport.get_extra_info("ssl_object") if transport else None
    if session is None:
        return NONE
    names = _read.get(session)
    if names is None:
        names = _read[session] = names_in(session.getpeercert() or {})
    return names


def names_in(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in a certificate as `ssl` shows it: URIs (SPIFFE ids) first, then DNS names, then the common name."""
    alternative = certificate.get("subjectAltName", ())
    uris = [value for kind, value in alternative if kind == "URI"]
    hosts = [value for kind, value in alternative if kind == "DNS"]
    common = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return tuple(dict.fromkeys([*uris, *hosts, *common]))
