"""A crowd of one namespace beside another one with one create at a time. `tests.cluster.fairness` measures it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from billet.wire import flintlock as wire
from tests.cluster.clients import Clients, all_ready, eventually, leading, names_on_hosts, numbered
from tests.cluster.conftest import Start
from tests.cluster.fairness import create_request, crowd, play
from tests.harness import Cluster, plans

CROWD = 300
SLOTS = ("--create-slots", "4")


@pytest.mark.slow
async def test_a_crowd_of_one_namespace_holds_up_nobody_else(start: Start) -> None:
    """Broken on purpose (one queue for all, or no bound): the other one's first create ends with the crowd's last."""
    cluster, clients = await start(5, server_flags=SLOTS, together=True)
    other = Clients(cluster.grpc[0])
    crowding = asyncio.create_task(clients.crowd(numbered("busy", CROWD), at_once=CROWD))
    made: list[str] = []
    while not crowding.done():
        name = f"calm-{len(made)}"
        await other.call(wire.CREATE, create_request("calm", name))
        made.append(name)
    outcomes = await crowding
    await other.close()
    assert not outcomes.errors
    assert len(made) >= 10
    assert Counter(await asyncio.to_thread(names_on_hosts, cluster)) == Counter([*outcomes.uids, *made])


@pytest.mark.slow
async def test_a_crowd_that_is_refused_comes_back_and_is_created_once_each(start: Start) -> None:
    """Refusals have the code and the hint that clients retry by; large creates are bounded by their bytes.

    Broken on purpose (a refused create stays in the queue): microVMs that nobody asked for any more.
    """
    cluster, _ = await start(5, server_flags=("--create-memory-mib", "16", "--create-queue", "20"), together=True)
    small = await crowd(cluster.grpc[0], 200, 0, connections=2)
    large = await crowd(cluster.grpc[0], 20, 1_000_000, connections=2, prefix="large")
    for outcome in (small, large):
        assert set(outcome.codes) == {"OK", "UNAVAILABLE"}
        assert outcome.hints == outcome.codes["UNAVAILABLE"]
        assert not outcome.failed
    there = Counter(await asyncio.to_thread(names_on_hosts, cluster))
    assert large.deleted == len(large.made) == 20
    assert {name: there[name] for name in small.made} == dict.fromkeys(small.made, 1)


@pytest.mark.slow
async def test_a_follower_lets_others_pass_its_crowd_too(tmp_path: Path) -> None:
    """Broken on purpose (followers pass creates on in the order of arrival): 400 go before the other one's first."""
    cluster = Cluster(tmp_path, plans(5, tmp_path), "etcd", servers=2, together=True, server_flags=SLOTS)
    await asyncio.to_thread(cluster.start)
    try:
        clients = Clients(cluster.grpc[0])
        await eventually(lambda: all_ready(clients, 5))
        await clients.close()
        follower = 1 - await leading(cluster)
        result = await play(cluster, 900, 0, connections=2, alone=10, through=follower)
    finally:
        await asyncio.to_thread(cluster.stop)
    assert (result.lost, result.doubled) == ([], [])
    assert set(result.busy.codes) <= {"OK", "UNAVAILABLE"}
    assert set(result.calm.codes) == {"OK"}
    assert max(result.between) < 200, result.between
