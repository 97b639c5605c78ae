"""`billet explain`: why a microVM is where it is, or why it is nowhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from billet.commands.options import client_options, console, output_option
from billet.core.errors import BilletError

if TYPE_CHECKING:
    from billet.client import Address


@click.command()
@click.argument("key", metavar="UID|NAME")
@client_options
@output_option
def explain(address: Address, output: str, key: str) -> None:
    """Show the auction of a microVM: who bid what, who refused and why, who won, and how long it took.

    UID|NAME is a uid, a name, NAMESPACE/NAME, or an auction's id. A microVM that found no host has a record too.
    """
    from billet.client import Client
    from billet.show.explain import explained
    from billet.wire.pb.fleet_pb2 import ExplainReply, ExplainRequest

    with Client(address) as client:
        reply = client.fleet("Explain", ExplainRequest(key=key), ExplainReply)
    records = [json.loads(record) for record in reply.record_json]
    if not records:
        raise BilletError(
            f"no auction of {key!r} is on record; a server keeps the last --record-auctions that it held itself"
        )
    if output == "json":
        click.echo(json.dumps(records, indent=2))
        return
    screen = console()
    for record in records:
        screen.print(explained(record))
