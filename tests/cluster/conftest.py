"""Clusters of real processes, ended when their test is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.cluster.clients import Clients, all_ready, eventually
from tests.harness import Cluster, plans

Start = Callable[..., Awaitable[tuple[Cluster, Clients]]]
# Server flags of clusters whose hosts are all this one machine: it feels now more and now less pressure, and a bid
# may have to wait for it. Were these counted, they would decide who wins.
CALM = ("--pressure-weight", "0", "--bid-wait-ms", "2000")
# What boots take is left out, too: the score is the ledger's alone, as in `billet simulate`.
LEDGER_ALONE = (*CALM, "--delay-weight", "0")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[tuple[Cluster, Clients]] = []

    async def run(hosts: int, store: str = "sqlite", server_flags: tuple[str, ...] = (), **settings: object):
        cluster = Cluster(
            tmp_path, plans(hosts, tmp_path, **settings), store, server_flags=(*LEDGER_ALONE, *server_flags)
        )
        await asyncio.to_thread(cluster.start)
        running.append((cluster, Clients(cluster.grpc[0])))
        await eventually(lambda: all_ready(running[-1][1], hosts))
        return running[-1]

    yield run
    for cluster, clients in running:
        await clients.close()
        await asyncio.to_thread(cluster.stop)
