"""A grpc-go client and a grpc-go flintlockd with all of Billet between them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from billet.wire.flintlock import LIST
from billet.wire.pb import flintlock_pb2 as rpc
from tests.docs.pages import retry_policy
from tests.interop.clusters import GoCluster, go_cluster
from tests.interop.programs import ENDS_WITHIN_S, fault, go_program, grpcio_fault, run, running, wait_until

SLOTS_FOR_ALL = ("--create-slots", "64")  # none of the creates below waits for another


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoCluster]:
    with go_cluster(tmp_path_factory.mktemp("life"), hosts=2) as running:
        yield running


def test_a_microvm_lives_as_on_the_host_itself(cluster: GoCluster) -> None:
    through_billet = run("client", "-addr", cluster.address, "-id", "one", "life")
    at_the_host = run("client", "-addr", cluster.host.grpc_address, "-id", "one", "life")

    (spec, lists, gone), (own_spec, own_lists, own_gone) = through_billet.lines, at_the_host.lines
    uid, own_uid = spec["spec"].pop("uid"), own_spec["spec"].pop("uid")
    assert (spec, lists) == (own_spec, own_lists)
    assert gone["code"] == own_gone["code"] == "Unknown"
    assert gone["text"].replace(uid, own_uid) == own_gone["text"]


def test_sixty_four_creates_at_once_are_all_made(cluster: GoCluster) -> None:
    done = run("client", "-addr", cluster.address, "-id", "many", "-count", "64", "create")

    assert {line["code"] for line in done.lines} == {"OK"}
    assert len({line["uid"] for line in done.lines}) == 64


def test_a_compressed_create_is_read(cluster: GoCluster) -> None:
    done = run("client", "-addr", cluster.address, "-id", "gzip", "-gzip", "-request", "100000", "create")

    assert done.last["code"] == "OK", done.last


def test_a_deadline_that_passes_is_deadline_exceeded(cluster: GoCluster) -> None:
    done = run("client", "-addr", cluster.address, "-id", "slow-3s", "-timeout", "500ms", "create")

    assert done.last["code"] == "DeadlineExceeded", done.last


@grpcio_fault("SIGTERM answers calls in flight with CANCELLED")
@pytest.mark.parametrize("attempt", range(3))
def test_a_server_that_is_told_to_stop_cancels_no_create(attempt: int, tmp_path: Path) -> None:
    with go_cluster(tmp_path) as cluster:
        flags = ("-id", "load", "-count", "30", "-apart")
        with running(*go_program("client", "-addr", cluster.address, *flags, "load")) as client:
            client.until("event")
            cluster.server[0].signal(signal.SIGTERM)
            codes = [client.next()["code"] for _ in range(30)]

    assert set(codes) == {"Unavailable"}, codes


def test_creates_that_a_host_is_slow_with_end_well_when_the_server_is_told_to_stop(tmp_path: Path) -> None:
    with go_cluster(tmp_path, server_flags=SLOTS_FOR_ALL) as cluster:
        flags = ("-id", "slow-1s", "-count", "30", "-apart")
        with running(*go_program("client", "-addr", cluster.address, *flags, "create")) as client:
            wait_until(lambda: cluster.host.creating() == 30, "all creates are at the host")
            cluster.server[0].signal(signal.SIGTERM)
            codes = [client.next()["code"] for _ in range(30)]

    assert set(codes) == {"OK"}, codes


def test_a_server_that_is_killed_is_not_seen_with_the_documented_retry_policy(tmp_path: Path) -> None:
    with go_cluster(tmp_path, server_flags=SLOTS_FOR_ALL) as cluster:
        flags = ("-id", "slow-1s", "-count", "30", "-apart", "-once", "-config", json.dumps(retry_policy()))
        with running(*go_program("client", "-addr", cluster.address, *flags, "create")) as client:
            wait_until(lambda: cluster.host.creating() == 30, "all creates are at the host")
            cluster.server[0].kill()
            cluster.restart_server()
            done = [client.next() for _ in range(30)]
        with grpc.insecure_channel(cluster.host.grpc_address) as channel:
            listed = rpc.ListMicroVMsResponse.FromString(channel.unary_unary(LIST)(b"", timeout=ENDS_WITHIN_S))

    assert {line["code"] for line in done} == {"OK"}, done
    assert sorted(line["uid"] for line in done) == sorted(vm.spec.uid for vm in listed.microvm)


def test_the_version_of_a_fleet_is_the_lowest_of_its_hosts(tmp_path: Path) -> None:
    with go_cluster(tmp_path, hosts=3, versions=("0.15.10", "0.15.9", "1.0.0")) as cluster:
        info = run("client", "-addr", cluster.address, "info").last

    assert (info["code"], info["version"]) == ("OK", "0.15.9"), info


@pytest.mark.parametrize("bytes_", [4_000, 20_000, 60_000])
def test_metadata_of_a_create_is_accepted(bytes_: int, cluster: GoCluster) -> None:
    done = run("client", "-addr", cluster.address, "-id", "metadata", "-metadata", str(bytes_), "create")

    assert done.last["code"] == "OK", done.last


def test_the_details_of_a_hosts_status_reach_the_client(cluster: GoCluster) -> None:
    at_the_host = run("client", "-addr", cluster.host.grpc_address, "-id", "detailed", "create")
    through_billet = run("client", "-addr", cluster.address, "-id", "detailed", "create")

    assert at_the_host.last["details"]
    assert through_billet.last == at_the_host.last


@fault(8, "a create is an auction: only the details of a host's refusal pass, no other metadata")
def test_headers_and_trailers_of_a_create_pass_both_ways(cluster: GoCluster) -> None:
    done = run("client", "-addr", cluster.address, "-id", "both-ways", "-metadata", "2000", "create")

    assert (done.last["header"], done.last["trailer"]) == (1000, 1000), done.last


LIMIT = 4_194_304  # bytes that flintlockd takes


@pytest.mark.parametrize(
    ("size", "code"),
    [
        (LIMIT - 1000, "OK"),
        (LIMIT, "InvalidArgument"),  # too large with Billet's token in it
        (LIMIT + 1, "ResourceExhausted"),  # flintlockd's own answer
    ],
)
def test_a_create_that_is_too_large_is_told_so(size: int, code: str, cluster: GoCluster) -> None:
    at_the_host = run("client", "-addr", cluster.host.grpc_address, "-id", "large", "-request", str(size), "create")
    through_billet = run("client", "-addr", cluster.address, "-id", "large", "-request", str(size), "create")

    assert at_the_host.last["code"] == ("OK" if size <= LIMIT else "ResourceExhausted")
    assert through_billet.last["code"] == code, through_billet.last
    if code == "InvalidArgument":
        assert str(LIMIT) in through_billet.last["text"].replace(",", "")
