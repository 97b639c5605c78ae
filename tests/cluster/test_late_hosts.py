"""Hosts whose bids come late win as many microVMs as the others: behind a slow line, or stopped for moments."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from statistics import fmean, pstdev

import pytest

from tests.cluster.clients import Clients, all_ready, eventually, numbered, on_hosts
from tests.cluster.conftest import Start
from tests.harness import Cluster

HOSTS, LATE, CREATES, AT_ONCE = 10, 5, 200, 8
LINE_S = 0.08  # one way; the bid window is 50 ms
STOPPED_S = 0.5  # of each second
AS_USERS_RUN_IT = ("--bid-wait-ms", "50", "--delay-weight", "0.05")


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass everything on, LINE_S later."""
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(LINE_S, writer.write, data)
    await asyncio.sleep(LINE_S)
    writer.close()


@asynccontextmanager
async def slow_line(port: int) -> AsyncIterator[int]:
    """The port of a slow line to this port."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def move_away(cluster: Cluster, clients: Clients, port: int) -> None:
    """Start the agents of the first LATE hosts again behind a slow line."""
    for n in range(LATE):
        await asyncio.to_thread(cluster.agent[n].stop)
        arguments = cluster.agent_arguments(n)
        arguments[arguments.index("--server") + 1] = f"127.0.0.1:{port}"
        cluster.agent[n] = cluster.processes.billet(f"agent-far-{n}", "agent", *arguments)
    for n in range(LATE):
        await asyncio.to_thread(cluster.agent[n].ready, 60)
    await eventually(lambda: all_ready(clients, HOSTS))


async def stumble(cluster: Cluster) -> None:
    """Stop the agents of the first LATE hosts for a part of each second."""
    try:
        while True:
            for number, pause_s in ((signal.SIGSTOP, STOPPED_S), (signal.SIGCONT, 1.0 - STOPPED_S)):
                for agent in cluster.agent[:LATE]:
                    agent.signal(number)
                await asyncio.sleep(pause_s)
    finally:
        for agent in cluster.agent[:LATE]:
            agent.signal(signal.SIGCONT)


def unevenness(cluster: Cluster) -> tuple[float, dict[str, int]]:
    """The coefficient of variation of the number of microVMs on the hosts, and that number by host."""
    counts = Counter({host_id: len(vms) for host_id, vms in on_hosts(cluster).items()})
    return pstdev(counts.values()) / fmean(counts.values()), dict(counts)


@pytest.mark.parametrize("why", ["far away", "stopped for moments"])
async def test_late_hosts_get_their_part(start: Start, why: str) -> None:
    """Broken on purpose (auctions are decided among the bids that came): the late hosts get nothing, CoV 1.0."""
    cluster, clients = await start(HOSTS, server_flags=AS_USERS_RUN_IT, vcpu=64, memory_mib=64 * 1024, max_vms=60)
    async with slow_line(cluster.ports[0][2]) as port:
        if why == "far away":
            await move_away(cluster, clients, port)
        stumbling = asyncio.create_task(stumble(cluster)) if why != "far away" else None
        crowd = await clients.crowd(numbered("vm", CREATES), AT_ONCE)
        if stumbling:
            stumbling.cancel()
        assert not crowd.errors, crowd.texts()
        cov, counts = unevenness(cluster)
        print(f"{why}: CoV {cov:.3f} {counts}")
        assert sum(counts.values()) == CREATES
        assert cov <= 0.1, counts
