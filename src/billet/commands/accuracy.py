"""`billet audit`: what the hosts' bids foretold, and what came."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from billet.commands.options import client_options, console, output_option
from billet.core.errors import BilletError

if TYPE_CHECKING:
    from billet.client import Address


@click.command()
@click.argument("host", required=False, default="", metavar="[HOST]")
@client_options
@output_option
def accuracy(address: Address, output: str, host: str) -> None:
    """Show how well bids foretell: seconds to CREATED, and how full the host is after it.

    Of each host the last 500 microVMs that the leader has seen booted. A host whose bids are wrong is named, and its
    bids count for less until its last 30 microVMs say otherwise; docs/scheduling.md has the rule.

    \b
    TIMES TOLD        of how many of the VMs the bid foretold the seconds
    TAKEN / TOLD      seconds taken over seconds foretold, the median
    MEDIAN ERROR      how far from 1 that is, either way, the median
    WITHIN 90 % BOUND how many were within the bound; 90 % are meant to be
    FULLER THAN TOLD  utilisation, reported less foretold: mean, and WORST
    DISCOUNT          its seconds count x times, its score is raised by +
    """
    from billet.client import Client
    from billet.show.accuracy import accuracy as shown
    from billet.wire.auction_records import decode_outcomes
    from billet.wire.pb.fleet_pb2 import AccuracyReply, AccuracyRequest, HostsReply, HostsRequest

    with Client(address) as client:
        reply = client.fleet("Accuracy", AccuracyRequest(host=host), AccuracyReply)
        if host and not reply.outcome_json:
            known = client.fleet("Hosts", HostsRequest(), HostsReply).hosts
            if host not in {row.id for row in known}:
                raise BilletError(f"there is no host {host!r}; billet hosts lists them")
    if output == "json":
        click.echo(json.dumps([json.loads(outcome) for outcome in reply.outcome_json], indent=2))
    elif not reply.outcome_json:
        click.echo(f"{reply.server} has seen no microVM boot{f' on {host}' if host else ''} since it leads.")
    else:
        console().print(shown(decode_outcomes(reply.outcome_json)))
