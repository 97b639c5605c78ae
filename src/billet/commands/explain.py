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
    Of several auctions of a name the newest is shown; -o json has all, the newest first.

    \b
    SCORE       FULL AFTER + SHAPE + PRESSURE + BOOT DELAY; the lowest wins
    FULL AFTER  how full the host would be with it, 100% = 1, of what is scarcest
    SHAPE       for the host's size, and the shape of the room that would be left
    PRESSURE    for tasks that wait for CPU, memory or IO there
    BOOT DELAY  for the wait until it would be booted
    BOOT QUEUE  microVMs that wait for their boot x the mean time of one
    FREE        what the host had left before, by the leader's ledger
    """
    from billet.client import Client
    from billet.show.explain import explained, older
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
    screen.print(explained(records[0]))
    if len(records) > 1:
        screen.print(older(records, key), style="dim")
