"""`billet host drain`: empty a host for planned work, as far as the owners of its microVMs allow it.

It holds no state of its own: each turn looks at the placements and does the next thing, so that it can be
interrupted at any moment and run again, by anybody.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands.lists import as_dicts
from billet.commands.options import Amount, client_options, console, output_option
from billet.core.errors import BilletError, HostVerdict, says_not_found
from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.client import Address, Client

Row = Mapping[str, Any]

EVICT_LABEL, ALLOW = "billet.io/evict", "allow"
POLL_S = 0.5


class Left(NamedTuple):
    """What is still on the host: what may be deleted, what is on its way in or out, what stays and why."""

    evictable: list[Row]
    moving: list[Row]
    staying: list[tuple[Row, str]]


def sort_out(rows: Iterable[Row]) -> Left:
    """Sort a host's placements (as dicts). LOST ones are not there any more."""
    left = Left([], [], [])
    for row in sorted(rows, key=lambda row: (row["namespace"], row["name"], row["uid"])):
        if row["state"] == "LOST":
            continue
        if row["vm_state"] == "UNREACHABLE":
            left.staying.append((row, "stays: its host is not connected; start it, or fence it if it is dead"))
        elif row["state"] in ("RESERVED", "RELEASING"):
            left.moving.append(row)
        elif row["labels"].get(EVICT_LABEL) == ALLOW:
            left.evictable.append(row)
        elif row["adopted"]:
            left.staying.append((row, "stays: it was made on the host itself, its labels are not known"))
        else:
            left.staying.append((row, f"stays: it has no label {EVICT_LABEL}={ALLOW}; its owner has to move it"))
    return left


@click.command(short_help="Cordon a host and show what is left; --evict empties it.")
@click.argument("name", metavar="HOST")
@click.option("--evict", is_flag=True, help=f"Delete the microVMs with the label {EVICT_LABEL}={ALLOW}.")
@click.option("--at-once", type=click.IntRange(1), default=1, show_default=True, help="Most that leave at a time.")
@click.option("--pace-s", type=Amount(0), default=10.0, show_default=True, help="Pause after each such delete.")
@client_options
@output_option
def drain(address: Address, output: str, name: str, evict: bool, at_once: int, pace_s: float) -> None:
    """Cordon a host, and show what is left on it; with --evict, have that made again elsewhere.

    Flintlock cannot migrate. A microVM whose label allows it is deleted, and its controller, told that it is gone,
    makes it again on another host. Everything else stays. Interrupt it as you like and run it again: it goes on
    where it was.

    \b
    Exit codes:
      0  it is cordoned, and with --evict empty
      1  with --evict: something stays that it may not delete;
         or it was interrupted, or no server did what was asked
      2  the command line is wrong
    """
    from billet.client import Client

    evicted: list[str] = []
    with Client(address) as client:
        _cordon(client, name)
        try:
            left = _evict(client, name, at_once, pace_s, evicted) if evict else sort_out(_rows(client, name))
        except KeyboardInterrupt:
            done = counted(len(evicted), "delete")
            raise BilletError(
                f"interrupted after {done}; {name} stays cordoned: run the same again to go on"
            ) from None
    _print(name, left, evicted, output)
    if evict and left.staying:
        raise BilletError(f"{counted(len(left.staying), 'microVM')} left on {name} that may not be deleted")


def _evict(client: Client, name: str, at_once: int, pace_s: float, evicted: list[str]) -> Left:
    """Delete what may be deleted, so many at a time, until nothing moves any more."""
    waiting_for = 0
    while True:
        left = sort_out(_rows(client, name))
        if not left.evictable and not left.moving:
            return left
        going = left.evictable[: max(at_once - len(left.moving), 0)]
        for row in going:
            delete(client, row["uid"])
            evicted.append(row["uid"])
            after = len(left.evictable) - going.index(row) - 1
            click.echo(f"{name}: deleted {row['namespace']}/{row['name']} ({row['uid']}); {after} to go", err=True)
        if not going and len(left.moving) != waiting_for:
            click.echo(f"{name}: {len(left.moving)} on their way, {len(left.evictable)} to go", err=True)
        waiting_for = len(left.moving)
        time.sleep(pace_s if going else POLL_S)


def _cordon(client: Client, name: str) -> None:
    from billet.wire.pb import fleet_pb2 as pb

    client.fleet("ChangeHost", pb.ChangeHostRequest(host=name, verb=pb.CORDON), pb.ChangeHostReply)


def _rows(client: Client, name: str) -> list[Row]:
    from billet.wire.pb import fleet_pb2 as pb

    rows: list[Row] = as_dicts(client.fleet("Placements", pb.PlacementsRequest(host=name), pb.PlacementsReply))[
        "placements"
    ]
    return rows


def delete(client: Client, uid: str) -> None:
    """A Delete as any client sends it; that it is gone already is as good."""
    from google.protobuf.empty_pb2 import Empty

    from billet.wire.pb.flintlock_pb2 import DeleteMicroVMRequest

    try:
        client.flintlock("DeleteMicroVM", DeleteMicroVMRequest(uid=uid), Empty)
    except HostVerdict as verdict:
        if not says_not_found(verdict.text):
            raise


def _print(name: str, left: Left, evicted: list[str], output: str) -> None:
    from billet.show.tables import left_table

    told = [
        *((row, "may be deleted: its label allows it, --evict does it") for row in left.evictable),
        *((row, "is on its way") for row in left.moving),
        *left.staying,
    ]
    if output == "json":
        rows = [{**row, "why": why} for row, why in told]
        click.echo(json.dumps({"host": name, "evicted": evicted, "left": rows}, indent=2))
        return
    if told:
        console().print(left_table(told))
        click.echo(f"{name} is cordoned; {counted(len(told), 'microVM')} left on it.")
    else:
        click.echo(f"{name} is cordoned and empty. `billet host uncordon {name}` takes it into service again.")
