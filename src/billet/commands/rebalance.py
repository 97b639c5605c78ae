"""`billet rebalance`: what evening out the fleet would gain and cost, and doing it, one microVM at a time.

Like a drain it holds no state of its own: each turn looks at the fleet and does the next thing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from billet.commands.drain import POLL_S, Row, delete, sort_out
from billet.commands.lists import as_dicts
from billet.commands.options import Amount, client_options, console, output_option, tell
from billet.core.constraints import read
from billet.core.errors import BilletError
from billet.core.model import NO_CONSTRAINTS, ZERO, Discount, Facts, Host, HostView, Resources
from billet.core.plural import counted
from billet.core.questions.rebalance import Move, Place, Resident, evenness, plan
from billet.core.scoring import Weights

if TYPE_CHECKING:
    from billet.client import Address, Client

HONEST = (
    "Flintlock cannot migrate: a move is a delete, and its controller makes the microVM again where the auction puts"
    " it then. TO is where the score would put it now; Billet cannot force it. Providers and images are not looked"
    " at."
)


HOLDING = ("RESERVED", "STARTED", "RELEASING")  # placements that count in groups


class Limits(NamedTuple):
    """How far one run goes."""

    most: int
    least_gain: float


class FleetSnapshot(NamedTuple):
    """The hosts that are ready, and what runs on them."""

    places: dict[str, Place]
    residents: list[Resident]
    weights: Weights
    hosts: dict[str, Host]  # also those that are not ready

    def moves(self, limits: Limits, except_for: frozenset[str] = frozenset()) -> list[Move]:
        """The plan; those names that have had their turn stay."""
        rest = [
            resident._replace(evictable=False) if resident.name in except_for else resident
            for resident in self.residents
        ]
        return plan(self.places, rest, self.weights, limits.most, limits.least_gain, self.hosts)


@click.command()
@click.option("--plan/--apply", "only_plan", default=True, help="Show what would be done (the default), or do it.")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True, help="Most microVMs to make again.")
@click.option(
    "--least-gain", type=Amount(0, min_open=True), default=0.005, show_default=True,
    help="What a move must take off the CoV of the hosts' dominant shares to be worth it.",
)  # fmt: skip
@click.option(
    "--per-minute", type=Amount(0.001), default=6.0, show_default=True,
    help="--apply: most deletes in a minute.",
)  # fmt: skip
@click.option(
    "--wait-s", type=Amount(0), default=120.0, show_default=True,
    help="--apply: how long a controller may take to make a microVM again; then nothing more is deleted.",
)  # fmt: skip
@client_options
@output_option
def rebalance(
    address: Address, output: str, only_plan: bool, most: int, least_gain: float, per_minute: float, wait_s: float
) -> None:
    """Even out the fleet by having a few microVMs made again elsewhere.

    Only those that may be evicted (label billet.io/evict=allow), only between hosts that are ready, and only where
    the score itself would now choose another host: the best move first. Flintlock cannot migrate, so that each move
    is a delete and a new boot, and where the microVM ends is the new auction's to decide.

    --apply deletes one, waits until its controller has made it again and it has booted, looks at the fleet anew, and
    goes on until what was planned is gained. Interrupt it as you like and run it again.

    \b
    billet rebalance --plan
    billet rebalance --apply --per-minute 2 --most 5
    """
    from billet.client import Client

    limits = Limits(most, least_gain)
    with Client(address) as client:
        fleet = look(client)
        moves = fleet.moves(limits)
        if only_plan:
            _print_plan(fleet, moves, output)
            return
        _apply(client, fleet, moves, limits, 60.0 / per_minute, wait_s, output)


def look(client: Client) -> FleetSnapshot:
    """The fleet as it is now."""
    from billet.wire.pb import fleet_pb2 as pb

    reply = client.fleet("Hosts", pb.HostsRequest(), pb.HostsReply)
    hosts = as_dicts(reply)
    rows: list[Row] = as_dicts(client.fleet("Placements", pb.PlacementsRequest(), pb.PlacementsReply))["placements"]
    return fleet_of(hosts, rows)


def fleet_of(hosts: Mapping[str, Any], rows: Sequence[Row]) -> FleetSnapshot:
    """From a HostsReply and the placements, as dicts."""
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
    may_go = {row["uid"] for row in sort_out(rows).evictable if row["vm_state"] == "CREATED"}
    known = {row["id"]: Host(row["id"], ZERO, ZERO, row["zone"], row["labels"]) for row in hosts["hosts"]}
    residents = [_resident(row, row["uid"] in may_go) for row in rows if row["state"] in HOLDING]
    return FleetSnapshot(places, residents, _weights(hosts), known)


def _weights(hosts: Mapping[str, Any]) -> Weights:
    """The leader's, as far as both sides know them."""
    known = {name: value for name, value in hosts["weights"].items() if name in Weights._fields}
    return Weights(**known)._replace(policy=hosts["policy"] or Weights().policy)


def _resident(row: Row, may_go: bool) -> Resident:
    try:
        constraints = read(row["labels"], row["name"])
    except BilletError:  # labels that an older Billet let pass
        may_go, constraints = False, NO_CONSTRAINTS
    return Resident(
        row["uid"],
        f"{row['namespace']}/{row['name']}",
        row["host"],
        Resources(row["vcpu"], row["memory_mib"], row["disk_mib"], 1),
        may_go,
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
    """Until the planned evenness is reached, so many are deleted, or nothing is left to gain."""
    done: list[dict[str, Any]] = []
    try:
        for n in range(len(moves)):
            begun_s = time.monotonic()
            had = frozenset(str(made["name"]) for made in done)
            ahead = fleet.moves(limits._replace(most=1), had)
            if not ahead or evenness(fleet.places) <= moves[-1].cov + limits.least_gain / 2:
                break
            done.append(_move(client, ahead[0], f"{n + 1}/{len(moves)}", wait_s))
            if n + 1 < len(moves):
                time.sleep(max(0.0, begun_s + pace_s - time.monotonic()))
            fleet = look(client)
    except KeyboardInterrupt:
        raise BilletError(
            f"interrupted after {len(done)} moves; what was deleted is its controller's to make again:"
            " run the same again to go on"
        ) from None
    after = evenness(fleet.places)
    if output == "json":
        click.echo(json.dumps({"moved": done, "cov": after}, indent=2))
    elif not moves:
        click.echo(f"Nothing to gain: CoV is {after:.3f}.")
    else:
        click.echo(f"{counted(len(done), 'microVM')} made again; CoV {after:.3f}, planned was {moves[-1].cov:.3f}.")


def _move(client: Client, move: Move, count: str, wait_s: float) -> dict[str, Any]:
    """Delete one microVM and wait for what its controller makes. Raises BilletError when that makes nothing."""
    click.echo(f"{count}: deleting {move.name} ({move.uid}) on {move.source}; {move.target} is expected", err=True)
    delete(client, move.uid)
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < wait_s:
        row = _made_again(client, move)
        if row:
            took_s = time.monotonic() - begun_s
            cov = evenness(look(client).places)
            click.echo(f"{count}: made again on {row['host']} within {took_s:.1f} s; CoV is {cov:.3f}", err=True)
            return {"name": move.name, "source": move.source, "expected": move.target, "target": row["host"],
                    "uid": row["uid"], "seconds": round(took_s, 3), "cov": cov}  # fmt: skip
        time.sleep(POLL_S)
    raise BilletError(
        f"{move.name} was deleted on {move.source}, and nobody made it again within {wait_s:g} s (--wait-s);"
        " nothing more is deleted: see to its controller"
    )


def _made_again(client: Client, move: Move) -> Row | None:
    """The microVM of the same name, once it has booted and the old one is gone."""
    from billet.wire.pb import fleet_pb2 as pb

    namespace, name = move.name.split("/", 1)
    request = pb.PlacementsRequest(namespace=namespace, name=name)
    rows: list[Row] = as_dicts(client.fleet("Placements", request, pb.PlacementsReply))["placements"]
    if any(row["uid"] == move.uid and row["state"] != "LOST" for row in rows):
        return None
    return next((row for row in rows if row["state"] == "STARTED" and row["vm_state"] == "CREATED"), None)


def _print_plan(fleet: FleetSnapshot, moves: Sequence[Move], output: str) -> None:
    from billet.show.rebalance import moves_table, sums

    said = sums(fleet.places, fleet.residents, moves)
    if output == "json":
        rows = [{**move._asdict(), "demand": move.demand._asdict()} for move in moves]
        click.echo(json.dumps({"moves": rows, **said._asdict()}, indent=2))
        return
    screen = console()
    if not moves:
        tell(screen, f"Nothing to gain: CoV is {said.cov_before:.3f}. {said.why}")
        return
    screen.print(moves_table(fleet.places, moves))
    for line in (said.gain(), said.cost(), HONEST):
        tell(screen, line)
