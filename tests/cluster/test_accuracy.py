"""The audit on a live cluster: foretold against reported utilisation, and seconds to CREATED."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest

from billet.api import fleet_service as fleet
from billet.core.accuracy import Outcome, errors
from billet.wire.auction_records import decode_outcomes
from billet.wire.pb import fleet_pb2
from tests.cluster.clients import Clients, eventually, numbered
from tests.cluster.conftest import LEDGER_ALONE
from tests.harness import Cluster, plans

WAVES, WAVE = 6, 20


async def judged(clients: Clients, count: int) -> list[Outcome] | None:
    """All outcomes, once there are so many."""
    reply = fleet_pb2.AccuracyReply.FromString(await clients.call(fleet.ACCURACY, b""))
    outcomes = decode_outcomes(reply.outcome_json)
    return outcomes if len(outcomes) == count else None


@pytest.mark.slow
@pytest.mark.long
async def test_where_boots_queue_the_seconds_are_right_and_nine_of_ten_within_the_bound(tmp_path: Path) -> None:
    """Four hosts, groups of 20 creates, boots that vary by 30 %: the first group teaches the hosts. So few boots on a
    machine that gets busy leave much to chance (28 % and 75 % were seen), so that here only right and broken are told
    apart; tests/whatif/test_bursts.py is strict.

    Broken on purpose: the host does not count what waits (an error of 177 %, by and by); the leader does not count
    what it has awarded since (113 %, together); a bound is what is foretold (38 % within).
    """
    cluster = Cluster(tmp_path, plans(4, tmp_path, boot_mean_s=0.3, sigma=0.3, pull_mean_s=0.5, vcpu=200))
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    try:
        together, by_and_by = [], []  # the leader counts those before it, or the host does
        for wave in range(1 + WAVES):
            if wave % 2:
                await asyncio.gather(*(clients.create(name) for name in numbered(f"wave-{wave}", WAVE)))
            else:
                for name in numbered(f"wave-{wave}", WAVE):
                    await clients.create(name)
            outcomes = await eventually(lambda so_far=(1 + wave) * WAVE: judged(clients, so_far))
            if wave:
                newest = sorted(outcomes, key=lambda outcome: outcome.at_s)[-WAVE:]
                (together if wave % 2 else by_and_by).extend(newest)
        for kind in (together, by_and_by):
            found = errors(kind)
            assert found
            assert found.worst <= 0.01
            assert found.boots == WAVES // 2 * WAVE
            assert found.error is not None
            assert found.error <= 0.5, found
            assert found.within is not None
            assert found.within >= 0.55, found
    finally:
        await clients.close()
        await asyncio.to_thread(cluster.stop)


@pytest.mark.slow
async def test_bids_foretell_what_comes(tmp_path: Path) -> None:
    """Nothing else runs on the hosts, whose boots hardly vary."""
    cluster = Cluster(
        tmp_path, plans(2, tmp_path, boot_mean_s=0.25, sigma=0.05, vcpu=50), http=True, server_flags=LEDGER_ALONE
    )
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    try:
        for name in numbered("first", 8):  # from them the hosts learn how long a boot takes
            await clients.create(name)
        await eventually(lambda: judged(clients, 8))
        for name in numbered("vm", 22):
            await clients.create(name)
        outcomes = await eventually(lambda: judged(clients, 30))
        found = errors(outcomes)
        assert found
        assert found.worst <= 0.01
        assert found.boots >= 22
        assert found.ratio
        assert 0.5 < found.ratio < 2.0
        assert max(outcome.reported for outcome in outcomes) == pytest.approx(0.3)  # 15 of 50 vCPUs on each
        page = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://{cluster.http_address}/metrics", timeout=10).read().decode()
        )
        assert 'billet_bid_outcomes{host="h0"} 15.0' in page
    finally:
        await clients.close()
        await asyncio.to_thread(cluster.stop)
