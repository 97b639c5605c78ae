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
@click.option("--why-not", "host", default="", metavar="HOST", help="Why did this host not win, and what would have?")
@client_options
@output_option
def explain(address: Address, output: str, key: str, host: str) -> None:
    """Show the auction of a microVM: who bid what, who refused and why, who won, and how long it took.

    UID|NAME is a uid, a name, NAMESPACE/NAME, or an auction's id. A microVM that found no host has a record too.
    --why-not says by what a host lost, and the smallest change that would have made it win, found by holding the
    auction again with it; of several records of a name it takes the newest.

    \b
    billet explain demo/web
    billet explain demo/web --why-not host-3

    Of several auctions of a name the newest is shown; -o json has all, the newest first.

    \b
    SCORE       the sum of the five below (and of a discount); the lowest wins
    FULL AFTER  how full the host would be with it, 100% = 1, of what is scarcest
    SHAPE       for the host's size, and the shape of the room that would be left
    PRESSURE    for tasks that wait for CPU, memory or IO there
    BOOT DELAY  for the wait until it would be booted
    WISH        for what labels wish softly (spread, near), where there is any
    BOOT QUEUE  microVMs that wait for their boot x the mean time of one
    FREE        what the host had left before, by the leader's ledger
    """
    if host:
        _print_why_not(address, output, key, host)
        return
    from billet.client import Client
    from billet.show.explain import explained, older
    from billet.wire.pb.fleet_pb2 import ExplainReply, ExplainRequest

    with Client(address) as client:
        reply = client.fleet("Explain", ExplainRequest(key=key), ExplainReply)
    records = [json.loads(record) for record in reply.record_json]
    if not records:
        raise _none(key)
    if output == "json":
        click.echo(json.dumps(records, indent=2))
        return
    screen = console()
    screen.print(explained(records[0]))
    if len(records) > 1:
        screen.print(older(records, key), style="dim")


def _none(key: str) -> BilletError:
    return BilletError(
        f"no auction of {key!r} is on record; a server keeps the last --record-auctions that it held itself"
    )


def _print_why_not(address: Address, output: str, key: str, host: str) -> None:
    from billet.client import Client
    from billet.core.questions.record import ANOTHER_SCORE
    from billet.core.questions.whynot import why_not
    from billet.show.whynot import told, verdict, would
    from billet.wire.auction_records import decode
    from billet.wire.pb.fleet_pb2 import RecordsReply, RecordsRequest

    with Client(address) as client:
        kept = client.fleet("Records", RecordsRequest(key=key), RecordsReply).record
    # A create that was sent again, and found its microVM there, has a record without an auction; a quota's no, too.
    records = [decode(data) for data in kept]
    record = next((record for record in records if record.attempts or record.outcome == "unplaced"), None)
    if record is None:
        raise _none(key)
    if not record.attempts:
        raise BilletError(f"no host was asked for {key!r}: {record.text}")
    if record.v in ANOTHER_SCORE:
        raise BilletError(f"the auction of {key!r} was decided by an older Billet's score, which this one has not")
    found = why_not(record, host)
    if output == "json":
        ways = [[{"what": c.what.name, "was": c.was, "to": c.to} for c in way] for way in found.ways]
        said = " ".join([verdict(found, record), *would(found, record)])
        plain = {"host": host, "asked": found.asked, "winner": found.winner, "ways": ways, "text": said}
        click.echo(json.dumps(plain, indent=2))
    else:
        console().print(told(found, record))
