"""Rotation under load: every certificate, CA and secret of every leg is replaced while creates are in flight.

    python -m tests.cluster.rotation [CREATES AT ONCE] [SECONDS PER STEP]

Two servers on etcd with TLS, a certificate and a password (SQLite and one server, if the machine has no etcd); agents
with certificates; flintlockds with certificates and tokens. Half of the clients open a connection for each create,
with the files of that moment; the others keep theirs. After the three steps nothing old is good any more.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from billet.grpc.dial import Address
from billet.grpc.engine import new_channel
from billet.grpc.interface import Channel
from billet.grpc.status import RpcError
from billet.wire import flintlock as wire
from billet.wire.auth import basic_header
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.tls import ClientTls
from tests.cluster.clients import create_request
from tests.cluster.secured import SecuredCluster

STEPS = ("overlap", "renew", "finish")
DEADLINE_S = 60.0


@dataclass
class Tally:
    """What the creates came to."""

    took_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    uids: list[str] = field(default_factory=list)
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.took_s) or [0.0]
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3


class Load:
    """So many creates at once, until it is stopped."""

    def __init__(self, cluster: SecuredCluster, at_once: int) -> None:
        self.tally = Tally()
        self._cluster, self._at_once = cluster, at_once
        self._stopping = False
        self._number = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._client(n) for n in range(self._at_once)))

    def stop(self) -> None:
        self._stopping = True

    async def _client(self, n: int) -> None:
        channel = None
        while not self._stopping:
            if channel is None:
                channel = connect(self._cluster, n)
                self.tally.connections += 1
            await self._create(channel)
            if n % 2:
                await channel.close()
                channel = None
        if channel:
            await channel.close()

    async def _create(self, channel: Channel) -> None:
        tally, began_s = self.tally, time.monotonic()
        self._number += 1
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        try:
            tally.uids.append(await create(channel, f"vm-{self._number}", shown(self._cluster)))
            tally.took_s.append(time.monotonic() - began_s)
        except RpcError as error:
            tally.errors[f"{error.code}: {error.text}"] += 1
        finally:
            tally.in_flight -= 1


def connect(cluster: SecuredCluster, n: int, files: ClientTls | None = None) -> Channel:
    """A connection to one of the servers, with the files in force or with these."""
    grpc_port, _, _ = cluster.ports[n % len(cluster.ports)]
    return new_channel(Address("127.0.0.1", grpc_port, files or cluster.legs["api"].client()))


def shown(cluster: SecuredCluster) -> str:
    """The token that a client shows: the first line of its file."""
    return cluster.legs["api"].secret.read_text().splitlines()[0]


async def create(channel: Channel, name: str, token: str) -> str:
    metadata = (("authorization", basic_header(token)),)
    reply = await channel.unary(wire.CREATE, create_request(name), DEADLINE_S, metadata)
    return rpc.CreateMicroVMResponse.FromString(reply.payload).microvm.spec.uid


async def refused(cluster: SecuredCluster, kind: str, token: str) -> str:
    """Why a client with these files and this token is refused; "" if it is not."""
    channel = connect(cluster, 0, cluster.legs["api"].client(kind))
    try:
        await create(channel, f"{kind}-{token}", token)
    except RpcError as error:
        return f"{error.code}: {error.text}"
    finally:
        await channel.close()
    return ""


async def rotate(cluster: SecuredCluster, step_s: float, say: bool = False) -> None:
    """The three steps, each once the one before is in force everywhere. Every other one by SIGHUP."""
    for n, step in enumerate(STEPS):
        marks = cluster.marks()
        before = {
            path: path.read_bytes()
            for leg in cluster.legs.values()
            for path in leg.folder.iterdir()
            if path.is_file()
        }
        for leg in cluster.legs.values():
            getattr(leg, step)()
        changed = [str(path) for path, content in before.items() if path.read_bytes() != content]
        took_s = await cluster.in_force(marks, changed, hangup=n % 2 == 1)
        if step == "renew":
            await cluster.change_password()
        if say:
            how = "SIGHUP" if n % 2 else "files"
            print(
                f"{step}: {len(changed)} files replaced, in force everywhere after {took_s:.1f} s ({how})", flush=True
            )
        await asyncio.sleep(step_s)


async def run(
    folder: Path, at_once: int, step_s: float, servers: int = 2, hosts: int = 3, say: bool = False
) -> Tally:
    """Rotate under load; then prove that only the new files are good, and that processes start with them."""
    cluster = SecuredCluster(folder, servers, hosts)
    load = Load(cluster, at_once)
    try:
        await cluster.start()
        running = asyncio.create_task(load.run())
        await asyncio.sleep(step_s)
        pids = {process.name: process.pid for process in (*cluster.servers, *cluster.agents)}
        await rotate(cluster, step_s, say)
        load.stop()
        await running
        assert all(process.running() for process in (*cluster.servers, *cluster.agents))
        assert pids == {process.name: process.pid for process in (*cluster.servers, *cluster.agents)}
        await prove(cluster, load.tally, say)
    finally:
        cluster.stop()
    return load.tally


async def prove(cluster: SecuredCluster, tally: Tally, say: bool) -> None:
    """Nothing old is good; each acknowledged microVM is on one host, once; what is started again finds its way."""
    answers = {
        (kind, token): await refused(cluster, kind, f"api-{token}")
        for kind, token in (("old", "new"), ("new", "old"), ("new", "new"))
    }
    assert [bool(why) for why in answers.values()] == [True, True, False], answers
    there = Counter(vm["uid"] for fake in cluster.fakes for vm in fake.stats()["microvms"])
    assert all(there[uid] == 1 for uid in tally.uids)
    for n, process in enumerate(cluster.agents):
        process.stop()
        cluster.agents[n] = cluster.launch_agent(n)
        await asyncio.to_thread(cluster.agents[n].ready)
    for n, process in enumerate(cluster.servers):
        process.stop()
        cluster.servers[n] = cluster.launch_server(n)
        await asyncio.to_thread(cluster.servers[n].ready)
        assert not await refused(cluster, "new", "api-new")
    if say:
        for (kind, token), why in answers.items():
            print(f"a client with the {kind} certificate and the {token} token: {why or 'OK'}")
        print("agents and servers started again with the new files: OK")
        print(
            "leaders:",
            len(cluster.logged("leading")),
            "lines; unusable files:",
            len(cluster.logged("cannot be used")),
        )


def main(arguments: list[str]) -> int:
    """Print what was measured; 1 if there was an error."""
    at_once, step_s = int((*arguments, 64)[0]), float((*arguments[1:], 10)[0])
    with tempfile.TemporaryDirectory() as folder:
        tally = asyncio.run(run(Path(folder), at_once, step_s, say=True))
    print(f"creates: {len(tally.uids)} OK, {tally.errors.total()} errors {dict(tally.errors)}")
    print(f"in flight at once: {tally.most_in_flight}; connections made: {tally.connections}; "
          f"p50 {tally.percentile_ms(0.5):.0f} ms, p99 {tally.percentile_ms(0.99):.0f} ms, "
          f"longest {tally.percentile_ms(1):.0f} ms")  # fmt: skip
    return 1 if tally.errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
