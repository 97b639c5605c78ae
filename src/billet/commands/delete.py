"""`billet delete`: delete microVMs by uid, by name, by the file they were created from, or a whole namespace."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from billet.commands import completion
from billet.commands.confirm import confirm, yes_option
from billet.commands.microvm import IN_FLIGHT, POLL_S, FailedCall, summary, timeout_option
from billet.commands.options import FiniteFloat, client_options, output_option
from billet.commands.targets import ENDING, Name, is_uid, listed, name_of, one_named
from billet.core.errors import BilletError, HostVerdict, Unreachable, says_not_found
from billet.core.plural import counted
from billet.show.tables import state_of

if TYPE_CHECKING:
    from billet.client import Address, Client

RELEASED = frozenset({"LOST", "FENCED"})  # states of a placement that is listed and takes no room
NAMED_MOST = 5  # in a question


@click.command()
@click.argument("keys", metavar="UID|NAME...", nargs=-1, shell_complete=completion.microvms)
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=completion.namespaces,
    help="Namespace of the names. Without a name, all its microVMs.",
)
@click.option("-f", "--file", "path", default="", metavar="FILE",
              help="Delete the microVM of this spec, by its namespace and id. - = standard input.")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 10_000), default=1, show_default=True,
              help="-f: the number that was given to `billet create`.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Return when the microVMs are gone. By default returns before that.")
@click.option("--wait-s", type=FiniteFloat(0), default=600.0, show_default=True,
              help="--wait: maximum seconds, for all microVMs together.")  # fmt: skip
@yes_option
@timeout_option
@client_options
@output_option
def delete(
    address: Address, output: str, keys: tuple[str, ...], namespace: str, path: str, count: int,
    wait: bool, wait_s: float, yes: bool, timeout_s: float,
) -> None:  # fmt: skip
    """Delete microVMs. Their hosts remove them after the command returns.

    A name may be NAMESPACE/NAME. One that several microVMs have is an error, and so is one that none has; nothing is
    deleted then. A whole namespace is deleted only after a question, or with --yes.

    \b
    billet delete demo/web --wait
    billet delete -f web.yaml
    billet delete -n demo
    """
    from billet.client import Client

    if not (keys or path or namespace):
        raise click.UsageError("give a uid, a name, -f FILE or -n NAMESPACE")
    with Client(address, timeout_s) as client:
        if keys or path:
            uids = [_uid(client, key, namespace) for key in keys]
            uids += [_uid_of(client, name) for name in (_in_file(path, namespace, count) if path else ())]
        else:
            uids = _whole(client, namespace, yes)
        uids = list(dict.fromkeys(uids))
        deleted, failures = _delete_all(client, uids)
        if output != "json":
            click.echo("".join(f"{uid} is being deleted\n" for uid in deleted), nl=False)
        gone = _until_gone(client, deleted, time.monotonic() + wait_s, failures) if wait else []
    if output == "json":
        click.echo(json.dumps({"deleted": deleted, **({"gone": gone} if wait else {})}, indent=2))
    elif wait:
        click.echo("".join(f"{uid} is gone\n" for uid in gone), nl=False)
    if failures:
        raise summary(failures, len(uids), len(uids))


def _uid(client: Client, key: str, namespace: str) -> str:
    return key if is_uid(key) else _uid_of(client, name_of(key, namespace))


def _uid_of(client: Client, wanted: Name) -> str:
    uid: str = one_named(client, wanted)["uid"]
    if not uid:
        raise BilletError(f"{wanted} has no uid yet, because its host has not answered the create; try again")
    return uid


def _in_file(path: str, namespace: str, count: int) -> list[Name]:
    from billet.commands.microvm import DEFAULT_NAMESPACE
    from billet.commands.spec import copies, read_spec

    specs = copies(read_spec(path), "", namespace, count)
    return [Name(spec.namespace or DEFAULT_NAMESPACE, spec.id) for spec in specs]


def _whole(client: Client, namespace: str, yes: bool) -> list[str]:
    """The uids of a whole namespace, after a question."""
    rows = [row for row in listed(client, namespace) if row["uid"] and state_of(row) not in ENDING]
    if not rows:
        raise BilletError(f"namespace {namespace} has no microVMs")
    names = [row["name"] for row in rows[:NAMED_MOST]]
    more = f" and {len(rows) - NAMED_MOST} more" if len(rows) > NAMED_MOST else ""
    confirm(f"Delete {counted(len(rows), 'microVM')}, all of namespace {namespace}: {', '.join(names)}{more}?", yes)
    return [row["uid"] for row in rows]


def _delete_all(client: Client, uids: list[str]) -> tuple[list[str], list[FailedCall]]:
    """Send the deletes in batches of IN_FLIGHT: (deleted, failures)."""
    from google.protobuf.empty_pb2 import Empty

    from billet.wire.pb.flintlock_pb2 import DeleteMicroVMRequest

    deleted: list[str] = []
    failures: list[FailedCall] = []
    for start in range(0, len(uids), IN_FLIGHT):
        batch = uids[start : start + IN_FLIGHT]
        calls = [client.begin("DeleteMicroVM", DeleteMicroVMRequest(uid=uid), Empty) for uid in batch]
        for uid, call in zip(batch, calls, strict=True):
            try:
                client.finish(call)
            except BilletError as error:
                failures.append(FailedCall(uid, error))
            else:
                deleted.append(uid)
    return deleted, failures


def _until_gone(client: Client, uids: list[str], deadline_s: float, failures: list[FailedCall]) -> list[str]:
    """Poll until each microVM is gone, and return those that are. The others are appended to `failures`."""
    gone = []
    for uid in uids:
        try:
            while not _is_gone(client, uid):
                if time.monotonic() > deadline_s:
                    raise Unreachable(f"{uid} is not gone yet; it is still being deleted, see `billet vms`")
                time.sleep(POLL_S)
        except BilletError as error:
            failures.append(FailedCall(uid, error))
        else:
            gone.append(uid)
    return gone


def _is_gone(client: Client, uid: str) -> bool:
    """Whether its host no longer has it, and Billet has given its room back."""
    from billet.wire.pb.flintlock_pb2 import GetMicroVMRequest, GetMicroVMResponse

    try:
        client.flintlock("GetMicroVM", GetMicroVMRequest(uid=uid), GetMicroVMResponse)
    except HostVerdict as verdict:
        if says_not_found(verdict.text):
            return all(row["state"] in RELEASED for row in listed(client, uid=uid))
        raise
    return False
