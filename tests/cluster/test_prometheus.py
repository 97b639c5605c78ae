"""A real Prometheus scrapes a real fleet: every panel has data, and an alert tells that the store is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import grpc
import pytest
import yaml

from billet.demo.processes import Processes, free_port, until_healthy
from billet.wire.auth import hash_of
from billet.wire.pb import fleet_pb2 as pb
from scripts.dashboard import ROWS
from tests.conformance.calls import Client, eventually, http, spec
from tests.deploy.programs import DEPLOY, program
from tests.harness import Cluster, plans

SHARED, VIEWER = "shared", "of Prometheus"
QUERIES = [query for row in ROWS.values() for panel in row for query, _ in panel.queries]
WINDOW = "[5s]"  # in place of Grafana's interval
NEED_TLS = "billet_certificate_not_after_seconds"  # the fleet of this test has no certificates


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    program("prometheus")
    hosts = [replace(plan, zone="ab"[n], vcpu=8) for n, plan in enumerate(plans(2, tmp_path))]
    running = Cluster(tmp_path, hosts, "etcd", http=True, token=SHARED).start()
    try:
        client = Client(running.grpc[0], SHARED)
        wanted = pb.CreateCredentialRequest(name="prometheus", role=pb.VIEWER, token_sha256=hash_of(VIEWER))
        client.call("/billet.v1.Fleet/CreateCredential", wanted.SerializeToString())
        client.close()
        yield running
    finally:
        running.stop()


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """Its address. It uses the settings and rules of deploy/, every second."""
    settings = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (tmp_path / "billet.token").write_text(VIEWER)
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(DEPLOY / "alerts.yml")]
    settings["scrape_configs"] = settings["scrape_configs"][:1]
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [cluster.http_address]}]
    (tmp_path / "prometheus.yml").write_text(yaml.dump(settings))
    at = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={tmp_path}/prometheus.yml", f"--web.listen-address={at}",
               f"--storage.tsdb.path={tmp_path}/tsdb", "--log.level=error"]  # fmt: skip
    with Processes(tmp_path) as processes:
        process = processes.start("prometheus", command)
        until_healthy(process, f"http://{at}/-/ready")
        yield at


def asked(at: str, path: str) -> dict[str, list[dict[str, object]]]:
    status, body = http(at, "GET", f"/api/v1/{path}")
    assert status == 200, body
    found: dict[str, list[dict[str, object]]] = json.loads(body)["data"]
    return found


def without_data(at: str) -> list[str]:
    texts = [query.replace("[$__rate_interval]", WINDOW) for query in QUERIES if NEED_TLS not in query]
    return [text for text in texts if not asked(at, f"query?query={quote(text)}")["result"]]


def firing(at: str) -> set[object]:
    return {alert["labels"]["alertname"] for alert in asked(at, "alerts")["alerts"] if alert["state"] == "firing"}  # type: ignore[index]


@pytest.mark.long
def test_every_panel_has_data_and_an_alert_says_that_the_store_is_away(cluster: Cluster, prometheus: str) -> None:
    """Broken on purpose (a metric is renamed): its panel's query has no data. Broken on purpose (a viewer may not see
    the metrics): no query has.
    """
    client = Client(cluster.grpc[0], SHARED)
    names = iter(range(10_000))

    def busy() -> bool:
        uid = client.create(spec(f"vm-{next(names)}")).spec.uid
        client.delete(uid)  # for the next one has to have room
        with pytest.raises(grpc.RpcError):
            client.create(spec(f"giant-{next(names)}", vcpu=30))
        return not without_data(prometheus)

    try:
        eventually(busy)
    except AssertionError:
        assert without_data(prometheus) == []
    assert "BilletStoreAway" not in firing(prometheus)
    for member in cluster.etcd:
        member.kill()
    eventually(lambda: "BilletStoreAway" in firing(prometheus))
    client.close()
