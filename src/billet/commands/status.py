"""`billet status`: who leads, and how the servers, the store and the hosts are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from billet.commands.lists import as_dicts
from billet.commands.options import client_options, console, output_option

if TYPE_CHECKING:
    from billet.client import Address


@click.command()
@client_options
@output_option
def status(address: Address, output: str) -> None:
    """Show who leads, and how the servers, the store and the hosts are.

    Any server answers, also while no server leads or the store is away: it then says so, within 5 s, and shows what
    was known last. The exit code is 1 unless a server leads and the store is serving.

    \b
    STANDS      whether a server stands for election now; "missing 40 s" = it
                did last 40 s ago; listed for an hour
    STATE       of a store's member, as the server that answers sees it
    """
    from billet.client import Client
    from billet.show.status import show_status
    from billet.wire.pb.fleet_pb2 import StatusReply, StatusRequest

    with Client(address) as client:
        reply = as_dicts(client.fleet("Status", StatusRequest(), StatusReply))
    if output == "json":
        click.echo(json.dumps(reply, indent=2))
    else:
        show_status(console(), reply)
    if not (reply["leader"] and reply["store"]["serving"]):
        click.get_current_context().exit(1)
