"""`billet create` and `billet delete`: plain Flintlock calls, which work against a single flintlockd as well."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands.options import Amount, client_options, console, output_option
from billet.core.errors import BilletError, Unreachable
from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.client import Address, Client
    from billet.wire.pb.flintlock_types_pb2 import MicroVM, MicroVMSpec

IN_FLIGHT = 16
POLL_S = 0.2


timeout_option = click.option(
    "--timeout-s", type=Amount(0, min_open=True), default=60.0, show_default=True,
    help="The longest wait for one answer.",
)  # fmt: skip


class FailedCall(NamedTuple):
    """A microVM that was not made, did not boot, or was not deleted, and why; by its name, or its uid."""

    name: str
    error: BilletError


@click.command()
@click.option(
    "-f", "--file", "path", required=True, metavar="FILE", help="YAML or JSON of a MicroVMSpec; - is stdin."
)
@click.option("--name", default="", help="The microVM's name, instead of the file's `id`.")
@click.option("-n", "--namespace", default="", help="Its namespace, instead of the file's.")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, help="Make so many: NAME-1, NAME-2, ...")
@click.option(
    "--wait", is_flag=True, help="Return once each is CREATED or has failed; flintlockd answers before it boots."
)
@click.option(
    "--wait-s", type=Amount(0), default=600.0, show_default=True, help="The longest such wait, for all together."
)
@timeout_option
@client_options
@output_option
def create(
    address: Address, output: str, path: str, name: str, namespace: str, count: int,
    wait: bool, wait_s: float, timeout_s: float,
) -> None:  # fmt: skip
    """Create microVMs from a spec with Flintlock's own fields.

    \b
      id: web
      vcpu: 2
      memory_in_mb: 2048
      kernel: {image: ghcr.io/me/kernel:6.1, filename: boot/vmlinux}
      root_volume: {id: root, source: {container_source: ghcr.io/me/rootfs:1}}
      interfaces: [{device_id: eth1, type: TAP}]
      metadata_text: {user-data: "#cloud-config"}

    `metadata_text` is Billet's: its values are base64-encoded for you into `metadata`.

    Of several, those that fail are named; the others are kept and shown. No more are begun after a failure.
    """
    from billet.client import Client
    from billet.commands.spec import copies, read_spec

    specs = copies(read_spec(path), name, namespace, count)
    with Client(address, timeout_s) as client:
        made, failures = _create_all(client, specs)
        tried = len(made) + len(failures)
        if wait:
            deadline_s = time.monotonic() + wait_s
            made = [_waited_for(client, vm, deadline_s, failures) for vm in made]
        rows = [_row(vm) for vm in made]
        _add_hosts(client, rows)
    _print(rows, output)
    if failures:
        raise _what_failed(failures, tried, len(specs))


def _create_all(client: Client, specs: list[MicroVMSpec]) -> tuple[list[MicroVM], list[FailedCall]]:
    """Send the creates, a few at a time; what was made until the first failures is kept and shown."""
    from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest, CreateMicroVMResponse

    made: list[MicroVM] = []
    failures: list[FailedCall] = []
    for start in range(0, len(specs), IN_FLIGHT):
        batch = specs[start : start + IN_FLIGHT]
        calls = [
            client.begin("CreateMicroVM", CreateMicroVMRequest(microvm=spec), CreateMicroVMResponse) for spec in batch
        ]
        for spec, call in zip(batch, calls, strict=True):
            try:
                made.append(client.finish(call).microvm)
            except BilletError as error:
                failures.append(FailedCall(spec.id, error))
        if failures:
            break
    return made, failures


def _waited_for(client: Client, vm: MicroVM, deadline_s: float, failures: list[FailedCall]) -> MicroVM:
    """The microVM as it was last seen; one that is not CREATED by then is put to the failures."""
    from billet.wire.pb.flintlock_pb2 import GetMicroVMRequest, GetMicroVMResponse
    from billet.wire.pb.flintlock_types_pb2 import MicroVMStatus

    name = f"{vm.spec.id} ({vm.spec.uid})"
    try:
        while vm.status.state == MicroVMStatus.PENDING:
            late = time.monotonic() > deadline_s
            vm = client.flintlock("GetMicroVM", GetMicroVMRequest(uid=vm.spec.uid), GetMicroVMResponse).microvm
            if late and vm.status.state == MicroVMStatus.PENDING:
                raise Unreachable(f"{name} is still PENDING; it may yet boot: see billet vms")
            if vm.status.state == MicroVMStatus.PENDING:
                time.sleep(POLL_S)
        if vm.status.state != MicroVMStatus.CREATED:
            state = MicroVMStatus.MicroVMState.Name(vm.status.state)
            raise BilletError(f"{name} is {state}; its host's flintlockd log says why")
    except BilletError as error:
        failures.append(FailedCall(vm.spec.id, error))
    return vm


def _what_failed(failures: list[FailedCall], tried: int, wanted: int) -> BilletError:
    """The error that ends the command; of several microVMs each reason is told before."""
    if wanted == 1:
        return failures[0].error
    for failure in failures:
        click.echo(f"{failure.name}: {failure.error.text}", err=True)
    rest = f"; {counted(wanted - tried, 'other')} not tried after that" if tried < wanted else ""
    return BilletError(f"{len(failures)} of {wanted} failed: {', '.join(each.name for each in failures)}{rest}")


def _row(vm: MicroVM) -> dict[str, Any]:
    from billet.wire.pb.flintlock_types_pb2 import MicroVMStatus

    return {
        "uid": vm.spec.uid,
        "namespace": vm.spec.namespace,
        "name": vm.spec.id,
        "state": MicroVMStatus.MicroVMState.Name(vm.status.state),
        "vcpu": vm.spec.vcpu,
        "memory_mib": vm.spec.memory_in_mb,
        "host": "",
    }


def _add_hosts(client: Client, rows: list[dict[str, Any]]) -> None:
    """Say where each one went, where the server is Billet; a plain flintlockd has nothing to tell."""
    from billet.wire.pb.fleet_pb2 import PlacementsReply, PlacementsRequest

    try:
        for namespace in {row["namespace"] for row in rows}:
            request = PlacementsRequest(namespace=namespace, name=rows[0]["name"] if len(rows) == 1 else "")
            reply = client.fleet("Placements", request, PlacementsReply)
            by_uid = {placement.uid: placement.host for placement in reply.placements}
            for row in rows:
                row["host"] = by_uid.get(row["uid"], row["host"])
    except BilletError:
        return


def _print(rows: list[dict[str, Any]], output: str) -> None:
    from billet.show.marks import gib, state, table

    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    made = table("UID", "~NAME", "HOST", "STATE", ">vCPU", ">GiB")
    for row in rows:
        name = f"{row['namespace']}/{row['name']}"
        memory = gib(row["memory_mib"])
        made.add_row(row["uid"], name, row["host"] or "-", state(row["state"]), str(row["vcpu"]), memory)
    if rows:
        console().print(made)


@click.command()
@click.argument("uids", metavar="UID...", nargs=-1, required=True)
@timeout_option
@client_options
@output_option
def delete(address: Address, output: str, uids: tuple[str, ...], timeout_s: float) -> None:
    """Delete microVMs by uid. Their hosts take them down after the answer."""
    from google.protobuf.empty_pb2 import Empty

    from billet.client import Client
    from billet.wire.pb.flintlock_pb2 import DeleteMicroVMRequest

    failures = []
    done = []
    with Client(address, timeout_s) as client:
        for uid in uids:
            try:
                client.flintlock("DeleteMicroVM", DeleteMicroVMRequest(uid=uid), Empty)
                done.append(uid)
            except BilletError as error:
                failures.append(FailedCall(uid, error))
    if output == "json":
        click.echo(json.dumps({"deleted": done}, indent=2))
    else:
        click.echo("".join(f"{uid} is being deleted\n" for uid in done), nl=False)
    if failures:
        raise _what_failed(failures, len(uids), len(uids))
