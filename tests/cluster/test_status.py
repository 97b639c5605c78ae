"""`billet status` on three servers and three etcd members, whatever is down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_metrics import page
from tests.conformance.calls import eventually, http
from tests.harness import Cluster, plans
from tests.zygote import ZYGOTE

HOSTS = 2


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    running = Cluster(tmp_path, plans(HOSTS, tmp_path), "etcd", servers=3, members=3, http=True).start()
    try:
        eventually(lambda: status(running)["fleet"]["hosts"] == {"READY": HOSTS})
        yield running
    finally:
        running.stop()


def status(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    """The answer of the first server of the cluster that answers."""
    done = ZYGOTE.run("status", "-o", "json", "-s", ",".join(cluster.grpc), *arguments)
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if answer["leader"] and answer["store"]["serving"] else 1)
    return answer


def table(cluster: Cluster) -> str:
    return ZYGOTE.run("status", "-s", ",".join(cluster.grpc)).stdout


def missing(answer: dict[str, Any]) -> list[str]:
    return [row["id"] for row in answer["servers"] if row["missing_s"]]


@pytest.mark.long
def test_status_says_who_leads_who_is_missing_and_what_the_store_lacks(cluster: Cluster) -> None:
    """Broken on purpose (a server answers with the leader's part alone): no servers. Broken on purpose (a member is
    asked as any call asks it, with `hasleader`): the one that is left does not answer either. Broken on purpose (the
    client tries one endpoint): the killed server cannot be reached.
    """
    answer = eventually(lambda: _complete(status(cluster)))
    assert [row["id"] for row in answer["servers"]] == ["server-0", "server-1", "server-2"]
    assert [row["grpc"] for row in answer["servers"]] == cluster.grpc
    assert all(row["version"] == answer["version"] and row["http"] for row in answer["servers"])
    assert answer["leader"] == answer["fleet"]["server"]
    assert answer["fleet"]["allocatable"]["vcpu"] == 1000 * HOSTS
    assert "stale_s" not in answer
    assert f"Leader {answer['leader']}, term {answer['fleet']['term']}" in table(cluster)

    assert http(cluster.http_address, "GET", "/readyz") == (200, b"ok\n")
    assert json.loads(http(cluster.http_address, "GET", "/version")[1]) == {"version": answer["version"]}

    pages = [page(row["http"]) for row in answer["servers"]]
    assert sum(one["billet_leader"] for one in pages) == 1
    assert all(one["billet_serving"] == 1 and one["billet_servers_standing"] == 3 for one in pages)

    cluster.server[0].kill()
    eventually(lambda: missing(status(cluster)) == ["server-0"])
    assert "missing" in table(cluster)
    cluster.restart_server(0)
    eventually(lambda: _complete(status(cluster)))

    for member in cluster.etcd[:2]:
        member.kill()
    begun_s = time.monotonic()
    answer = eventually(lambda: _not_serving(status(cluster)))
    print(f"two members down, and said so after {time.monotonic() - begun_s:.1f} s")
    assert sum(member["answers"] for member in answer["store"]["members"]) == 1
    assert answer["store"]["why"].startswith("etcd ")  # has no leader, or does not answer
    answer = eventually(lambda: _of_the_last_term(status(cluster)))
    eventually(lambda: http(cluster.http_address, "GET", "/readyz") == (503, b"the store is not serving\n"))
    follower = page(cluster.http_address)
    assert follower["billet_store_serving"] == 0
    assert sum(up for name, up in follower.items() if name.startswith("billet_store_member_up")) == 1
    assert answer["leader"] == ""
    assert answer["fleet"]["hosts"] == {"READY": HOSTS}
    shown = table(cluster)
    assert "No leader" in shown
    assert "NOT SERVING: 1 of 3 members answers" in shown
    hosts = ZYGOTE.run("hosts", "-s", cluster.grpc[1])
    assert "no server leads; this answer is" in hosts.stderr
    assert hosts.returncode == 0


def _complete(answer: dict[str, Any]) -> dict[str, Any] | None:
    there = len(answer["servers"]) == 3 and not missing(answer) and answer["leader"]
    return answer if there and answer["fleet"]["hosts"] == {"READY": HOSTS} else None


def _not_serving(answer: dict[str, Any]) -> dict[str, Any] | None:
    return None if answer["store"]["serving"] else answer


def _of_the_last_term(answer: dict[str, Any]) -> dict[str, Any] | None:
    return answer if "stale_s" in answer else None
