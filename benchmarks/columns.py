"""`python -m benchmarks.columns`: what one auction costs the leader's choice, by the number of hosts.

Masks, prices and ranks over the whole fleet (core/shortlist.py), without any message. Each fleet is two thirds full,
in three zones, with a label on every twentieth host, images on every third, and a group of microVMs that has members
on half of the hosts. Fleets take turns, so that what else the machine does hits all of them; the lowest of several
times is the one that counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.__main__ import numbers
from billet.core.constraints import CLUSTER_LABEL, PLANE_LABEL, PREFIX, read
from billet.core.model import Auction, Facts, Host, Image, Placement, PlacementState, Reason, Refusal, Resources
from billet.core.report import HostImages
from billet.core.shortlist import AskLimits, Moment, next_call, with_standing_bids
from billet.core.state import PutHost, PutPlacement, State, apply

ROOM = Resources(64, 262_144, 1_000_000, 100)
DEMAND = Resources(2, 4096, 10_000, 1)
IMAGES = (Image("r.example/os:1"), Image("r.example/kernel:1", kernel=True))
LIMITS = AskLimits()
CALLS = 20  # of one kind of auction in a row
CLUSTER = {CLUSTER_LABEL: "c"}
KINDS = {
    "no constraints": {},
    "a label is required": {f"{PREFIX}require.gpu": "yes"},
    "a machine of a cluster": CLUSTER,
    "a control plane of a cluster": CLUSTER | {PLANE_LABEL: ""},
    "a group kept apart": {f"{PREFIX}apart": "g"},
}


def fleet(hosts: int) -> Moment:
    """A fleet of this size, at a moment when every host has reported."""
    state = State()
    for n in range(hosts):
        labels = {"gpu": "yes"} if n % 20 == 0 else {}
        apply(state, PutHost(Host(f"host-{n}", ROOM, ROOM, f"zone-{n % 3}", labels)))
        taken = two_thirds(n)
        state.fleet.hear(f"host-{n}", Facts(pressure=n % 7 / 100, boot_s=1.0, boots_seen=9.0), taken, 0.0, 1e9)
        state.fleet.take(f"host-{n}", taken)
        if n % 3 == 0:
            state.fleet.hear_images(f"host-{n}", HostImages(frozenset(IMAGES), frozenset()))
    member = Placement("", "ns", "c-member", DEMAND, "", PlacementState.STARTED)
    for n in range(0, hosts, 2):
        labels = CLUSTER | {f"{PREFIX}apart": "g"} | ({PLANE_LABEL: ""} if n < 6 else {})
        apply(state, PutPlacement(replace(member, id=f"p{n}", uid=f"u{n}", host=f"host-{n}", labels=labels)))
    return Moment(state, np.ones(len(state.fleet.ids), bool), 1.0)


def two_thirds(n: int) -> Resources:
    """What is taken of a host: about two thirds."""
    vms = 20 + n % 9
    return Resources(2 * vms, 6000 * vms, 20_000 * vms, vms)


def auction(n: int, labels: dict[str, str]) -> Auction:
    """One of many that differ only by their ids."""
    return Auction(
        f"auction-{n}", "ns", f"c-{n}", DEMAND, labels=labels, constraints=read(labels, f"c-{n}"), images=IMAGES
    )


def choose(moment: Moment, labels: dict[str, str]) -> None:
    """Some auctions: whom to ask, and who takes part unasked."""
    for n in range(CALLS):
        one = auction(n, labels)
        asked = next_call(moment, one, (), LIMITS).host_ids
        silent = [Refusal(host_id, Reason.SILENT) for host_id in asked]
        with_standing_bids(moment, one, silent, LIMITS, moved=True)
        # Another is placed and ends meanwhile, so that what is kept up to date has to be.
        made = Placement(one.id, "ns", one.name, DEMAND, asked[0], PlacementState.STARTED, uid=one.id, labels=labels)
        apply(moment.state, PutPlacement(made))
        apply(moment.state, PutPlacement(replace(made, state=PlacementState.GONE)))


def cpu_us(work: Callable[[], None]) -> float:
    """Microseconds of CPU for one of the auctions."""
    begun_s = time.process_time()
    work()
    return (time.process_time() - begun_s) / CALLS * 1e6


@click.command()
@click.option("--hosts", callback=numbers, default="100,1000,10000", show_default=True, help="Numbers of hosts.")
@click.option("--repeats", default=15, show_default=True, help="Times of each; the lowest is printed.")
def columns(hosts: Sequence[int], repeats: int) -> None:
    """Print microseconds of CPU per auction, and their ratio to the first fleet."""
    moments = [fleet(count) for count in hosts]
    table = Table("us of CPU per auction", *(f"{count} hosts" for count in hosts))
    for kind, labels in KINDS.items():
        times: list[list[float]] = [[] for _ in hosts]
        for _ in range(repeats):
            for n, moment in enumerate(moments):
                times[n].append(cpu_us(partial(choose, moment, labels)))
        lowest = [min(of_fleet) for of_fleet in times]
        table.add_row(kind, *(f"{us:.0f} ({us / lowest[0]:.2f})" for us in lowest))
    Console(width=120).print(table)


if __name__ == "__main__":
    columns()
