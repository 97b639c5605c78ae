"""flintlockd's texts when containerd, beneath it, is down, is full, or meets two calls at one record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from billet.fake.faults import FaultKind, Faults
from billet.wire import flintlock as wire

_DIAL = (
    'connection error: desc = "transport: error while dialing: dial unix /run/containerd/containerd.sock: '
    'connect: connection refused": unavailable'
)
_REF = "/var/lib/containerd/io.containerd.content.v1.content/ingest/ref"
_FULL = f"failed to create ref: write {_REF}: no space left on device"
_STORE = "getting vm spec from store: finding content in store: walking content store for : "
_SAVING = "creating microvm: saving microvm spec: "
_DIGEST = "sha256:" + "0123456789abcdef" * 4

DOWN: Mapping[str, str] = {
    wire.CREATE: f"creating microvm: checking to see if spec exists: {_STORE}{_DIAL}",
    wire.DELETE: f"deleting microvm: checking to see if spec exists: {_STORE}{_DIAL}",
    wire.GET: f"getting microvm: error attempting to locate microvm with uid: {_STORE}{_DIAL}",
    wire.LIST: f"getting all microvms: error attempting to list microvms: walking content store: {_DIAL}",
}
FULL: Mapping[str, str] = {
    wire.CREATE: f"{_SAVING}getting containerd writer: {_FULL}",
    wire.DELETE: f"deleting microvm: marking microvm spec for deletion: getting containerd writer: {_FULL}",
}


class Answer(NamedTuple):
    """The error that a fault of a kind means. `accepted`: the method does its work all the same."""

    text: str
    accepted: bool = False


_LOCKED = f"{_SAVING}getting containerd writer: ref flintlock/microvm locked for 12.3ms (since now): unavailable"
_LISTING = "getting all microvms: error attempting to list microvms"
_COMMITTING = f"{_SAVING}committing content to store: {_DIAL}"
_PUBLISHING = f"creating microvm: publishing microvm created event: publishing event: {_DIAL}"

ANSWERS: Mapping[FaultKind, Answer] = {
    FaultKind.LOCKED: Answer(_LOCKED),
    FaultKind.LIST_RACE: Answer(
        f"{_LISTING}: getting microvm spec: reading content {_DIGEST}: failed reading from content store"
    ),
    FaultKind.COMMIT_FAILS: Answer(_COMMITTING),
    FaultKind.COMMIT_UNCLEAR: Answer(_COMMITTING, accepted=True),
    FaultKind.PUBLISH_FAILS: Answer(_PUBLISHING, accepted=True),
}


def containerd_error(faults: Faults, method: str) -> str:
    """The text with which every call of a method fails now, because of containerd's state; "" = it does not."""
    if faults.stands(FaultKind.CONTAINERD_DOWN):
        return DOWN.get(method, "")
    return FULL.get(method, "") if faults.stands(FaultKind.CONTAINERD_FULL) else ""
