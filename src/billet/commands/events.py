"""`billet events`: what happened in the fleet, and what happens now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from billet.commands import completion
from billet.commands.durations import Duration
from billet.commands.options import client_options, console, output_option, say
from billet.core.errors import BilletError, Code, HostVerdict, Unreachable

if TYPE_CHECKING:
    from billet.client import Address, Client
    from billet.wire.pb.fleet_pb2 import EventsRequest

WAIT_S = 10.0  # of one call, for the next event
RETRY_S = 1.0


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until Ctrl-C.")
@click.option(
    "--since", "last_s", type=Duration(), default="1h", metavar="DURATION", show_default=True,
    help="How far back to begin: a number and m, h, d or w.",
)  # fmt: skip
@click.option(
    "--type", "types", multiple=True, metavar="TYPE",
    help="Only events of this type, or of all types that begin with this word: microvm, host. Repeatable.",
)  # fmt: skip
@click.option("--host", default="", shell_complete=completion.hosts, help="Only events of this host.")
@click.option(
    "--microvm",
    default="",
    shell_complete=completion.microvms,
    metavar="UID|NAME",
    help="Only events of this microVM.",
)
@client_options
@output_option
def events(
    address: Address, output: str, follow: bool, last_s: float, types: tuple[str, ...], host: str, microvm: str
) -> None:
    """List what happened in the fleet, the oldest first, one line each. -o json prints one JSON object per line.

    Every server keeps the events; a change of the leader loses none that is older than a second.

    \b
    microvm-placed      a host has accepted it
    microvm-created     flintlockd says CREATED
    microvm-failed      its create or its boot has failed
    microvm-refused     no host could take it; with the hosts by reason
    microvm-deleted, -lost, -found, -adopted, -fenced
    quota-hit           refused by the quota of its namespace
    host-joined, -away, -back, -suspect, -recovered, -removed
    host-cordoned, -uncordoned, -drained, -fenced, -clean
    leader-changed, leader-lost
    store-trouble, store-back

    \b
    billet events --since 1d --type microvm-failed --type host
    billet events --follow -o json
    """
    from billet.client import Client
    from billet.show.events import event_line
    from billet.wire.pb.fleet_pb2 import EventsRequest

    request = EventsRequest(types=types, host=host, microvm=microvm, since_s=time.time() - last_s)
    screen = console()
    seen = False
    with Client(address) as client:
        try:
            for event in _each(client, request, follow):
                seen = True
                if output == "json":
                    click.echo(event)
                else:
                    screen.print(event_line(json.loads(event)), soft_wrap=True)
        except KeyboardInterrupt:
            return
    if not seen and output != "json":
        click.echo("No events in this time.")


def _each(client: Client, request: EventsRequest, follow: bool) -> Iterator[bytes]:
    """The events, page by page. With `follow` an error of the server is told, and the call repeated."""
    from billet.wire.pb.fleet_pb2 import EventsReply

    more, told = True, False
    while more or follow:
        request.wait_s = 0.0 if more else WAIT_S
        try:
            reply = client.fleet("Events", request, EventsReply)
        except BilletError as error:
            if not follow or not _passes(error):
                raise
            if not told:
                say(f"billet: {error.text}; trying again", err=True)
            told = True
            time.sleep(RETRY_S)
            continue
        yield from reply.event_json
        request.after, more, told = reply.next, reply.more, False


def _passes(error: BilletError) -> bool:
    """Whether an error may be over soon."""
    return isinstance(error, Unreachable) or (isinstance(error, HostVerdict) and error.status == Code.UNAVAILABLE)
