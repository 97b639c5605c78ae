"""The store's records: core values to and from the stored bytes.

One record per host, placement and credential, as JSON that is readable with the engine's own tools. Every record
carries a version; a record of a newer version is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from billet.core.access import Credential, DropCredential, PutCredential
from billet.core.errors import StoreCorrupt
from billet.core.model import Host, Placement, Resources
from billet.core.state import Change, DropHost, DropPlacement, PutHost, PutPlacement
from billet.ports import Leader

VERSION = 1
HOSTS = "hosts/"
PLACEMENTS = "placements/"
CREDENTIALS = "credentials/"
RESTORING = "restoring"  # key of a mark that exists while the store is being restored

NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)  # ValueError: a key that is not UTF-8

T = TypeVar("T")


def encode(change: Change) -> tuple[str, bytes | None]:
    """A change as the key that it writes and the record; None deletes the key."""
    match change:
        case PutHost(host):
            named = {"capacity": host.capacity._asdict(), "allocatable": host.allocatable._asdict()}
            return HOSTS + host.id, _write(host, named)
        case DropHost(host_id):
            return HOSTS + host_id, None
        case PutPlacement(placement):
            return PLACEMENTS + placement.id, _write(placement, {"demand": placement.demand._asdict()})
        case DropPlacement(placement_id):
            return PLACEMENTS + placement_id, None
        case PutCredential(credential):
            return CREDENTIALS + credential.name, _write(credential, {})
        case DropCredential(name):
            return CREDENTIALS + name, None


def decode(key: str, record: bytes | None) -> Change:
    """The change that wrote this record; None = the key was deleted. Raises StoreCorrupt."""
    if key.startswith(HOSTS):
        name = key.removeprefix(HOSTS)
        return DropHost(name) if record is None else PutHost(_read(key, record, Host))
    if key.startswith(PLACEMENTS):
        name = key.removeprefix(PLACEMENTS)
        return DropPlacement(name) if record is None else PutPlacement(_read(key, record, Placement))
    if key.startswith(CREDENTIALS):
        name = key.removeprefix(CREDENTIALS)
        return DropCredential(name) if record is None else PutCredential(_read(key, record, Credential))
    if key == RESTORING:
        raise StoreCorrupt("a restore of this store was interrupted: run billet store restore --force again")
    raise StoreCorrupt(f"record {key} is of an unknown kind: upgrade Billet, or delete the record")


def read_credentials(records: Mapping[str, bytes]) -> list[Credential]:
    """The credentials, from their records by key. Raises StoreCorrupt."""
    return [_read(key, record, Credential) for key, record in records.items()]


def read_leader(record: bytes) -> Leader:
    """The leader, from a candidate's JSON. Raises StoreCorrupt."""
    try:
        return msgspec.json.decode(record, type=Leader)
    except NOT_JSON as error:
        raise StoreCorrupt(
            f"the leader's record cannot be read ({error}): stop all servers, then start one"
        ) from None


def _write(value: Host | Placement | Credential, named: dict[str, dict[str, int]]) -> bytes:
    fields: dict[str, Any] = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return msgspec.json.encode({"v": VERSION, **fields, **named})


def _read(key: str, record: bytes, kind: type[T]) -> T:
    try:
        fields = msgspec.json.decode(record)
        version = fields.pop("v")
        if version > VERSION:
            raise StoreCorrupt(
                f"record {key} has version {version}, this Billet reads up to {VERSION}: upgrade Billet"
            )
        for name in ("capacity", "allocatable", "demand"):
            if name in fields:
                fields[name] = Resources(**fields[name])
        return msgspec.convert(fields, kind)
    except (*NOT_JSON, KeyError, TypeError, AttributeError) as error:
        raise StoreCorrupt(f"record {key} cannot be read ({error}): restore the store from a backup") from None
