"""One namespace creates a crowd of microVMs at once; another one creates one at a time. What it costs the other.

`python -m tests.cluster.fairness` runs it with real servers and fakes: 2,000 small creates, then 300 of 3 MB. It
prints the calm namespace's p99 alone and beside the crowd, every code that clients saw, the microVMs that were lost
or doubled, and the memory of the server. The crowd runs in a process of its own, and comes back when it is told to.
It deletes large microVMs once they are made.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import grpc
import grpc.aio

from billet.core.metadata import RETRY_PUSHBACK
from billet.core.questions.record import AuctionRecord
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from tests.cluster.broken_hosts import records
from tests.cluster.clients import ROOMY, Clients, all_ready, eventually, leading, names_on_hosts, numbered, spec
from tests.harness import Cluster, plans

BUSY, CALM = "busy", "calm"
DEADLINE_S = 120.0  # of one attempt
PATIENCE_S = 240.0  # after which the crowd comes back no more
TELL_S = 10.0
PAUSE_S = 1.0  # before the next attempt, when a refusal says nothing


def create_request(namespace: str, name: str, size: int = 0) -> bytes:
    vm = spec(name)
    vm.namespace = namespace
    if size:
        vm.metadata["user-data"] = "A" * size
    return rpc.CreateMicroVMRequest(microvm=vm).SerializeToString()


@dataclass
class Crowd:
    """What the creates of the busy namespace came to."""

    codes: Counter[str] = field(default_factory=Counter)  # of all attempts
    texts: Counter[str] = field(default_factory=Counter)  # of those that failed
    made: list[str] = field(default_factory=list)  # names
    failed: Counter[str] = field(default_factory=Counter)  # codes of the last attempts of those that gave up
    first_round: Counter[str] = field(default_factory=Counter)  # codes of first attempts
    hints: int = 0  # refusals that said when to come back
    seconds: float = 0.0
    deleted: int = 0  # those with user-data, once they were made

    async def create(self, channel: grpc.aio.Channel, name: str, size: int, until_s: float) -> None:
        """Create one microVM, as often as it is told to come back."""
        request, first = create_request(BUSY, name, size), True
        while True:
            code, pause_s, uid = await self._attempt(channel, request)
            self.codes[code] += 1
            self.first_round[code] += first
            first = False
            if code == "OK":
                self.made.append(name)
                if size:
                    await self._delete(channel, uid)
                return
            if code != "UNAVAILABLE" or time.monotonic() > until_s:
                self.failed[code] += 1
                return
            await asyncio.sleep(pause_s)

    async def _delete(self, channel: grpc.aio.Channel, uid: str) -> None:
        """Large specs must not pile up: all hosts are on this machine, and each List has all of its host's specs."""
        await channel.unary_unary(wire.DELETE)(
            rpc.DeleteMicroVMRequest(uid=uid).SerializeToString(), timeout=DEADLINE_S
        )
        self.deleted += 1

    async def tell(self, count: int) -> None:
        """Say now and then how far it is."""
        while True:
            await asyncio.sleep(TELL_S)
            done = f"{len(self.made)} of {count} creates of the crowd are done"
            click.echo(f"{done}; answers so far: {dict(self.codes)}", err=True)

    async def _attempt(self, channel: grpc.aio.Channel, request: bytes) -> tuple[str, float, str]:
        """The code, the seconds to wait before the next attempt, and the uid."""
        try:
            reply = await channel.unary_unary(wire.CREATE)(request, timeout=DEADLINE_S)
            return "OK", 0.0, rpc.CreateMicroVMResponse.FromString(reply).microvm.spec.uid
        except grpc.aio.AioRpcError as error:
            hints = [float(value) / 1e3 for key, value in error.trailing_metadata() or () if key == RETRY_PUSHBACK]
            self.hints += bool(hints)
            self.texts[(error.details() or "").rpartition(";")[0][:150]] += 1
            return error.code().name, hints[0] if hints else PAUSE_S, ""


async def crowd(
    address: str,
    count: int,
    size: int,
    connections: int,
    prefix: str = BUSY,
    ready: Callable[[], None] = lambda: None,
) -> Crowd:
    """All creates at once, after `ready`."""
    channels = [grpc.aio.insecure_channel(address, options=ROOMY) for _ in range(connections)]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    await asyncio.to_thread(ready)
    outcome, begun_s = Crowd(), time.monotonic()
    until_s = begun_s + PATIENCE_S
    names = enumerate(numbered(prefix, count))
    telling = asyncio.create_task(outcome.tell(count))
    await asyncio.gather(*(outcome.create(channels[n % connections], name, size, until_s) for n, name in names))
    telling.cancel()
    outcome.seconds = time.monotonic() - begun_s
    await asyncio.gather(*(channel.close() for channel in channels))
    return outcome


class CrowdApart:
    """The same, in a process of its own: a crowd has no part in the calm client's event loop."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    @classmethod
    async def start(cls, address: str, count: int, size: int, connections: int) -> CrowdApart:
        """Returns as it begins."""
        command = (sys.executable, "-m", "tests.cluster.fairness", "--crowd", address)
        options = ("--creates", str(count), "--bytes", str(size), "--connections", str(connections))
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*command, *options, stdin=pipe, stdout=pipe, limit=1 << 24)
        assert child.stdin is not None
        assert child.stdout is not None
        await child.stdout.readline()  # it is ready
        child.stdin.close()
        return cls(child)

    async def outcome(self) -> Crowd:
        """What it came to."""
        output, _ = await self._child.communicate()
        assert self._child.returncode == 0
        told = json.loads(output)
        return Crowd(**{key: Counter(value) if isinstance(value, dict) else value for key, value in told.items()})


@dataclass
class Calm:
    """What the creates of the calm namespace came to, one after another."""

    alone_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    made: list[str] = field(default_factory=list)

    async def create(self, clients: Clients, into: list[float]) -> None:
        name, begun_s = f"{CALM}-{len(self.made)}", time.perf_counter()
        try:
            await clients.call(wire.CREATE, create_request(CALM, name))
            self.codes["OK"] += 1
            self.made.append(name)
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1
        into.append(time.perf_counter() - begun_s)


@dataclass
class Result:
    """Everything that a run is judged by."""

    creates: int
    size: int
    calm: Calm
    busy: Crowd
    lost: list[str]  # acknowledged, and on no host
    doubled: list[str]
    peak_mib: list[int]  # of each server's memory: before the crowd, and until its end
    between: list[int]  # decisions about busy creates between two about calm ones, while the crowd was there
    slowest: list[dict[str, float]]  # the legs of the calm namespace's slowest creates, in ms


async def play(cluster: Cluster, count: int, size: int, connections: int, alone: int, through: int = 0) -> Result:
    """A crowd, and one that creates one at a time before and meanwhile; both through the server with this number."""
    address = cluster.grpc[through]
    clients, calm = Clients(address), Calm()
    try:
        for _ in range(alone // 10):
            await calm.create(clients, [])  # warm-up
        for _ in range(alone):
            await calm.create(clients, calm.alone_s)
        before = [peak_mib(server.pid) for server in cluster.server]
        crowding = asyncio.create_task((await CrowdApart.start(address, count, size, connections)).outcome())
        while not crowding.done():
            await calm.create(clients, calm.beside_s)
        busy = await crowding
        decided = [record for record in await records(clients) if record.attempts]
    finally:
        await clients.close()
    there = Counter(await asyncio.to_thread(names_on_hosts, cluster))
    lost = [name for name in (*(() if size else busy.made), *calm.made) if not there[name]]
    doubled = [name for name, number in there.items() if number > 1]
    accepted = await asyncio.to_thread(lambda: sum(fake.stats()["creates_accepted"] for fake in cluster.fakes))
    doubled += ["one that was deleted"] * (accepted - len(busy.made) - len(calm.made))
    after = [peak_mib(server.pid) for server in cluster.server]
    return Result(count, size, calm, busy, lost, doubled, [*before, *after], _between(decided), _slowest(decided))


def _slowest(decided: Sequence[AuctionRecord], count: int = 3) -> list[dict[str, float]]:
    calm = (record.legs_ms for record in decided if record.auction.namespace == CALM)
    return sorted(calm, key=lambda legs: -sum(legs.values()))[:count]


def _between(decided: Sequence[AuctionRecord]) -> list[int]:
    """By how many decisions of the crowd those of the calm namespace are apart: a measure without a clock."""
    order = [r.auction.namespace for r in sorted(decided, key=lambda record: record.attempts[-1].slot)]
    crowd = [n for n, namespace in enumerate(order) if namespace == BUSY] or [0]
    calm = [n for n, namespace in enumerate(order) if namespace == CALM and n < crowd[-1]]
    calm = [n for n in calm if n < crowd[0]][-1:] + [n for n in calm if n > crowd[0]]
    return [later - earlier - 1 for earlier, later in itertools.pairwise(calm)]


def peak_mib(pid: int) -> int:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def quantile_ms(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3, 1)


def told(result: Result) -> dict[str, Any]:
    """The figures of one run."""
    calm, busy = result.calm, result.busy
    alone, beside = quantile_ms(calm.alone_s, 0.99), quantile_ms(calm.beside_s, 0.99)
    ordered = sorted(result.between) or [0]
    between = [ordered[len(ordered) // 2], ordered[-1]]
    return {
        "creates": result.creates, "bytes": result.size, "calm p50 ms": quantile_ms(calm.alone_s, 0.5),
        "calm p99 ms": alone, "p50 beside ms": quantile_ms(calm.beside_s, 0.5), "p99 beside ms": beside,
        "max beside ms": quantile_ms(calm.beside_s, 1.0), "ratio of p99": round(beside / alone, 1),
        "creates beside": len(calm.beside_s), "busy decisions between calm ones, p50 and max": between,
        "calm codes": dict(calm.codes),
        "busy codes, first attempts": dict(busy.first_round), "busy codes, all attempts": dict(busy.codes),
        "refusals with a hint": busy.hints, "busy made": len(busy.made),
        "busy deleted": busy.deleted, "busy gave up": dict(busy.failed),
        "busy s": round(busy.seconds, 1), "lost": len(result.lost), "doubled": len(result.doubled),
        "server's peak MiB, before and after": result.peak_mib,
        "legs of the calm namespace's slowest, ms": result.slowest, "texts": dict(busy.texts.most_common(4)),
    }  # fmt: skip


async def run(
    folder: Path,
    servers: int,
    hosts: int,
    flags: tuple[str, ...],
    count: int,
    size: int,
    connections: int,
    alone: int,
) -> Result:
    """A run on a cluster of its own."""
    store = "sqlite" if servers == 1 else "etcd"
    cluster = Cluster(folder, plans(hosts, folder), store, servers, together=True, server_flags=flags)
    await asyncio.to_thread(cluster.start)
    try:
        clients = Clients(cluster.grpc[0])
        await eventually(lambda: all_ready(clients, hosts))
        await clients.close()
        follower = (await leading(cluster) + 1) % servers if servers > 1 else 0
        return await play(cluster, count, size, connections, alone, follower)
    finally:
        await asyncio.to_thread(cluster.stop)


def _ready() -> None:
    """Tell the process that has started this one, and wait for its word."""
    print(flush=True)
    sys.stdin.read()


@click.command()
@click.option("--crowd", "crowd_address", hidden=True)
@click.option(
    "--creates", type=int, help="With --bytes: one crowd of this size. Default: 2,000 small, then 300 of 3 MB."
)
@click.option("--bytes", "size", type=int, default=0, help="User-data of each.")
@click.option("--connections", default=4, show_default=True, help="Of the crowd.")
@click.option("--servers", default=1, show_default=True, help="With several, all calls go to one that does not lead.")
@click.option("--hosts", default=20, show_default=True)
@click.option("--alone", default=300, show_default=True, help="Creates of the calm namespace before the crowd.")
@click.argument("server_flags", nargs=-1)
def main(
    crowd_address: str | None, creates: int | None, size: int, connections: int, servers: int, hosts: int, alone: int,
    server_flags: tuple[str, ...],
) -> None:  # fmt: skip
    """Run the crowds, and print what they came to. Options of `billet server` follow after --."""
    if crowd_address:
        click.echo(json.dumps(vars(asyncio.run(crowd(crowd_address, creates or 1, size, connections, ready=_ready)))))
        return
    for count, each in [(creates, size)] if creates else [(2000, 0), (300, 3_000_000)]:
        with tempfile.TemporaryDirectory() as folder:
            result = asyncio.run(run(Path(folder), servers, hosts, server_flags, count, each, connections, alone))
            click.echo(json.dumps(told(result), indent=1))


if __name__ == "__main__":
    main()
