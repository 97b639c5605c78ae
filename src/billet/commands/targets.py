"""Which microVMs a command is about: a uid, a name, a file, a namespace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands.lists import as_dicts
from billet.core.errors import BilletError, Unimplemented
from billet.show.tables import state_of

if TYPE_CHECKING:
    from billet.client import Client

ULID = re.compile("[0-9A-HJKMNP-TV-Z]{26}")  # of flintlockd
ENDING = frozenset({"RELEASING", "LOST", "FENCED", "DELETING"})

Row = dict[str, Any]


class Name(NamedTuple):
    """What a microVM was called when it was created. `namespace` "" = any."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def name_of(text: str, namespace: str = "") -> Name:
    """A name, or NAMESPACE/NAME. `namespace`: that of -n."""
    before, slash, after = text.partition("/")
    return Name(before, after) if slash else Name(namespace, text)


def is_uid(text: str) -> bool:
    """Whether this is a uid rather than a name."""
    return bool(ULID.fullmatch(text))


def listed(client: Client, namespace: str = "", name: str = "", uid: str = "") -> list[Row]:
    """The microVMs, as Billet knows them, also those on hosts that are away; from a plain flintlockd its own list."""
    from billet.wire.pb.fleet_pb2 import PlacementsReply, PlacementsRequest

    request = PlacementsRequest(namespace=namespace, name=name, uid=uid)
    try:
        rows: list[Row] = as_dicts(client.fleet("Placements", request, PlacementsReply))["placements"]
    except Unimplemented:
        rows = _of_flintlockd(client, namespace)
    return [row for row in rows if name in ("", row["name"]) and uid in ("", row["uid"])]


def _of_flintlockd(client: Client, namespace: str) -> list[Row]:
    from billet.wire.pb.flintlock_pb2 import ListMicroVMsRequest, ListMicroVMsResponse
    from billet.wire.pb.flintlock_types_pb2 import MicroVMStatus

    found = client.flintlock("ListMicroVMs", ListMicroVMsRequest(namespace=namespace), ListMicroVMsResponse).microvm
    return [
        {"uid": vm.spec.uid, "namespace": vm.spec.namespace, "name": vm.spec.id, "host": "", "state": "STARTED",
         "vm_state": MicroVMStatus.MicroVMState.Name(vm.status.state)}
        for vm in found
    ]  # fmt: skip


def one_named(client: Client, wanted: Name) -> Row:
    """The microVM of this name that is not ending. Raises BilletError if there is none, or if there are several.

    An empty name, as of a variable that is not set, is an error: to `listed` it stands for every microVM.
    """
    if not wanted.name:
        raise click.UsageError("the name of a microVM is empty")
    rows = [row for row in listed(client, wanted.namespace, wanted.name) if state_of(row) not in ENDING]
    if not rows:
        raise BilletError(f"no microVM is named {wanted}; `billet vms` lists them")
    if len(rows) > 1:
        uids = ", ".join(f"{row['uid'] or 'no uid yet'} ({row['namespace']})" for row in rows)
        raise BilletError(f"{len(rows)} microVMs are named {wanted}: {uids}; give a uid")
    return rows[0]
