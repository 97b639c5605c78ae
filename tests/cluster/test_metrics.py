"""The metrics of a real cluster, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from billet.demo.processes import free_port
from billet.wire.auth import basic_header
from tests.conformance.calls import Client, eventually, http, spec
from tests.harness import Cluster, plans

TOKEN = "of Prometheus"
CREATED = 5
Page = dict[str, float]  # values by name{label="value",...}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    hosts = [
        replace(plan, zone="ab"[n], vcpu=8, agent_flags=(
            *plan.agent_flags, "--metrics-endpoint", f"127.0.0.1:{free_port()}", "--metrics-token-file", str(token)
        ))
        for n, plan in enumerate(plans(2, tmp_path))
    ]  # fmt: skip
    running = Cluster(tmp_path, hosts, http=True).start()
    try:
        eventually(lambda: page(running.http_address).get('billet_hosts{state="READY"}') == 2)
        yield running
    finally:
        running.stop()


def page(address: str, **headers: str) -> Page:
    status, body = http(address, "GET", "/metrics", **headers)
    assert status == 200, body
    return {
        sample.name + ("{" + ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items())) + "}"
                       if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }  # fmt: skip


def of_agent(cluster: Cluster, n: int, path: str = "/metrics", token: str = TOKEN) -> tuple[int, bytes]:
    flags = cluster.plans[n].agent_flags
    address = flags[flags.index("--metrics-endpoint") + 1]
    return http(address, "GET", path, **({"Authorization": basic_header(token)} if token else {}))


def test_the_leader_counts_creates_room_and_hosts_and_an_agent_its_orders(cluster: Cluster) -> None:
    """Broken on purpose, each fails at its line: the archive does not count; MiB are not made bytes;
    transactions are not heard; the agent asks for no token; what the reconciler writes is not counted.
    """
    client = Client(cluster.grpc[0])
    for n in range(CREATED):
        client.create(spec(f"vm-{n}", "ns"))
    with pytest.raises(grpc.RpcError):
        client.create(spec("giant", "ns", vcpu=30))
    eventually(lambda: page(cluster.http_address).get('billet_microvms{state="CREATED"}') == CREATED)
    eventually(lambda: page(cluster.http_address).get("billet_boot_seconds_count") == CREATED)
    seen = page(cluster.http_address)
    assert seen["billet_leader"] == seen["billet_serving"] == seen["billet_store_serving"] == 1
    assert seen['billet_creates_total{outcome="created"}'] == CREATED
    assert seen['billet_creates_total{outcome="unplaced"}'] == 1
    assert seen['billet_refusals_total{reason="no_vcpu"}'] == 2
    for leg in ("bids", "reserve", "boot_order", "total"):
        assert seen[f'billet_create_leg_seconds_count{{leg="{leg}"}}'] >= CREATED
    assert sum(seen[f'billet_bids_total{{kind="{kind}"}}'] for kind in ("fresh", "standing")) >= 2 * CREATED
    assert seen['billet_allocatable{resource="vcpu",zone="a"}'] == 8
    taken = [seen[f'billet_taken{{resource="memory_bytes",zone="{zone}"}}'] for zone in "ab"]
    assert sum(taken) == CREATED * 1024 * (1 << 20)
    assert seen['billet_store_commits_total{outcome="written"}'] >= 2 * CREATED
    assert seen["billet_store_transaction_seconds_count"] > 0
    assert seen["billet_link_connections"] == 2
    assert seen["process_resident_memory_bytes"] > 1e6
    assert "billet_boot_prediction_ratio_count" in seen

    client.delete(client.list("ns")[0].spec.uid)
    eventually(lambda: page(cluster.http_address).get("billet_placements_ended_total") == 1)
    assert page(cluster.http_address)['billet_reconciler_changes_total{to="gone"}'] == 1

    ordered = 0.0
    for n in range(2):
        assert of_agent(cluster, n, token="")[0] == 401
        assert of_agent(cluster, n, "/version", token="wrong")[0] == 401
        assert of_agent(cluster, n, "/readyz", token="") == (200, b"ok\n")
        status, body = of_agent(cluster, n)
        assert status == 200
        assert b"billet_agent_flintlockd_up 1.0" in body
        assert b"billet_agent_leader_connected 1.0" in body
        samples = [one for family in text_string_to_metric_families(body.decode()) for one in family.samples]
        ordered += sum(one.value for one in samples if one.name == "billet_agent_orders_total")
    assert ordered == CREATED

    cluster.fakes[1].kill()
    eventually(
        lambda: page(cluster.http_address).get('billet_host_not_ready{host="h1",state="DAEMON_DOWN",zone="b"}')
    )
    eventually(lambda: of_agent(cluster, 1, "/readyz") == (503, b"flintlockd does not answer\n"))
    client.close()
