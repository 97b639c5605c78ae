"""Clusters of real processes, ended when their test is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest

from billet.wire.pb import fleet_pb2
from tests.cluster.clients import Clients, eventually
from tests.harness import Cluster, plans

Start = Callable[..., Awaitable[tuple[Cluster, Clients]]]
# Server flags of clusters whose hosts are all this one machine: it feels now more and now less pressure, and a bid
# may have to wait for it. Were these counted, they would decide who wins.
CALM = ("--pressure-weight", "0", "--bid-wait-ms", "2000")
# What boots take is left out, too: the score is the ledger's alone, as in `billet simulate`.
LEDGER_ALONE = (*CALM, "--delay-weight", "0")


async def all_bid(clients: Clients, count: int) -> bool:
    """Whether so many hosts are there and may bid; an agent that is welcome is not in the ledger at once."""
    try:
        return [host.state for host in (await clients.hosts()).values()] == [fleet_pb2.READY] * count
    except grpc.aio.AioRpcError:
        return False


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[tuple[Cluster, Clients]] = []

    async def run(hosts: int, store: str = "sqlite", server_flags: tuple[str, ...] = (), **settings: object):
        cluster = Cluster(
            tmp_path, plans(hosts, tmp_path, **settings), store, server_flags=(*LEDGER_ALONE, *server_flags)
        )
        await asyncio.to_thread(cluster.start)
        running.append((cluster, Clients(cluster.grpc[0])))
        await eventually(lambda: all_bid(running[-1][1], hosts))
        return running[-1]

    yield run
    for cluster, clients in running:
        await clients.close()
        await asyncio.to_thread(cluster.stop)
