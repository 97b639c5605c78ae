"""`billet hosts`, and replies of Billet's own service as dicts."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click
from rich.padding import Padding
from rich.text import Text

from billet.commands.options import client_options, console, output_option

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from billet.client import Address


@click.command()
@click.option("--agents", "only_agents", is_flag=True, help="List only agents that were not let in, and why.")
@client_options
@output_option
def hosts(address: Address, output: str, only_agents: bool) -> None:
    """List the hosts: how full they are, and how many microVMs wait for their boot.

    Agents that were refused, or that wait for an operator, follow in a table of their own. Certificates of the leader
    and of agents that expire within a month are named; --output json has the date of each agent's.

    \b
    HOW FULL    allocated share of the host's scarcest resource
    vCPU, GiB   allocated / allocatable; GiB of memory
    VMs         microVMs on the host, and how many of them FAILED
    BOOT QUEUE  microVMs that wait for their boot x mean time of one boot
    PRESSURE    share of time in which tasks waited for CPU, memory or IO,
                over the last 10 s
    """
    from billet.client import Client
    from billet.show.tables import agents_table, expiring, hosts_table, troubles, unavailable_metrics
    from billet.wire.pb.fleet_pb2 import HostsReply, HostsRequest

    with Client(address) as client:
        reply = as_dicts(client.fleet("Hosts", HostsRequest(), HostsReply))
    rows, agents = reply["hosts"], reply["agents"]
    screen = console()
    if output == "json":
        click.echo(json.dumps(agents if only_agents else rows, indent=2))
        return
    if only_agents:
        rows = []
    elif not rows:
        click.echo("No host has joined yet; start `billet agent` beside each flintlockd.")
    if rows:
        screen.print(hosts_table(rows))
        for line in troubles(rows):
            screen.print(Text(line, style="yellow"))
        for line in expiring(rows, reply["certificates"], time.time()):
            screen.print(Text(line, style="yellow"))
        for line in unavailable_metrics(rows):
            screen.print(Padding.indent(line.lstrip(), len(line) - len(line.lstrip())), style="dim")
    if agents:
        click.echo("Agents that were not let in:")
        screen.print(agents_table(agents))
    elif only_agents:
        click.echo("Every agent that has connected was let in.")


def as_dicts(message: Message) -> dict[str, Any]:
    """A protobuf message as a dict: snake_case names, unset fields included, 64-bit integers as numbers."""
    from google.protobuf.json_format import MessageToDict

    raw: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    converted: dict[str, Any] = _integers(raw)
    return converted


AMOUNTS = frozenset({
    "vcpu", "memory_mib", "disk_mib", "vms", "memory_used_mib", "memory_free_mib", "volumes_free_mib",
    "term", "size_bytes", "used_bytes",
})  # fmt: skip


def _integers(value: Any) -> Any:
    """Convert AMOUNTS back to int: protobuf's JSON writes 64-bit integers as text, for JavaScript."""
    if isinstance(value, dict):
        return {key: int(item) if key in AMOUNTS else _integers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers(item) for item in value]
    return value
