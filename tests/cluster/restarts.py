"""Servers that stop, or are killed, while clients create: scenarios, and what their creates came to.

`python -m tests.cluster.restarts --times 10` runs each that often and prints the counts; name some to run only those.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import click
import grpc
import grpc.aio

from billet.wire import flintlock as wire
from billet.wire.headers import REQUEST_ID
from billet.wire.pb import flintlock_pb2 as rpc
from tests.cluster.clients import DEADLINE_S, ROOMY, Clients, all_ready, create_request, eventually, leading, on_hosts
from tests.docs.pages import retry_policy
from tests.harness import Cluster, plans

HOSTS, SERVERS = 3, 3
IN_FLIGHT = 64
APART = 30  # creates, each on a connection of its own
ENDS_WITHIN_S = 90.0  # a server; generous: its own grace is 30 s
FLOWING = 64  # creates that are answered between two events
OK = grpc.StatusCode.OK
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@dataclass(frozen=True)
class Created:
    """What one create came to; `uid` is "" unless it is OK."""

    name: str
    code: grpc.StatusCode
    text: str = ""
    uid: str = ""


@dataclass
class Round:
    """A scenario's creates, and what its hosts have at the end."""

    creates: list[Created]
    homes: dict[str, list[str]] = field(default_factory=dict)  # hosts by uid
    names: Counter[str] = field(default_factory=Counter)  # microVMs by name

    @property
    def codes(self) -> Counter[str]:
        return Counter(created.code.name for created in self.creates)

    def errors(self, *allowed: grpc.StatusCode) -> list[str]:
        """What clients were told, apart from OK and these."""
        return [f"{c.name}: {c.code.name} {c.text}" for c in self.creates if c.code not in (OK, *allowed)]

    @property
    def lost(self) -> list[str]:
        """Acknowledged uids that are not on exactly one host, once."""
        return [c.uid for c in self.creates if c.code is OK and len(self.homes.get(c.uid, ())) != 1]

    @property
    def doubled(self) -> list[str]:
        """Names that there is more than one microVM of. Each create has a name of its own."""
        return [name for name, microvms in self.names.items() if microvms > 1]


class Load:
    """Creates without end, over these channels: `at_once` of them are in flight until it is stopped."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], at_once: int, request_ids: bool = False) -> None:
        self.created: list[Created] = []
        self._channels = channels
        self._request_ids = request_ids
        self._numbers = count()
        self._stopping = False
        self._workers = [asyncio.create_task(self._work(channels[n % len(channels)])) for n in range(at_once)]

    async def flowing(self) -> None:
        """Wait until so many creates that begin from now on must have been answered."""
        target = len(self.created) + FLOWING + len(self._workers)
        await eventually(lambda: len(self.created) > target)

    async def stop(self) -> list[Created]:
        """Begin no more, and wait for the rest; what each came to."""
        self._stopping = True
        await asyncio.gather(*self._workers)
        await asyncio.gather(*(channel.close() for channel in self._channels))
        return self.created

    async def _work(self, channel: grpc.aio.Channel) -> None:
        while not self._stopping:
            self.created.append(await create(channel, f"vm-{next(self._numbers)}", self._request_ids))


async def create(channel: grpc.aio.Channel, name: str, request_id: bool = False) -> Created:
    """One create, as a client sends it that has set nothing: it does not wait for a connection."""
    metadata = ((REQUEST_ID, f"order-{name}"),) if request_id else ()
    try:
        reply = await channel.unary_unary(wire.CREATE)(create_request(name), timeout=DEADLINE_S, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return Created(name, error.code(), error.details() or "")
    return Created(name, OK, uid=rpc.CreateMicroVMResponse.FromString(reply).microvm.spec.uid)


def channels(cluster: Cluster, config: dict[str, object]) -> list[grpc.aio.Channel]:
    """Eight, each with all servers in its own order. Half balance over them, half use the first that answers."""
    made = []
    for n in range(8):
        addresses = [cluster.grpc[(n + k) % SERVERS] for k in range(SERVERS)]
        policy = "round_robin" if n % 2 else "pick_first"
        whole = {**config, "loadBalancingConfig": [{policy: {}}]}
        options = [*ROOMY, ("grpc.service_config", json.dumps(whole))]
        made.append(grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options=options))
    return made


async def rolling_restart(cluster: Cluster) -> Round:
    """Each of three servers in turn is told to stop, ends, and starts again."""
    load = Load(channels(cluster, {}), IN_FLIGHT)
    await load.flowing()
    for n in range(SERVERS):
        await stopped(cluster, n)
        await asyncio.to_thread(cluster.restart_server, n)
        await load.flowing()
    return seen(cluster, await load.stop())


async def single_stop(cluster: Cluster) -> Round:
    """The only server is told to stop while creates come in, over a connection each."""
    for fake in cluster.fakes[1:]:
        fake.fault("slow", count=-1, delay_s=0.3)  # so that creates are everywhere between client and host
    connections = apart(cluster)
    begun = [asyncio.Event() for _ in connections]

    async def until_it_fails(n: int) -> list[Created]:
        mine: list[Created] = []
        while not mine or mine[-1].code is OK:
            mine.append(await create(connections[n], f"vm-{n}-{len(mine)}"))
            begun[n].set()
        return mine

    clients = [asyncio.create_task(until_it_fails(n)) for n in range(APART)]
    await asyncio.gather(*(event.wait() for event in begun))
    await stopped(cluster, 0)
    done = [created for mine in await asyncio.gather(*clients) for created in mine]
    await asyncio.gather(*(channel.close() for channel in connections))
    return await rested(cluster, done)


async def outlasting_stop(cluster: Cluster) -> Round:
    """The only server is told to stop while it holds creates that no host ever answers, over a connection each."""
    for fake in cluster.fakes:
        fake.fault("hang_after_accept", count=-1)
    connections = apart(cluster)
    clients = [asyncio.create_task(create(channel, f"vm-{n}")) for n, channel in enumerate(connections)]
    await eventually(lambda: sum(len(vms) for vms in on_hosts(cluster).values()) == APART)
    await stopped(cluster, 0)
    done = await asyncio.gather(*clients)
    await asyncio.gather(*(channel.close() for channel in connections))
    for fake in cluster.fakes:
        fake.clear_faults()
    return await rested(cluster, done)


async def leader_killed(cluster: Cluster) -> Round:
    """The leader of three servers is killed, under clients that retry as the documentation says."""
    load = Load(channels(cluster, retry_policy()), IN_FLIGHT, request_ids=True)
    await load.flowing()
    n = await leading(cluster)
    await asyncio.to_thread(cluster.server[n].kill)
    await load.flowing()
    await asyncio.to_thread(cluster.restart_server, n)
    await load.flowing()
    return seen(cluster, await load.stop())


async def single_killed(cluster: Cluster) -> Round:
    """The only server is killed and started again, under clients that retry as the documentation says."""
    load = Load(apart(cluster, retry_policy()), APART, request_ids=True)
    await load.flowing()
    await asyncio.to_thread(cluster.server[0].kill)
    await asyncio.to_thread(cluster.restart_server, 0)
    await load.flowing()
    return seen(cluster, await load.stop())


def apart(cluster: Cluster, config: dict[str, object] | None = None) -> list[grpc.aio.Channel]:
    """A connection for each create."""
    options = [*ROOMY, ("grpc.service_config", json.dumps(config or {}))]
    return [grpc.aio.insecure_channel(cluster.grpc[0], options=options) for _ in range(APART)]


async def stopped(cluster: Cluster, n: int) -> None:
    """Tell a server to stop, and wait for its end."""
    code = await asyncio.to_thread(cluster.server[n].stop, ENDS_WITHIN_S)
    assert code == 0, f"server-{n} ended with {code}\n{cluster.server[n].tail()}"


async def rested(cluster: Cluster, created: Sequence[Created]) -> Round:
    """Start the only server again, and look when no create is unresolved."""
    await asyncio.to_thread(cluster.restart_server, 0)
    clients = Clients(cluster.grpc[0])

    async def resolved() -> bool:
        return all(placement.state == "STARTED" for placement in await clients.placements())

    await eventually(lambda: all_ready(clients, HOSTS))
    await eventually(resolved)
    await clients.close()
    return seen(cluster, created)


def seen(cluster: Cluster, created: Sequence[Created]) -> Round:
    """These creates, and what is on the hosts."""
    found = Round(list(created))
    for host, vms in on_hosts(cluster).items():
        for vm in vms:
            found.homes.setdefault(vm["uid"], []).append(host)
            found.names[vm["id"]] += 1
    return found


@dataclass(frozen=True)
class Scenario:
    """What happens, to how many servers, and the codes that clients may be told besides OK."""

    run: Callable[[Cluster], Awaitable[Round]]
    servers: int
    allowed: tuple[grpc.StatusCode, ...] = ()
    server_flags: tuple[str, ...] = ()


SCENARIOS = {
    "rolling": Scenario(rolling_restart, SERVERS),
    "single": Scenario(single_stop, 1, (UNAVAILABLE,)),
    "outlasting": Scenario(outlasting_stop, 1, (UNAVAILABLE,), ("--create-timeout-s", "300")),
    "leader-killed": Scenario(leader_killed, SERVERS),
    "single-killed": Scenario(single_killed, 1),
}


async def one_round(scenario: Scenario, folder: Path) -> Round:
    """On a cluster of its own, with room for all that is created."""
    roomy = {"vcpu": [1 << 16], "memory_mib": [1 << 28], "disk_mib": [1 << 30]}
    store = "sqlite" if scenario.servers == 1 else "etcd"
    cluster = Cluster(
        folder, plans(HOSTS, folder, **roomy), store, scenario.servers, server_flags=scenario.server_flags
    )
    try:
        await asyncio.to_thread(cluster.start)
        clients = Clients(cluster.grpc[0])
        await eventually(lambda: all_ready(clients, HOSTS))
        await clients.close()
        return await scenario.run(cluster)
    finally:
        await asyncio.to_thread(cluster.stop)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option("--times", type=click.IntRange(1), default=10, show_default=True, help="Rounds of each scenario.")
def main(names: tuple[str, ...], times: int) -> None:
    """Run rounds of these scenarios, or of all, and print what came of the creates. Exit 1 if a round is wrong."""
    wrong = 0
    for name in names or SCENARIOS:
        total: Counter[str] = Counter()
        for n in range(1, times + 1):
            begun_s = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = asyncio.run(one_round(SCENARIOS[name], Path(folder)))
            errors = found.errors(*SCENARIOS[name].allowed)
            total += found.codes
            wrong += bool(errors or found.lost or found.doubled)
            print(
                f"{name} {n}/{times}: {dict(found.codes)}, {len(errors)} not allowed, {len(found.lost)} lost, "
                f"{len(found.doubled)} doubled, {time.monotonic() - begun_s:.0f} s",
                *errors[:3], sep="\n    ", flush=True,
            )  # fmt: skip
        print(f"{name}, {times} rounds: {dict(total)}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
