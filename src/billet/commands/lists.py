"""`billet hosts` and `billet vms`: what Billet's own service says of the fleet."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click
from rich.padding import Padding

from billet.commands.options import client_options, console, output_option

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from billet.client import Address


@click.command()
@client_options
@output_option
def hosts(address: Address, output: str) -> None:
    """Show every host: how full it is, what it has left, how its boots queue.

    \b
    HOW FULL    100% = all is promised of what is scarcest there
    vCPU, GiB   promised / what may be promised; GiB of memory
    VMs         microVMs on it, with those that have FAILED
    BOOT QUEUE  microVMs that wait for their boot x the mean time of one boot
    PRESSURE    of the last 10 s, how much tasks waited for CPU, memory or IO
    """
    from billet.client import Client
    from billet.show.tables import hosts_table, lacking
    from billet.wire.pb.fleet_pb2 import HostsReply, HostsRequest

    with Client(address) as client:
        rows = as_dicts(client.fleet("Hosts", HostsRequest(), HostsReply))["hosts"]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("No host has joined yet; start `billet agent` beside each flintlockd.")
    else:
        screen = console()
        screen.print(hosts_table(rows))
        for line in lacking(rows):
            screen.print(Padding.indent(line.lstrip(), len(line) - len(line.lstrip())), style="dim")


@click.command()
@click.option("-n", "--namespace", default="", help="Only this namespace.")
@click.option("--name", default="", help="Only microVMs of this name.")
@click.option("--host", default="", help="Only microVMs on this host.")
@click.option("--fenced", is_flag=True, help="Those of fenced hosts too, until their hosts have deleted them.")
@client_options
@output_option
def vms(address: Address, output: str, namespace: str, name: str, host: str, fenced: bool) -> None:
    """Show the microVMs: where each runs, and what its auction came to.

    \b
    STATE  flintlockd's once it has the microVM, else the placement's
    SCORE  at which its host won it, lower is better (see billet explain);
           direct = made on the host itself, without an auction
    AGE    since its placement changed last: mostly, since it was made
    """
    from billet.client import Client
    from billet.show.tables import placements_table
    from billet.wire.pb.fleet_pb2 import PlacementsReply, PlacementsRequest

    request = PlacementsRequest(namespace=namespace, name=name, host=host, fenced=fenced)
    with Client(address) as client:
        rows = as_dicts(client.fleet("Placements", request, PlacementsReply))["placements"]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("No microVMs." if not (namespace or name or host) else "No microVMs like that.")
    else:
        console().print(placements_table(rows, time.time()))


def as_dicts(message: Message) -> dict[str, Any]:
    """A message as JSON has it, but with its fields' own names, all of them, and whole numbers as numbers."""
    from google.protobuf.json_format import MessageToDict

    plain: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    whole: dict[str, Any] = _numbers(plain)
    return whole


AMOUNTS = frozenset(
    {"vcpu", "memory_mib", "disk_mib", "vms", "memory_used_mib", "memory_free_mib", "volumes_free_mib"}
)


def _numbers(value: Any) -> Any:
    """protobuf's JSON writes 64-bit numbers as text, since JavaScript cannot hold them; ours are small."""
    if isinstance(value, dict):
        return {key: int(item) if key in AMOUNTS else _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return value
