"""`billet host drain`: cordons a host, and deletes the microVMs whose labels allow it.

The command keeps no state: each step reads the placements and does the next thing. It can be interrupted at any
moment and run again, by any operator.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands import completion
from billet.commands.confirm import confirm, yes_option
from billet.commands.lists import as_dicts
from billet.commands.options import FiniteFloat, client_options, console, output_option, say
from billet.core.errors import BilletError, HostVerdict, says_not_found
from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.client import Address, Client

Row = Mapping[str, Any]

EVICT_LABEL, ALLOW = "billet.io/evict", "allow"
POLL_S = 0.5


class Remaining(NamedTuple):
    """The microVMs still on a host."""

    evictable: list[Row]  # may be deleted
    moving: list[Row]  # being created or deleted
    staying: list[tuple[Row, str]]  # must not be deleted, with the reason


def remaining_on_host(rows: Iterable[Row]) -> Remaining:
    """Classify a host's placements (as dicts). LOST ones are skipped: the host no longer has them."""
    left = Remaining([], [], [])
    for row in sorted(rows, key=lambda row: (row["namespace"], row["name"], row["uid"])):
        if row["state"] == "LOST":
            continue
        if row["vm_state"] == "UNREACHABLE":
            left.staying.append((row, "host not connected: start it, or fence it if it is dead"))
        elif row["state"] in ("RESERVED", "RELEASING"):
            left.moving.append(row)
        elif row["labels"].get(EVICT_LABEL) == ALLOW:
            left.evictable.append(row)
        elif row["adopted"]:
            left.staying.append((row, "not deleted: created directly on the host, so its labels are unknown"))
        else:
            left.staying.append((row, f"not deleted: no label {EVICT_LABEL}={ALLOW}; its owner must move it"))
    return left


@click.command(short_help="Cordon a host; with --evict, also delete its microVMs.")
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@click.option("--evict", is_flag=True, help=f"Delete the microVMs that have the label {EVICT_LABEL}={ALLOW}.")
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Maximum number of microVMs being deleted at a time.",
)
@click.option(
    "--pace-s",
    type=FiniteFloat(0),
    default=10.0,
    show_default=True,
    help="Seconds to pause after each step of deletes. 0 = none.",
)
@yes_option
@client_options
@output_option
def drain(address: Address, output: str, name: str, evict: bool, at_once: int, pace_s: float, yes: bool) -> None:
    """Cordon a host and list its microVMs; with --evict, delete those whose label allows it.

    Flintlock cannot migrate microVMs. Billet deletes a microVM whose label allows it, and its controller recreates it
    on another host. All other microVMs stay. You can interrupt the command and run it again; it continues where it
    stopped.

    \b
    Exit codes:
      0  the host is cordoned, and with --evict empty
      1  with --evict: microVMs remain that must not be deleted;
         or the command was interrupted, or a call failed
      2  the command line is wrong
    """
    from billet.client import Client

    evicted: list[str] = []
    with Client(address) as client:
        if evict and not yes:
            found = len(remaining_on_host(placements_on(client, name)).evictable)
            confirm(f"Cordon host {name}, and delete {counted(found, 'microVM')} on it?", yes)
        _cordon(client, name)
        try:
            if evict:
                left = _evict(client, name, at_once, pace_s, evicted)
            else:
                left = remaining_on_host(placements_on(client, name))
        except KeyboardInterrupt:
            deletes = counted(len(evicted), "delete")
            raise BilletError(
                f"interrupted after {deletes}; {name} stays cordoned; run the same command to continue"
            ) from None
    _print(name, left, evicted, output)
    if evict and left.staying:
        raise BilletError(f"{counted(len(left.staying), 'microVM')} left on {name} that must not be deleted")


def _evict(client: Client, name: str, at_once: int, pace_s: float, evicted: list[str]) -> Remaining:
    """Delete the evictable microVMs, at most `at_once` at a time, until none is left or being created or deleted."""
    waiting_for = 0
    while True:
        left = remaining_on_host(placements_on(client, name))
        if not left.evictable and not left.moving:
            return left
        batch = left.evictable[: max(at_once - len(left.moving), 0)]
        for row in batch:
            delete(client, row["uid"])
            evicted.append(row["uid"])
            after = len(left.evictable) - batch.index(row) - 1
            say(f"{name}: deleted {row['namespace']}/{row['name']} ({row['uid']}); {after} to go", err=True)
        if not batch and len(left.moving) != waiting_for:
            click.echo(f"{name}: {len(left.moving)} in progress, {len(left.evictable)} to go", err=True)
        waiting_for = len(left.moving)
        time.sleep(pace_s if batch else POLL_S)


def _cordon(client: Client, name: str) -> None:
    from billet.wire.pb import fleet_pb2 as pb

    client.fleet("ChangeHost", pb.ChangeHostRequest(host=name, verb=pb.CORDON), pb.ChangeHostReply)


def placements_on(client: Client, name: str) -> list[Row]:
    """The placements of a host."""
    from billet.wire.pb import fleet_pb2 as pb

    rows: list[Row] = as_dicts(client.fleet("Placements", pb.PlacementsRequest(host=name), pb.PlacementsReply))[
        "placements"
    ]
    return rows


def delete(client: Client, uid: str) -> None:
    """Delete one microVM. It is no error if the microVM is already gone."""
    from google.protobuf.empty_pb2 import Empty

    from billet.wire.pb.flintlock_pb2 import DeleteMicroVMRequest

    try:
        client.flintlock("DeleteMicroVM", DeleteMicroVMRequest(uid=uid), Empty)
    except HostVerdict as verdict:
        if not says_not_found(verdict.text):
            raise


def _print(name: str, left: Remaining, evicted: list[str], output: str) -> None:
    from billet.show.tables import remaining_table

    remaining = [
        *((row, "may be deleted: its label allows it; use --evict") for row in left.evictable),
        *((row, "being created or deleted") for row in left.moving),
        *left.staying,
    ]
    if output == "json":
        rows = [{**row, "reason": reason} for row, reason in remaining]
        click.echo(json.dumps({"host": name, "evicted": evicted, "remaining": rows}, indent=2))
        return
    if remaining:
        console().print(remaining_table(remaining))
        click.echo(f"{name} is cordoned; {counted(len(remaining), 'microVM')} left on it.")
    else:
        click.echo(f"{name} is cordoned and empty. `billet host uncordon {name}` puts it back into service.")
