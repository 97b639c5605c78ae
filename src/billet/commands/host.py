"""`billet host`: what an operator does to one host. The server decides; a refusal says why and what would help."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from billet.commands.drain import drain
from billet.commands.lists import as_dicts
from billet.commands.options import client_options, console, output_option
from billet.core.errors import BilletError
from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.client import Address

FENCE_TIMEOUT_S = 60.0


@click.group()
def host() -> None:
    """Plan work on a host, or declare a dead one dead.

    \b
    Before a repair:  billet host drain HOST --evict
    After it:         billet host uncordon HOST
    For good:         billet host drain HOST --evict
                      stop its agent
                      billet host remove HOST
    It has died:      billet host fence HOST
    """


host.add_command(drain)


@host.command()
@click.argument("name", metavar="HOST")
@client_options
@output_option
def show(address: Address, output: str, name: str) -> None:
    """Show all that a host says of itself, and what it cannot say."""
    from billet.client import Client
    from billet.show.tables import host_table
    from billet.wire.pb.fleet_pb2 import HostsReply, HostsRequest

    with Client(address) as client:
        rows = as_dicts(client.fleet("Hosts", HostsRequest(), HostsReply))["hosts"]
    row = next((row for row in rows if row["id"] == name), None)
    if row is None:
        raise BilletError(f"there is no host {name!r}; billet hosts lists them")
    if output == "json":
        click.echo(json.dumps(row, indent=2))
    else:
        console().print(host_table(row))


@host.command()
@click.argument("name", metavar="HOST")
@client_options
@output_option
def cordon(address: Address, output: str, name: str) -> None:
    """Give this host no new microVMs. What it runs goes on."""
    said = change(address, name, "CORDON")
    _print(said, output, f"{name} is cordoned: it keeps what it runs and gets no new microVMs.")


@host.command()
@click.argument("name", metavar="HOST")
@client_options
@output_option
def uncordon(address: Address, output: str, name: str) -> None:
    """Give this host new microVMs again."""
    said = change(address, name, "UNCORDON")
    state = said["host"]["state"]
    _print(said, output, f"{name} is no longer cordoned" + ("." if state == "READY" else f"; it is {state}."))


@host.command()
@click.argument("name", metavar="HOST")
@client_options
@output_option
def fence(address: Address, output: str, name: str) -> None:
    """Declare a host dead that is not connected.

    Its microVMs are declared gone: a Get says so in flintlockd's words, and controllers make them again on other
    hosts. Should the host come back, it deletes them before it gets new ones. Be sure that the machine is off, or cut
    off: until it is back in touch, what it runs may go on running beside its replacement.
    """
    said = change(address, name, "FENCE", FENCE_TIMEOUT_S)
    _print(
        said,
        output,
        f"{name} is fenced: {counted(said['released'], 'microVM')} declared gone. "
        f"If it comes back, it deletes them before it gets new ones.",
    )


@host.command()
@click.argument("name", metavar="HOST")
@click.option("--gone", is_flag=True, help="The machine never comes back: forget also what was fenced on it.")
@client_options
@output_option
def remove(address: Address, output: str, name: str, gone: bool) -> None:
    """Forget a host that has no microVMs and whose agent is stopped."""
    said = change(address, name, "REMOVE", gone=gone)
    _print(said, output, f"{name} is no longer part of the fleet.")


def change(address: Address, name: str, verb: str, timeout_s: float = 30.0, gone: bool = False) -> dict[str, Any]:
    """Ask the server for it; the reply as a dict."""
    from billet.client import Client
    from billet.wire.pb.fleet_pb2 import ChangeHostReply, ChangeHostRequest, HostVerb

    request = ChangeHostRequest(host=name, verb=HostVerb.Value(verb), gone=gone)
    with Client(address, timeout_s) as client:
        return as_dicts(client.fleet("ChangeHost", request, ChangeHostReply))


def _print(said: dict[str, Any], output: str, sentence: str) -> None:
    click.echo(json.dumps(said, indent=2) if output == "json" else sentence)
