"""Clusters of real processes, ended when their test is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.cluster.clients import Clients, all_ready, eventually
from tests.harness import Cluster, plans

Start = Callable[..., Awaitable[tuple[Cluster, Clients]]]
# Server flags with which the score is the ledger's alone, as in `billet simulate`: how long boots take is left out.
LEDGER_ALONE = ("--delay-weight", "0")


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    running: list[tuple[Cluster, Clients]] = []
    folders = itertools.chain([tmp_path], (tmp_path / f"cluster-{n}" for n in itertools.count(2)))

    async def run(
        hosts: int,
        store: str = "sqlite",
        server_flags: tuple[str, ...] = (),
        together: bool = False,
        **settings: object,
    ) -> tuple[Cluster, Clients]:
        folder = next(folders)
        folder.mkdir(exist_ok=True)
        flags = (*LEDGER_ALONE, *server_flags)
        cluster = Cluster(folder, plans(hosts, folder, **settings), store, server_flags=flags, together=together)
        await asyncio.to_thread(cluster.start)
        clients = Clients(cluster.grpc[0])
        running.append((cluster, clients))
        await eventually(lambda: all_ready(clients, hosts))
        return cluster, clients

    yield run
    for cluster, clients in running:
        await clients.close()
        await asyncio.to_thread(cluster.stop)
