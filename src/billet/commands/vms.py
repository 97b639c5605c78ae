"""`billet vms` and `billet vm show`: where the microVMs are, and everything about one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from billet.commands import completion
from billet.commands.lists import as_dicts
from billet.commands.options import client_options, console, output_option, say
from billet.commands.targets import is_uid, listed, name_of
from billet.core.errors import BilletError, HostVerdict, Unreachable
from billet.show.tables import ORDERS, Row, in_order, placements_table, state_of, watched

if TYPE_CHECKING:
    from rich.console import Console

    from billet.client import Address, Client
    from billet.wire.pb.fleet_pb2 import PlacementsRequest
    from billet.wire.pb.flintlock_types_pb2 import MicroVM

LOOK_S = 2.0
EVENTS_SHOWN = 10


@click.command()
@click.option("-n", "--namespace", default="", shell_complete=completion.namespaces, help="Show only this namespace.")
@click.option("--name", default="", help="Show only microVMs with this name.")
@click.option("--host", default="", shell_complete=completion.hosts, help="Show only microVMs on this host.")
@click.option("--state", "states", multiple=True, metavar="STATE",
              help="Show only microVMs in this state, for example FAILED. Repeatable.")  # fmt: skip
@click.option("--sort", "order", type=click.Choice(list(ORDERS)), default="name", show_default=True,
              help="age = the youngest first; vcpu, memory = the largest first.")  # fmt: skip
@click.option("--fenced", is_flag=True, help="Include microVMs of fenced hosts, until their hosts have deleted them.")
@click.option("-w", "--watch", is_flag=True,
              help="Show the list again when it has changed, until Ctrl-C; looks every 2 s.")  # fmt: skip
@client_options
@output_option
def vms(
    address: Address, output: str, namespace: str, name: str, host: str, states: tuple[str, ...], order: str,
    fenced: bool, watch: bool,
) -> None:  # fmt: skip
    """List the microVMs: host, state, size and winning score.

    \b
    STATE  flintlockd's state once it has the microVM, before that
           the placement's
    SCORE  score of the winning bid, lower is better (see billet explain);
           direct = created directly on the host, without an auction
    AGE    time since the placement last changed, usually since its creation

    On a narrow terminal SCORE and UID are left out before a name is broken. `billet vm show` shows one microVM.
    --watch -o json prints one list per line.
    """
    from billet.client import Client
    from billet.wire.pb.fleet_pb2 import PlacementsRequest

    request = PlacementsRequest(namespace=namespace, name=name, host=host, fenced=fenced)
    wanted = {state.upper() for state in states}
    filtered = bool(namespace or name or host or states)
    with Client(address) as client:
        if not watch:
            _show(_rows(client, request, wanted, order), output, filtered)
            return
        try:
            _watch(_looks(client, request, wanted, order), output, filtered)
        except KeyboardInterrupt:
            return


def _rows(client: Client, request: PlacementsRequest, states: set[str], order: str) -> list[Row]:
    from billet.wire.pb.fleet_pb2 import PlacementsReply

    found = as_dicts(client.fleet("Placements", request, PlacementsReply))["placements"]
    return in_order((row for row in found if not states or state_of(row) in states), order)


def _show(rows: list[Row], output: str, filtered: bool) -> None:
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("No microVMs match." if filtered else "No microVMs.")
    else:
        screen = console()
        screen.print(placements_table(rows, time.time(), screen.width))


def _looks(client: Client, request: PlacementsRequest, states: set[str], order: str) -> Iterator[list[Row]]:
    """The rows, every LOOK_S. While nobody answers, that is told, and tried again."""
    told = ""
    while True:
        try:
            yield _rows(client, request, states, order)
            told = ""
        except (Unreachable, HostVerdict) as error:
            if error.text != told:
                say(f"billet: {error.text}; trying again", err=True)
            told = error.text
        time.sleep(LOOK_S)


def _watch(looks: Iterator[list[Row]], output: str, filtered: bool) -> None:
    screen = console()
    if output != "json" and screen.is_terminal:
        _on_terminal(looks, screen)
    last: list[Row] | None = None
    for rows in looks:
        if rows != last and output == "json":
            click.echo(json.dumps(rows))
        elif rows != last:
            _show(rows, output, filtered)
        last = rows


def _on_terminal(looks: Iterator[list[Row]], screen: Console) -> None:
    """On a screen of its own; at the end, the list as it was last."""
    from rich.live import Live

    rows: list[Row] = []
    try:
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            for rows in looks:
                live.update(watched(rows, time.time(), screen.width, screen.height), refresh=True)
    finally:
        screen.print(placements_table(rows, time.time(), screen.width))


@click.group()
def vm() -> None:
    """Show everything about one microVM.

    `billet vms` lists them all, and `billet explain` shows why one is where it is.
    """


@vm.command()
@click.argument("key", metavar="UID|NAME", shell_complete=completion.microvms)
@click.option(
    "-n", "--namespace", default="", shell_complete=completion.namespaces, help="Namespace of the name; default: any."
)
@client_options
@output_option
def show(address: Address, output: str, key: str, namespace: str) -> None:
    """Show one microVM: host, state, size, images, interfaces, and what happened to it.

    A name may be NAMESPACE/NAME. If several microVMs have it, all are shown.
    """
    from billet.client import Client
    from billet.show.microvm import show_microvm

    wanted = name_of(key, namespace)
    with Client(address) as client:
        rows = listed(client, uid=key) if is_uid(key) else listed(client, wanted.namespace, wanted.name)
        if not rows:
            raise BilletError(f"no microVM is named {key}; `billet vms` lists them, `billet explain` also past ones")
        found = [(row, *_details(client, row), _events(client, row)) for row in rows]
    if output == "json":
        click.echo(json.dumps([_json(*one) for one in found], indent=2))
        return
    for row, vm, why, events in found:
        show_microvm(console(), row, vm, why, events, time.time())


def _details(client: Client, row: Row) -> tuple[MicroVM | None, str]:
    """What its host says of it; or None, and why."""
    from billet.wire.pb.flintlock_pb2 import GetMicroVMRequest, GetMicroVMResponse

    if not row["uid"]:
        return None, "its host has not answered the create yet"
    try:
        return client.flintlock("GetMicroVM", GetMicroVMRequest(uid=row["uid"]), GetMicroVMResponse).microvm, ""
    except BilletError as error:
        return None, error.text


def _events(client: Client, row: Row) -> list[Any]:
    from billet.wire.pb.fleet_pb2 import EventsReply, EventsRequest

    if not row["uid"]:
        return []
    try:
        reply = client.fleet("Events", EventsRequest(microvm=row["uid"]), EventsReply)
    except BilletError:
        return []
    return [json.loads(event) for event in reply.event_json][-EVENTS_SHOWN:]


def _json(row: Row, vm: MicroVM | None, why: str, events: list[Any]) -> dict[str, Any]:
    """The metadata is left out: it holds secrets."""
    own = as_dicts(vm) if vm else None
    if own:
        own["spec"]["metadata"] = sorted(own["spec"]["metadata"])
    return {**row, "microvm": own, "why_not": why, "events": events}
