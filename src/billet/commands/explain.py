"""`billet explain`: why a microVM is on its host, or why it was not placed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from billet.commands import completion
from billet.commands.options import client_options, console, output_option
from billet.core.errors import BilletError

if TYPE_CHECKING:
    from billet.client import Address, Client


@click.command()
@click.argument("key", metavar="UID|NAME", shell_complete=completion.microvms)
@click.option(
    "--why-not",
    "host",
    default="",
    shell_complete=completion.hosts,
    metavar="HOST",
    help="Explain why this host did not win, and which change would have made it win.",
)
@client_options
@output_option
def explain(address: Address, output: str, key: str, host: str) -> None:
    """Show the auction of a microVM: bids, refusals with reasons, the winner, and how long it took.

    UID|NAME is a uid, a name, NAMESPACE/NAME, or an auction's id. MicroVMs that were not placed have a record too.
    If a name has several auctions, the newest is shown; -o json prints all, newest first.

    --why-not shows which parts of the score made a host lose, and the smallest change that would have made it win,
    found by repeating the recorded auction with that change.

    \b
    billet explain demo/web
    billet explain demo/web --why-not host-3

    \b
    SCORE       sum of the five parts below (and a correction); lowest wins;
                * = not the host's own score, see below the table
    FULL AFTER  utilisation of the host with this microVM, 100% = 1,
                for its scarcest resource
    SHAPE       for the host's size and the shape of its remaining room
    PRESSURE    for tasks that wait for CPU, memory or IO
    BOOT DELAY  for the time until this microVM would be booted
    PREF        for soft preferences in labels (spread, near), if any
    BOOT QUEUE  microVMs that wait for their boot x mean time of one boot
    FREE        free room before this microVM, in the leader's ledger
    ▶, 2        the winner, the runner-up
    """
    if host:
        _print_why_not(address, output, key, host)
        return
    from billet.client import Client
    from billet.show.explain import auction_report, older_auctions
    from billet.wire.pb.fleet_pb2 import ExplainReply, ExplainRequest

    with Client(address) as client:
        reply = client.fleet("Explain", ExplainRequest(key=key), ExplainReply)
        records = [json.loads(record) for record in reply.record_json]
        now = _state_now(client, records[0]) if records and output != "json" else ""
    if not records:
        raise _no_record(key)
    if output == "json":
        click.echo(json.dumps(records, indent=2))
        return
    screen = console()
    screen.print(auction_report(records[0], now))
    if len(records) > 1:
        screen.print(older_auctions(records, key), style="dim")


def _state_now(client: Client, record: dict[str, Any]) -> str:
    """flintlockd's state of the microVM of a record, DEAD if its VMM is; "" if unknown, or there is no microVM."""
    from billet.wire.pb.fleet_pb2 import PlacementsReply, PlacementsRequest

    auction, uid = record["auction"], record["outcome"]["uid"]
    if not uid:
        return ""
    wanted = PlacementsRequest(namespace=auction["namespace"], name=auction["name"])
    rows = client.fleet("Placements", wanted, PlacementsReply).placements
    return next(("DEAD" if row.vmm_dead else row.vm_state for row in rows if row.uid == uid), "")


def _no_record(key: str) -> BilletError:
    return BilletError(
        f"no auction of {key!r} is on record: check the name; servers keep the latest auctions (--record-auctions)"
    )


def _print_why_not(address: Address, output: str, key: str, host: str) -> None:
    from billet.client import Client
    from billet.core.questions.record import ANOTHER_SCORE
    from billet.core.questions.whynot import why_not
    from billet.show.whynot import remedies, verdict, why_not_report
    from billet.wire.auction_records import decode
    from billet.wire.pb.fleet_pb2 import RecordsReply, RecordsRequest

    with Client(address) as client:
        kept = client.fleet("Records", RecordsRequest(key=key), RecordsReply).record
    # A record may have no auction: the create was a retry that found its microVM, or exceeded a quota.
    records = [decode(data) for data in kept]
    record = next((record for record in records if record.attempts or record.outcome == "unplaced"), None)
    if record is None:
        raise _no_record(key)
    if not record.attempts:
        raise BilletError(f"no host was asked for {key!r}: {record.text}")
    if record.v in ANOTHER_SCORE:
        raise BilletError(
            f"the auction of {key!r} used the score of an older Billet, which this version does not have"
        )
    found = why_not(record, host)
    if output == "json":
        ways = [[{"what": c.what.name, "was": c.was, "to": c.to} for c in way] for way in found.ways]
        text = " ".join([verdict(found, record), *remedies(found, record)])
        answer = {"host": host, "asked": found.asked, "winner": found.winner, "ways": ways, "text": text}
        click.echo(json.dumps(answer, indent=2))
    else:
        console().print(why_not_report(found, record))
