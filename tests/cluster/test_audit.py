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
    """Nothing else runs on the hosts. How precise the seconds are is measured elsewhere, with more than 30 boots."""
    cluster = Cluster(tmp_path, plans(2, tmp_path, boot_mean_s=0.25, sigma=0.05, vcpu=50), http=True)
    await asyncio.to_thread(cluster.start)
    clients = Clients(cluster.grpc[0])
    try:
        for name in numbered("vm", 30):
            await clients.create(name)

        async def judged():
            reply = fleet_pb2.AuditReply.FromString(await clients.call(fleet.AUDIT, b""))
            outcomes = decode_outcomes(reply.outcome_json)
            return outcomes if len(outcomes) == 30 else None

        outcomes = await eventually(judged)
        found = errors(outcomes)
        assert found
        assert found.worst <= 0.01
        assert found.boots >= 5  # the first boots of a host teach it
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
