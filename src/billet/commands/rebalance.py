"""`billet rebalance`: plans which microVMs to recreate on other hosts, and does it one microVM at a time.

Like a drain, the command keeps no state: each step reads the fleet and does the next thing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands.confirm import confirm, yes_option
from billet.commands.drain import POLL_S, Row, delete, remaining_on_host
from billet.commands.lists import as_dicts
from billet.commands.options import FiniteFloat, client_options, console, output_option, print_sentence, say
from billet.core.constraints import read
from billet.core.corrections import Discount
from billet.core.errors import BilletError
from billet.core.model import NO_CONSTRAINTS, ZERO, Facts, Host, HostView, Resources
from billet.core.plural import counted
from billet.core.questions.rebalance import Move, Place, Resident, evenness, plan
from billet.core.scoring import Weights

if TYPE_CHECKING:
    from billet.client import Address, Client

CANNOT_MIGRATE = (
    "Flintlock cannot migrate: a move deletes the microVM, its controller recreates it, and a new auction chooses the"
    " host. TO is the host that the score would choose now; Billet cannot enforce it. Providers and images are not"
    " considered."
)


COUNTED_STATES = ("RESERVED", "STARTED", "RELEASING")  # of placements that count as members of their group


class Limits(NamedTuple):
    """Limits of one run: moves, and the reduction of CoV that each move must bring."""

    max_moves: int
    least_gain: float


class FleetSnapshot(NamedTuple):
    """The READY hosts, all placements, and the leader's weights."""

    places: dict[str, Place]
    residents: list[Resident]
    weights: Weights
    hosts: dict[str, Host]  # also those that are not ready

    def moves(self, limits: Limits, except_for: frozenset[str] = frozenset()) -> list[Move]:
        """The plan. MicroVMs named in `except_for` stay where they are."""
        rest = [
            resident._replace(evictable=False) if resident.name in except_for else resident
            for resident in self.residents
        ]
        return plan(self.places, rest, self.weights, limits.max_moves, limits.least_gain, self.hosts)


@click.command()
@click.option("--plan/--apply", "only_plan", default=True, help="Only show the plan (default), or carry it out.")
@click.option(
    "--most", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of microVMs to recreate."
)
@click.option(
    "--least-gain", type=FiniteFloat(0, min_open=True), default=0.005, show_default=True,
    help="Minimum reduction of the CoV of the hosts' utilisation that a move must bring. Lower = more moves.",
)  # fmt: skip
@click.option(
    "--per-minute", type=FiniteFloat(0.001), default=6.0, show_default=True,
    help="--apply: maximum deletes per minute.",
)  # fmt: skip
@click.option(
    "--wait-s", type=FiniteFloat(0), default=120.0, show_default=True,
    help="--apply: maximum seconds for a controller to recreate a microVM. After that, no more are deleted.",
)  # fmt: skip
@yes_option
@client_options
@output_option
def rebalance(
    address: Address,
    output: str,
    only_plan: bool,
    most: int,
    least_gain: float,
    per_minute: float,
    wait_s: float,
    yes: bool,
) -> None:
    """Even out the fleet by recreating microVMs on other hosts.

    Moves only microVMs that may be evicted (label billet.io/evict=allow), only between READY hosts, and only if the
    score would now choose another host. The best move comes first. Flintlock cannot migrate: each move is a delete
    and a new boot, and the new auction decides where the microVM goes.

    --apply deletes one microVM, waits until its controller has recreated it and it has booted, reads the fleet again,
    and continues until the planned CoV is reached. You can interrupt it and run it again.

    \b
    billet rebalance --plan
    billet rebalance --apply --per-minute 2 --most 5
    """
    from billet.client import Client

    limits = Limits(most, least_gain)
    with Client(address) as client:
        fleet = read_fleet(client)
        moves = fleet.moves(limits)
        if only_plan:
            print_plan(fleet, moves, output)
            return
        if moves:
            confirm(f"Delete {counted(len(moves), 'microVM')}, one by one, for controllers to recreate?", yes)
        _apply(client, fleet, moves, limits, 60.0 / per_minute, wait_s, output)


def read_fleet(client: Client) -> FleetSnapshot:
    """Ask the server for hosts and placements."""
    from billet.wire.pb import fleet_pb2 as pb

    reply = client.fleet("Hosts", pb.HostsRequest(), pb.HostsReply)
    hosts = as_dicts(reply)
    rows: list[Row] = as_dicts(client.fleet("Placements", pb.PlacementsRequest(), pb.PlacementsReply))["placements"]
    return fleet_of(hosts, rows)


def fleet_of(hosts: Mapping[str, Any], rows: Sequence[Row]) -> FleetSnapshot:
    """Build the snapshot from a HostsReply and placements, as dicts."""
    places = {
        row["id"]: Place(
            HostView(
                Resources(**row["allocatable"]),
                Resources(**row["taken"]),
                discount=Discount(row["delay_correction"] or 1.0, row["utilisation_correction"]),
            ),
            Facts(**{name: row[name] for name in Facts._fields if name in row}),
        )
        for row in hosts["hosts"]
        if row["state"] == "READY"
    }
    evictable = {row["uid"] for row in remaining_on_host(rows).evictable if row["vm_state"] == "CREATED"}
    known = {row["id"]: Host(row["id"], ZERO, ZERO, row["zone"], row["labels"]) for row in hosts["hosts"]}
    residents = [_resident(row, row["uid"] in evictable) for row in rows if row["state"] in COUNTED_STATES]
    return FleetSnapshot(places, residents, _weights(hosts), known)


def _weights(hosts: Mapping[str, Any]) -> Weights:
    """The leader's weights. Weights that only a newer server knows are ignored."""
    known = {name: value for name, value in hosts["weights"].items() if name in Weights._fields}
    return Weights(**known)._replace(policy=hosts["policy"] or Weights().policy)


def _resident(row: Row, evictable: bool) -> Resident:
    try:
        constraints = read(row["labels"], row["name"])
    except BilletError:  # an older Billet accepted these labels
        evictable, constraints = False, NO_CONSTRAINTS
    return Resident(
        row["uid"],
        f"{row['namespace']}/{row['name']}",
        row["host"],
        Resources(row["vcpu"], row["memory_mib"], row["disk_mib"], 1),
        evictable,
        constraints,
        row["labels"],
    )


def _apply(
    client: Client,
    fleet: FleetSnapshot,
    moves: Sequence[Move],
    limits: Limits,
    pace_s: float,
    wait_s: float,
    output: str,
) -> None:
    """Move microVMs one by one until the planned CoV or the planned number of moves is reached, or no move helps."""
    done: list[dict[str, Any]] = []
    try:
        for n in range(len(moves)):
            begun_s = time.monotonic()
            moved = frozenset(str(move["name"]) for move in done)
            following = fleet.moves(limits._replace(max_moves=1), moved)
            if not following or evenness(fleet.places) <= moves[-1].cov + limits.least_gain / 2:
                break
            done.append(_move(client, following[0], f"{n + 1}/{len(moves)}", wait_s))
            if n + 1 < len(moves):
                time.sleep(max(0.0, begun_s + pace_s - time.monotonic()))
            fleet = read_fleet(client)
    except KeyboardInterrupt:
        raise BilletError(
            f"interrupted after {counted(len(done), 'move')}; controllers recreate what was deleted;"
            " run the same command to continue"
        ) from None
    after = evenness(fleet.places)
    if output == "json":
        click.echo(json.dumps({"moved": done, "cov": after}, indent=2))
    elif not moves:
        click.echo(f"Nothing to gain: CoV is {after:.3f}.")
    else:
        click.echo(f"{counted(len(done), 'microVM')} recreated; CoV is {after:.3f}, planned was {moves[-1].cov:.3f}.")


def _move(client: Client, move: Move, count: str, wait_s: float) -> dict[str, Any]:
    """Delete one microVM and wait until its controller has recreated it. BilletError if that takes too long."""
    say(f"{count}: deleting {move.name} ({move.uid}) on {move.source}; expected on {move.target}", err=True)
    delete(client, move.uid)
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < wait_s:
        row = _recreated(client, move)
        if row:
            took_s = time.monotonic() - begun_s
            cov = evenness(read_fleet(client).places)
            say(f"{count}: recreated on {row['host']} after {took_s:.1f} s; CoV is {cov:.3f}", err=True)
            return {"name": move.name, "source": move.source, "expected": move.target, "target": row["host"],
                    "uid": row["uid"], "seconds": round(took_s, 3), "cov": cov}  # fmt: skip
        time.sleep(POLL_S)
    raise BilletError(
        f"{move.name} was deleted on {move.source}, but not recreated within {wait_s:g} s (--wait-s);"
        " stopping here: check its controller"
    )


def _recreated(client: Client, move: Move) -> Row | None:
    """The new placement of the same name, once it has booted and the old one is gone; else None."""
    from billet.wire.pb import fleet_pb2 as pb

    namespace, name = move.name.split("/", 1)
    request = pb.PlacementsRequest(namespace=namespace, name=name)
    rows: list[Row] = as_dicts(client.fleet("Placements", request, pb.PlacementsReply))["placements"]
    if any(row["uid"] == move.uid and row["state"] != "LOST" for row in rows):
        return None
    return next((row for row in rows if row["state"] == "STARTED" and row["vm_state"] == "CREATED"), None)


def print_plan(fleet: FleetSnapshot, moves: Sequence[Move], output: str) -> None:
    """Print the moves with their total gain and cost, as a table or as JSON."""
    from billet.show.rebalance import moves_table, plan_totals

    totals = plan_totals(fleet.places, fleet.residents, moves)
    if output == "json":
        rows = [{**move._asdict(), "demand": move.demand._asdict()} for move in moves]
        click.echo(json.dumps({"moves": rows, **totals._asdict()}, indent=2))
        return
    screen = console()
    if not moves:
        print_sentence(screen, f"Nothing to gain: CoV is {totals.cov_before:.3f}. {totals.evictable_text}")
        return
    screen.print(moves_table(fleet.places, moves))
    for line in (totals.gain(), totals.cost(), CANNOT_MIGRATE):
        print_sentence(screen, line)
