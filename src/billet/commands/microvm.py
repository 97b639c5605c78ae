"""`billet create`: plain Flintlock calls, which also work against a single flintlockd."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands import completion
from billet.commands.options import FiniteFloat, client_options, console, output_option, say
from billet.commands.targets import ENDING, listed
from billet.core.errors import BilletError, HostVerdict, Unreachable
from billet.core.plural import counted
from billet.show.tables import state_of

if TYPE_CHECKING:
    from billet.client import Address, Client
    from billet.wire.pb.flintlock_types_pb2 import MicroVM, MicroVMSpec

IN_FLIGHT = 16
POLL_S = 0.2
INTERRUPTED = 130  # exit code: 128 + SIGINT, as shells have it
DEFAULT_NAMESPACE = "default"  # flintlockd's, where the spec has none
RETRIED_S = 1_100  # from a first failed boot to flintlockd's FAILED, with its default --maximum-retry


timeout_option = click.option(
    "--timeout-s", type=FiniteFloat(0, min_open=True), default=60.0, show_default=True,
    help="Maximum seconds to wait for each reply.",
)  # fmt: skip


class FailedCall(NamedTuple):
    """A failed create, boot or delete: the microVM's name or uid, and the error."""

    name: str
    error: BilletError


@click.command()
@click.option(
    "-f", "--file", "path", required=True, metavar="FILE", help="MicroVMSpec as YAML or JSON. - = standard input."
)
@click.option("--name", default="", help="Name of the microVM; overrides `id` in the file.")
@click.option(
    "-n", "--namespace", default="", shell_complete=completion.namespaces, help="Namespace; overrides the file."
)
@click.option(
    "--count",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Number of microVMs. More than 1 = they are named NAME-1, NAME-2, ...",
)
@click.option(
    "--wait",
    is_flag=True,
    help="Return when every microVM is CREATED or has failed. By default returns before they boot.",
)
@click.option(
    "--wait-s",
    type=FiniteFloat(0),
    default=600.0,
    show_default=True,
    help="--wait: maximum seconds, for all microVMs together.",
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

    `metadata_text` is an addition of Billet: its values are base64-encoded into `metadata`.

    A name that exists already is told, and the microVM is created all the same, as flintlockd does it. With --count,
    failed microVMs are listed and the others are kept. After a failure no further creates are sent. Ctrl-C ends the
    command, and lists what was created; the exit code is then 130.
    """
    from billet.client import Client
    from billet.commands.spec import copies, read_spec

    specs = copies(read_spec(path), name, namespace, count)
    done = Progress()
    with Client(address, timeout_s) as client:
        _say_existing(client, specs)
        try:
            _create_all(client, specs, done)
            if wait:
                deadline_s = time.monotonic() + wait_s
                for n, vm in enumerate(done.created):
                    done.created[n] = _wait_until_booted(client, vm, deadline_s, done.failures)
        except KeyboardInterrupt:
            _print(_rows(client, done.created), output)
            _say_interrupted(done, len(specs))
            raise click.exceptions.Exit(INTERRUPTED) from None
        rows = _rows(client, done.created)
    _print(rows, output)
    if done.failures:
        raise summary(done.failures, done.tried, len(specs))


@dataclass(slots=True)
class Progress:
    """How far a create has come. `sent`: names of microVMs whose create is not answered yet."""

    created: list[MicroVM] = field(default_factory=list)
    failures: list[FailedCall] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    tried: int = 0


def _say_existing(client: Client, specs: list[MicroVMSpec]) -> None:
    """Tell which of the names exist already. Whoever may not list them is told nothing."""
    names = {spec.id for spec in specs}
    with suppress(HostVerdict):
        for namespace in {spec.namespace or DEFAULT_NAMESPACE for spec in specs}:
            rows = listed(client, namespace, specs[0].id if len(specs) == 1 else "")
            there = [row for row in rows if row["name"] in names and state_of(row) not in ENDING]
            if there:
                first = there[0]
                where = f" on {first['host']}" if first["host"] else ""
                more = f", and {len(there) - 1} more of these names" if len(there) > 1 else ""
                say(f"billet: {namespace}/{first['name']} exists already ({first['uid'] or 'no uid yet'}, "
                    f"{state_of(first)}{where}){more}; another is created beside it", err=True)  # fmt: skip


def _say_interrupted(done: Progress, wanted: int) -> None:
    tried = len(done.created) + len(done.failures) + len(done.sent)
    say(f"billet: interrupted: {len(done.created)} of {wanted} created", err=True)
    if done.sent:
        say(f"billet: unanswered, so they may be created still: {', '.join(done.sent)}; see `billet vms`", err=True)
    if tried < wanted:
        say(f"billet: {counted(wanted - tried, 'other')} not tried", err=True)


def _create_all(client: Client, specs: list[MicroVMSpec], done: Progress) -> None:
    """Send the creates in batches of IN_FLIGHT, up to the first batch with a failure."""
    from billet.wire.pb.flintlock_pb2 import CreateMicroVMRequest, CreateMicroVMResponse

    for start in range(0, len(specs), IN_FLIGHT):
        batch = specs[start : start + IN_FLIGHT]
        done.sent = [spec.id for spec in batch]
        calls = [
            client.begin("CreateMicroVM", CreateMicroVMRequest(microvm=spec), CreateMicroVMResponse) for spec in batch
        ]
        done.tried += len(batch)
        for spec, call in zip(batch, calls, strict=True):
            try:
                created = client.finish(call).microvm
            except BilletError as error:
                done.failures.append(FailedCall(spec.id, error))
            else:
                done.created.append(created)
            done.sent.remove(spec.id)
        if done.failures:
            break


def _wait_until_booted(client: Client, vm: MicroVM, deadline_s: float, failures: list[FailedCall]) -> MicroVM:
    """Poll a microVM until it has booted, and return its last state. Unless it is CREATED, append to `failures`."""
    from billet.wire.pb.flintlock_pb2 import GetMicroVMRequest, GetMicroVMResponse
    from billet.wire.pb.flintlock_types_pb2 import MicroVMStatus

    name = f"{vm.spec.id} ({vm.spec.uid})"
    try:
        while vm.status.state == MicroVMStatus.PENDING:
            late = time.monotonic() > deadline_s
            vm = client.flintlock("GetMicroVM", GetMicroVMRequest(uid=vm.spec.uid), GetMicroVMResponse).microvm
            if late and vm.status.state == MicroVMStatus.PENDING:
                raise Unreachable(f"{name} is still PENDING{_failed_boots(vm)}; it may still boot, see `billet vms`")
            if vm.status.state == MicroVMStatus.PENDING:
                time.sleep(POLL_S)
        if vm.status.state != MicroVMStatus.CREATED:
            state = MicroVMStatus.MicroVMState.Name(vm.status.state)
            raise BilletError(f"{name} is {state}; see the flintlockd log of its host")
    except BilletError as error:
        failures.append(FailedCall(vm.spec.id, error))
    return vm


def _failed_boots(vm: MicroVM) -> str:
    """How often its boot has failed, which flintlockd tells nowhere else before it is FAILED."""
    tried = vm.status.retry
    return (
        f" after {counted(tried, 'failed boot')}, which flintlockd retries for up to {RETRIED_S} s" if tried else ""
    )


def summary(failures: list[FailedCall], tried: int, wanted: int) -> BilletError:
    """The error that ends the command. With several microVMs, first print the error of each failed one."""
    if wanted == 1:
        return failures[0].error
    for failure in failures:
        say(f"{failure.name}: {failure.error.text}", err=True)
    rest = f"; {counted(wanted - tried, 'other')} not tried" if tried < wanted else ""
    return BilletError(f"{len(failures)} of {wanted} failed: {', '.join(each.name for each in failures)}{rest}")


def _rows(client: Client, created: list[MicroVM]) -> list[dict[str, Any]]:
    rows = [_row(vm) for vm in created]
    _add_hosts(client, rows)
    return rows


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
    """Fill in the hosts. A plain flintlockd has no Placements call; the rows then stay without hosts."""
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
    vms = table("UID", "~NAME", "HOST", "STATE", ">vCPU", ">GiB")
    for row in rows:
        name = f"{row['namespace']}/{row['name']}"
        memory = gib(row["memory_mib"])
        vms.add_row(row["uid"], name, row["host"] or "-", state(row["state"]), str(row["vcpu"]), memory)
    if rows:
        console().print(vms)
