"""The audit on a live cluster: foretold against reported utilisation, and seconds to CREATED."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest

from billet.api import fleet
from billet.core.audit import errors
from billet.wire.auction_records import decode_outcomes
from billet.wire.pb import fleet_pb2
from tests.cluster.clients import Clients, eventually, numbered
from tests.harness import Cluster, plans


@pytest.mark.slow
async def test_bids_foretell_what_comes(tmp_path: Path) -> None:
    """Nothing else runs on the hosts. How precise the seconds are is measured elsewhere, with many more boots."""
    cluster = Cluster(tmp_path, plans(2, tmp_path, boot_mean_s=0.25, sigma=0.05, vcpu=50), http=True)
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    try:

        async def judged(count: int):
            reply = fleet_pb2.AuditReply.FromString(await clients.call(fleet.AUDIT, b""))
            outcomes = decode_outcomes(reply.outcome_json)
            return outcomes if len(outcomes) == count else None

        for name in numbered("first", 8):  # from them the hosts learn how long a boot takes
            await clients.create(name)
        await eventually(lambda: judged(8))
        for name in numbered("vm", 22):
            await clients.create(name)
        outcomes = await eventually(lambda: judged(30))
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
