"""`billet host`: operations on one host. The server decides; if it refuses, its error says why and what to do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from billet.commands import completion
from billet.commands.confirm import confirm, yes_option
from billet.commands.drain import drain, placements_on
from billet.commands.lists import as_dicts
from billet.commands.options import client_options, console, output_option
from billet.core.errors import BilletError
from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.client import Address

FENCE_TIMEOUT_S = 60.0


@click.group()
def host() -> None:
    """Show, cordon, drain, fence or remove a host.

    \b
    Before maintenance:  billet host drain HOST --evict
    After maintenance:   billet host uncordon HOST
    To remove a host:    billet host drain HOST --evict
                         stop its agent
                         billet host remove HOST
    If it has died:      billet host fence HOST
    A new machine, or a lost key:  billet host rebind HOST
    A new host, where the servers have --join approve:  billet host admit HOST
    """


host.add_command(drain)


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@client_options
@output_option
def show(address: Address, output: str, name: str) -> None:
    """Show one host and its unavailable metrics."""
    from billet.client import Client
    from billet.show.tables import host_table
    from billet.wire.pb.fleet_pb2 import HostsReply, HostsRequest

    with Client(address) as client:
        rows = as_dicts(client.fleet("Hosts", HostsRequest(), HostsReply))["hosts"]
    row = next((row for row in rows if row["id"] == name), None)
    if row is None:
        raise BilletError(f"no host is named {name!r}; `billet hosts` lists the hosts")
    if output == "json":
        click.echo(json.dumps(row, indent=2))
    else:
        console().print(host_table(row))


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@client_options
@output_option
def cordon(address: Address, output: str, name: str) -> None:
    """Stop placing new microVMs on a host. Its microVMs keep running."""
    reply = change(address, name, "CORDON")
    _print(reply, output, f"{name} is cordoned: its microVMs keep running, and it gets no new ones.")


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@client_options
@output_option
def uncordon(address: Address, output: str, name: str) -> None:
    """Allow new microVMs on a host again."""
    reply = change(address, name, "UNCORDON")
    state = reply["host"]["state"]
    _print(reply, output, f"{name} is no longer cordoned" + ("." if state == "READY" else f"; it is {state}."))


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@yes_option
@client_options
@output_option
def fence(address: Address, output: str, name: str, yes: bool) -> None:
    """Declare a disconnected host dead.

    Billet declares its microVMs gone: a Get returns flintlockd's own "not found" error, and controllers recreate them
    on other hosts. If the host comes back, it deletes them before it gets new ones. Make sure that the machine is
    switched off or isolated; until it reconnects, its microVMs may keep running beside their replacements.
    """
    if not yes:
        from billet.client import Client

        with Client(address) as client:
            given_up = counted(len(placements_on(client, name)), "microVM")
        confirm(f"Declare host {name} dead, and give up its {given_up}?", yes)
    reply = change(address, name, "FENCE", FENCE_TIMEOUT_S)
    _print(
        reply,
        output,
        f"{name} is fenced: {counted(reply['released'], 'microVM')} declared gone. "
        f"If it comes back, it deletes them before it gets new ones.",
    )


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@click.option(
    "--gone", is_flag=True, help="The machine never comes back: forget the microVMs that were fenced on it too."
)
@click.option(
    "--to", default="", metavar="HOST", help="Both names mean one flintlockd: this one takes over its microVMs."
)
@client_options
@output_option
def remove(address: Address, output: str, name: str, gone: bool, to: str) -> None:
    """Remove a host from the fleet. Its agent must be stopped, and it must have no microVMs.

    If its flintlockd goes on under another name, which is refused since it shows microVMs of this host, --to gives
    them to that name.
    """
    reply = change(address, name, "REMOVE", gone=gone, to=to)
    _print(reply, output, f"{name} is no longer part of the fleet." + (f" Its microVMs are {to}'s." if to else ""))


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@client_options
@output_option
def rebind(address: Address, output: str, name: str) -> None:
    """Let another agent have a host's name: its machine was replaced, or its key file is lost.

    A name is bound to the key and the machine of its agent. If that agent is connected, this command keeps it, and
    only forgets that its identity was copied; to replace it, stop it first. If no agent is connected, the next one
    that connects under this name is bound to it. `billet hosts` shows the agents that try.
    """
    reply = change(address, name, "REBIND")
    bound = "the agent that is connected keeps the name." if reply["host"]["connected"] else ""
    _print(reply, output, f"{name}: {bound or 'the next agent that connects is bound to the name.'}")


@host.command()
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@client_options
@output_option
def admit(address: Address, output: str, name: str) -> None:
    """Let in a new host that waits (servers with --join approve). `billet hosts` shows those that wait."""
    reply = change(address, name, "ADMIT")
    _print(reply, output, f"{name} is admitted, and its name is bound to key {reply['host']['key'] or 'none'}.")


@host.command("accept-term")
@click.argument("name", metavar="HOST", shell_complete=completion.hosts)
@client_options
@output_option
def accept_term(address: Address, output: str, name: str) -> None:
    """Accept the later term that a host reports, after the store was restored by hand.

    Hosts refuse orders of a leader whose term is older than one that they have obeyed. If most hosts report a later
    term, Billet notices by itself; with one or two hosts, or when most are gone, an operator decides.
    """
    reply = change(address, name, "ACCEPT_TERM")
    _print(reply, output, f"The leader begins a term that {name} obeys.")


def change(
    address: Address, name: str, verb: str, timeout_s: float = 30.0, gone: bool = False, to: str = ""
) -> dict[str, Any]:
    """Call ChangeHost with a HostVerb and return the reply as a dict."""
    from billet.client import Client
    from billet.wire.pb.fleet_pb2 import ChangeHostReply, ChangeHostRequest, HostVerb

    request = ChangeHostRequest(host=name, verb=HostVerb.Value(verb), gone=gone, to=to)
    with Client(address, timeout_s) as client:
        return as_dicts(client.fleet("ChangeHost", request, ChangeHostReply))


def _print(reply: dict[str, Any], output: str, sentence: str) -> None:
    click.echo(json.dumps(reply, indent=2) if output == "json" else sentence)
