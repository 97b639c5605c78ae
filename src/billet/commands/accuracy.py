"""`billet accuracy`: the hosts' predictions compared with the actual results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from billet.commands import completion
from billet.commands.options import client_options, console, output_option
from billet.core.errors import BilletError

if TYPE_CHECKING:
    from billet.client import Address


@click.command()
@click.argument("host", required=False, default="", metavar="[HOST]", shell_complete=completion.hosts)
@client_options
@output_option
def accuracy(address: Address, output: str, host: str) -> None:
    """Compare predictions in bids with actual results: seconds to CREATED, and utilisation.

    Covers the last 500 microVMs of each host whose boot the leader has seen. If a host's predictions are wrong, the
    leader corrects its bids until its last 30 microVMs were predicted well; docs/scheduling.md has the rule.

    \b
    WITH FORECAST      microVMs for which the bid predicted the seconds
    ACTUAL / FORECAST  actual seconds / predicted seconds, median
    MEDIAN ERROR       median distance of that ratio from 1
    WITHIN 90 % BOUND  share within the predicted bound; 90 % is ideal
    UTIL. ERROR        reported - predicted utilisation, mean
    WORST UTIL. ERROR  the largest difference, in either direction
    CORRECTION         x: its seconds are multiplied by this;
                       +: this is added to its score
    """
    from billet.client import Client
    from billet.core.corrections import Discount
    from billet.show.accuracy import accuracy_report
    from billet.wire.auction_records import decode_outcomes
    from billet.wire.pb.fleet_pb2 import AccuracyReply, AccuracyRequest, HostsReply, HostsRequest

    with Client(address) as client:
        reply = client.fleet("Accuracy", AccuracyRequest(host=host), AccuracyReply)
        hosts = client.fleet("Hosts", HostsRequest(), HostsReply).hosts
        if host and not reply.outcome_json and host not in {row.id for row in hosts}:
            raise BilletError(f"no host is named {host!r}; `billet hosts` lists the hosts")
    corrections = {row.id: Discount(row.delay_correction or 1.0, row.utilisation_correction) for row in hosts}
    if output == "json":
        click.echo(json.dumps([json.loads(outcome) for outcome in reply.outcome_json], indent=2))
    elif not reply.outcome_json:
        click.echo(
            f"{reply.server} has not seen a microVM boot{f' on {host}' if host else ''} since it became leader."
        )
    else:
        console().print(accuracy_report(decode_outcomes(reply.outcome_json), corrections))
