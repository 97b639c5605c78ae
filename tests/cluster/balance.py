"""The balance that live auctions leave, beside what the simulator says for the same stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from billet.core.model import Auction, Resources
from billet.core.questions.record import AuctionRecord
from billet.core.scoring import Weights
from billet.whatif.measures import balance
from billet.whatif.rules import own
from billet.whatif.simulation import run
from billet.whatif.workload import Create, Mark, Workload
from tests.cluster.clients import Clients
from tests.harness import HostPlan

SHAPES = ((1, 2), (1, 4), (2, 4), (2, 8), (4, 8), (4, 16), (8, 16))  # vCPU, GiB
MARK_EVERY = 50  # decisions
ORDERS = 20
WINDOW = 32  # decisions in a row among which a herd would show


async def create_all(clients: Clients, count: int, at_once: int) -> list[str]:
    """So many microVMs of all shapes, so many at once; their uids."""
    chance = random.Random(7)
    shapes: Iterator[tuple[int, tuple[int, int]]] = iter([(n, chance.choice(SHAPES)) for n in range(count)])
    uids: list[str] = []

    async def client() -> None:
        for n, (vcpu, gib) in shapes:
            uids.append(await clients.create(f"even-{n}", vcpu=vcpu, memory_mib=gib * 1024))

    await asyncio.gather(*(client() for _ in range(at_once)))
    return uids


def as_the_simulator_says(plans: Sequence[HostPlan], records: Sequence[AuctionRecord], at_once: int) -> None:
    """CoV of what was awarded as the simulator's for orders in which the same creates can come; and no herd.

    On the way within a tenth of its mean: over 30 orders the simulator itself stays within 5 %. At the end only not
    half as much again: the simulator's end differs by 25 % from order to order; random hosts end 5 times as high and
    the better of two 1.6 to 3 times.
    """
    records = sorted(records, key=lambda record: record.attempts[-1].slot)  # in the order of decisions
    rooms = {plan.id: Resources(plan.vcpu, plan.memory_mib, plan.disk_mib, plan.max_vms) for plan in plans}
    taken = dict.fromkeys(rooms, Resources())
    live: list[float] = []
    for n, record in enumerate(records, 1):
        taken[record.host] = taken[record.host].plus(record.auction.demand)
        if n % MARK_EVERY == 0:
            live.append(balance(list(rooms.values()), list(taken.values())).cov)
    simulated = [_simulated(rooms, order) for order in _orders([record.auction for record in records], at_once)]
    ways, ends = [sum(covs) for covs in simulated], [covs[-1] for covs in simulated]
    assert abs(sum(live) - fmean(ways)) <= 0.1 * fmean(ways), (live, ways)
    assert live[-1] <= 1.5 * fmean(ends), (live, ends)
    _no_herd(rooms, records)


def _simulated(rooms: Mapping[str, Resources], auctions: Sequence[Auction]) -> list[float]:
    """CoV at each mark."""
    stream = Workload("live", dict(rooms))
    for n, auction in enumerate(auctions, 1):
        stream.events.append(Create(auction.id, auction.demand))
        if n % MARK_EVERY == 0:
            stream.events.append(Mark(str(n)))
    return [balance.cov for balance in run(stream, own(Weights())).marks.values()]


def _orders(auctions: Sequence[Auction], at_once: int) -> Iterator[list[Auction]]:
    """Orders in which these may be decided when so many are under way at once: the first is as it was."""
    chance = random.Random(7)
    yield list(auctions)
    for _ in range(ORDERS - 1):
        moved = [(n + chance.uniform(0, at_once), n) for n in range(len(auctions))]
        yield [auctions[n] for _, n in sorted(moved)]


def _no_herd(rooms: dict[str, Resources], records: Sequence[AuctionRecord]) -> None:
    """Of any decisions in a row, no host gets four times its part and one microVM more.

    In the simulator `spread` gives one up to 2.9 times its part in any of 40 orders of this stream; rules that choose
    by what they knew 32 decisions ago, 11 to 21 times.
    """
    whole = sum(room.vcpu for room in rooms.values())
    for begin in range(len(records) - WINDOW):
        window = records[begin : begin + WINDOW]
        wanted = sum(record.auction.demand.vcpu for record in window)
        for host, room in rooms.items():
            got = [record.auction.demand.vcpu for record in window if record.host == host]
            assert sum(got) <= 4 * wanted * room.vcpu / whole + max(got, default=0), (host, got, wanted)
