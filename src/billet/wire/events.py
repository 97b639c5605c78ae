"""Events as bytes: JSON with named fields, of which those that do not apply are left out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from billet.core.errors import StoreCorrupt
from billet.core.events import Event

_encoder = msgspec.json.Encoder()
_DEFAULTS = {name: Event._field_defaults.get(name) for name in Event._fields}


def encode_event(event: Event) -> bytes:
    """An event, for the store."""
    return _encoder.encode(_told(event))


def decode_event(data: bytes) -> Event:
    """A stored event; fields of a newer Billet are left out. Raises StoreCorrupt when it is malformed."""
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        return Event(**{name: value for name, value in fields.items() if name in _DEFAULTS})
    except (msgspec.DecodeError, RecursionError, TypeError, ValueError) as error:
        raise StoreCorrupt(f"cannot read an event: {error}") from error


def shown_event(event: Event, term: int, number: int) -> bytes:
    """An event for clients, with its place in the feed and its time as text."""
    at = datetime.fromtimestamp(event.at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    own = {"microvm": event.microvm} if event.name else {}
    return _encoder.encode({"at": at, **_told(event), **own, "term": term, "number": number})


def _told(event: Event) -> dict[str, Any]:
    return {name: value for name, value in event._asdict().items() if value != _DEFAULTS[name]}
