"""One broken host in a fleet, while many clients create: scenarios, and what their creates came to.

`python -m tests.cluster.broken_hosts` runs each with 3,000 creates on 20 hosts and prints the counts; name some to
run only those.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from billet.api import fleet_service as fleet
from billet.core.questions.record import AuctionRecord
from billet.fake.faults import FaultKind
from billet.wire import auction_records
from billet.wire import flintlock as wire
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from tests.cluster.clients import Clients, Outcomes, all_ready, eventually, numbered, on_hosts, spec
from tests.harness import Cluster, plans

IN_FLIGHT = 64
BOOT_S = 0.1
NEVER_S = 1e6
MISSING = "r.invalid/o:1"  # its registry does not exist


@dataclass
class Result:
    """What a scenario's creates came to. h0 is the broken host, if there is one."""

    creates: int
    errors: list[str]  # that clients saw
    orders: Counter[int]  # number of creates by how many hosts got their order
    h0: int  # orders that h0 got
    suspects: dict[str, str]
    homes: Counter[str] = field(default_factory=Counter)  # microVMs by host
    not_booted: Counter[str] = field(
        default_factory=Counter
    )  # microVMs that were not CREATED at the end, by namespace
    seconds: float = 0.0

    @property
    def most_orders(self) -> int:
        """The most hosts that got the order of one create."""
        return max(self.orders)


async def records(clients: Clients) -> list[AuctionRecord]:
    """All records of the leader."""
    found: list[AuctionRecord] = []
    after = 0
    while True:
        request = fleet_pb2.RecordsRequest(after=after).SerializeToString()
        reply = fleet_pb2.RecordsReply.FromString(await clients.call(fleet.RECORDS, request))
        found += map(auction_records.decode, reply.record)
        after = reply.next
        if not after:
            return found


async def full(cluster: Cluster, clients: Clients, creates: int, in_flight: int) -> Outcomes:
    """The disk of h0's containerd is full: every create fails at once."""
    cluster.fakes[0].fault(FaultKind.CONTAINERD_FULL)
    return await clients.crowd(numbered("vm", creates), at_once=in_flight)


async def never_boots(cluster: Cluster, clients: Clients, creates: int, in_flight: int) -> Outcomes:
    """h0 accepts every create, and boots nothing."""
    return await clients.crowd(numbered("vm", creates), at_once=in_flight)


async def restarted(cluster: Cluster, clients: Clients, creates: int, in_flight: int) -> Outcomes:
    """The containerd of h0 was restarted: its flintlockd hears of no create any more."""
    cluster.fakes[0].fault(FaultKind.CONTAINERD_RESTARTED)
    return await clients.crowd(numbered("vm", creates), at_once=in_flight)


async def bad_image(cluster: Cluster, clients: Clients, creates: int, in_flight: int) -> Outcomes:
    """Half of the creates are of a namespace whose image does not exist. No host is broken."""
    good = asyncio.create_task(clients.crowd(numbered("good", creates // 2), at_once=in_flight // 2))
    names = numbered("bad", creates // 2)

    async def create_bad() -> None:
        for name in names:
            bad = spec(name)
            bad.namespace, bad.root_volume.source.container_source = "bad", MISSING
            await clients.call(wire.CREATE, rpc.CreateMicroVMRequest(microvm=bad).SerializeToString())

    await asyncio.gather(*(create_bad() for _ in range(in_flight // 2)))
    return await good


Scenario = Callable[[Cluster, Clients, int, int], Awaitable[Outcomes]]
SCENARIOS: dict[str, Scenario] = {
    "full": full, "never-boots": never_boots, "restarted": restarted, "bad-image": bad_image,
}  # fmt: skip
NOT_BOOTING = ("never-boots", "restarted")


async def play(name: str, folder: Path, hosts: int, creates: int, in_flight: int = IN_FLIGHT) -> Result:
    """Run one scenario on a fleet of its own."""
    found = plans(hosts, folder, boot_mean_s=BOOT_S, sigma=0.3)
    if name == "never-boots":
        found[0] = replace(found[0], fake=replace(found[0].fake, boot_mean_s=NEVER_S))
    cluster = Cluster(folder, found, together=True)
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    try:
        await eventually(lambda: all_ready(clients, hosts))
        begun_s = time.monotonic()
        outcomes = await SCENARIOS[name](cluster, clients, creates, in_flight)
        seconds = time.monotonic() - begun_s
        result = await _result(clients, outcomes, creates)
        result.seconds = seconds
        await _count_homes(cluster, result, broken="h0" if name in NOT_BOOTING else "")
        return result
    finally:
        await clients.close()
        await asyncio.to_thread(cluster.stop)


async def _result(clients: Clients, outcomes: Outcomes, creates: int) -> Result:
    kept = await records(clients)
    awards = [[a.award.host for a in record.attempts if a.award] for record in kept]
    suspects = {host.id: host.trouble for host in (await clients.hosts()).values() if host.state == fleet_pb2.SUSPECT}
    errors = [f"{error.code().name} {error.details()}" for error in outcomes.errors.values()]
    orders = Counter(map(len, awards))
    return Result(creates, errors, orders, sum(award.count("h0") for award in awards), suspects)


async def _count_homes(cluster: Cluster, result: Result, broken: str) -> None:
    """Count the microVMs on the hosts, once everything has booted that can."""

    def waiting() -> list[str]:
        shown = on_hosts(cluster)
        result.homes = Counter({host: len(vms) for host, vms in shown.items()})
        left = [vm for host, vms in shown.items() if host != broken for vm in vms if vm["state"] != "CREATED"]
        result.not_booted = Counter(vm["namespace"] for vm in left)
        return [vm["id"] for vm in left if vm["namespace"] != "bad"]

    async def done() -> bool:
        return not await asyncio.to_thread(waiting)

    await eventually(done)


def told(name: str, result: Result) -> str:
    """The counts of one run, as a line of JSON."""
    others = [count for host, count in result.homes.items() if host != "h0"]
    said = {
        "scenario": name, "creates": result.creates, "errors seen by clients": len(result.errors),
        "hosts ordered per create": dict(sorted(result.orders.items())), "orders to h0": result.h0,
        "microVMs on h0": result.homes["h0"], "others": [min(others), max(others)],
        "not booted": dict(result.not_booted), "suspect": result.suspects, "s": round(result.seconds, 1),
    }  # fmt: skip
    return json.dumps(said)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--hosts", default=20, show_default=True)
@click.option("--creates", default=3000, show_default=True)
def main(names: Sequence[str], hosts: int, creates: int) -> None:
    """Run the scenarios, and print what their creates came to."""
    for name in names or SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            click.echo(told(name, asyncio.run(play(name, Path(folder), hosts, creates))))


if __name__ == "__main__":
    main()
