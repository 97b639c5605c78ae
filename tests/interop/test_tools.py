"""Tools that people use with Flintlock, against Billet and the flintlockd behind it: grpcurl, ghz, grpc-js."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billet.wire.auth import basic_header
from billet.wire.tls import TlsSettings
from tests.conformance.pki import Pki
from tests.interop.clusters import GoCluster, go_cluster
from tests.interop.programs import command, tool, wait_until
from tests.interop.toolchain import NO_NODE, NODE, PROTO, node

SERVICE = "microvm.services.api.v1alpha1.MicroVM"
EXEC = "microvmexec.services.api.v1alpha1.MicroVMExec"
TOKEN = "s3cret"
SPEC = {
    "id": "tool", "namespace": "tools", "vcpu": 1, "memory_in_mb": 1024,
    "kernel": {"image": "r.example/kernel:1", "filename": "vmlinux"},
    "root_volume": {"id": "root", "source": {"container_source": "r.example/root:1"}},
    "interfaces": [{"device_id": "eth1", "type": "TAP"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoCluster]:
    with go_cluster(tmp_path_factory.mktemp("tools")) as running:
        yield running


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def grpcurl(address: str, *arguments: str) -> str:
    """What grpcurl prints, on both outputs."""
    done = tool("grpcurl", "-plaintext", *arguments[:-1], address, *arguments[-1].split())
    return done.stdout + done.stderr


# grpcurl


@pytest.mark.parametrize("flags", [(), ("-emit-defaults",)], ids=["set fields", "all fields"])
def test_grpcurl_prints_the_same_as_for_the_host(flags: tuple[str, ...], cluster: GoCluster) -> None:
    host = cluster.host.grpc_address
    uid = cluster.create("grpcurl", at=host)  # one that Billet makes has Billet's token in its metadata there
    get = (*flags, "-d", json.dumps({"uid": uid}), f"{SERVICE}/GetMicroVM")
    at_the_host = wait_until(lambda: _if_booted(grpcurl(host, *get)), "it has booted")

    assert "memoryInMb" in at_the_host
    assert wait_until(lambda: _if_booted(grpcurl(cluster.address, *get)), "Billet knows it") == at_the_host


@pytest.mark.parametrize(
    "symbol",
    [
        SERVICE,
        f"{SERVICE}.CreateMicroVM",
        "flintlock.types.MicroVMSpec",
        "flintlock.types.MicroVMSpec.vcpu",
    ],
)
def test_grpcurl_describes_the_same_as_for_the_host(symbol: str, cluster: GoCluster) -> None:
    at_the_host = grpcurl(cluster.host.grpc_address, f"describe {symbol}")

    assert "is a" in at_the_host
    assert grpcurl(cluster.address, f"describe {symbol}") == at_the_host


def test_grpcurl_lists_the_services_that_the_hosts_have(cluster: GoCluster) -> None:
    at_the_host = set(grpcurl(cluster.host.grpc_address, "list").split())

    assert at_the_host <= set(grpcurl(cluster.address, "list").split())


def test_grpcurl_runs_a_command_in_a_microvm_by_reflection(cluster: GoCluster) -> None:
    start = json.dumps({"start": {"uid": cluster.create("exec"), "cmd": "count", "hasStdin": True}})
    run_it = ("-d", start + json.dumps({"stdin": "AAAA"}), f"{EXEC}/ExecCommand")

    assert '"exitCode": 0' in grpcurl(cluster.address, *run_it)


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
def test_grpcurl_over_tls_with_a_token(mutual: bool, tmp_path: Path, pki: Pki) -> None:
    tls = TlsSettings(
        cert=pki.server_cert, key=pki.server_key, client_validate=mutual, client_ca=pki.ca if mutual else ""
    )
    trust = ["-cacert", pki.ca, *(("-cert", pki.client_cert, "-key", pki.client_key) if mutual else ())]
    with go_cluster(tmp_path, tls=tls, token=TOKEN) as cluster:
        right, wrong = (
            tool("grpcurl", *trust, "-H", f"authorization: {basic_header(token)}", cluster.address, "list")
            for token in (TOKEN, "wrong")
        )
        without = tool("grpcurl", "-cacert", pki.ca, cluster.address, "list")

    assert SERVICE in right.stdout, right.stderr
    assert "Unauthenticated" in wrong.stderr, wrong.stderr
    assert without.returncode != 0


# ghz


def test_ghz_makes_creates_by_reflection(cluster: GoCluster) -> None:
    request = json.dumps({"microvm": SPEC})
    done = tool("ghz", "--insecure", "--call", f"{SERVICE}.CreateMicroVM", "--total", "40", "--concurrency", "8",
                "--data", request, "--format", "json", cluster.address)  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["statusCodeDistribution"] == {"OK": 40}


# grpc-js


def js(address: str, action: str, **more: Any) -> dict[str, Any]:
    """What the grpc-js client says of an action."""
    given = json.dumps({"addr": address, "action": action, "protos": str(PROTO), **more})
    done = command("node", str(NODE / "client.js"), given)
    assert done.stdout, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def secured(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GoCluster, Pki]]:
    """A cluster with TLS and a token, and its certificates."""
    tls = TlsSettings(cert=pki.server_cert, key=pki.server_key)
    with go_cluster(tmp_path_factory.mktemp("secured"), tls=tls, token=TOKEN) as running:
        yield running, pki


needs_node = pytest.mark.skipif(not node(), reason=NO_NODE)


@needs_node
def test_grpc_js_over_tls_with_a_token(secured: tuple[GoCluster, Pki]) -> None:
    cluster, pki = secured
    wait_until(
        lambda: js(cluster.address, "create", ca=pki.ca, token=TOKEN)["code"] == 0, "the host is in the cluster"
    )

    said = js(cluster.address, "life", ca=pki.ca, token=TOKEN)

    assert said == {"code": 0, "same": True, "received": 1_000_000}


@needs_node
def test_grpc_js_with_a_wrong_token_is_unauthenticated(secured: tuple[GoCluster, Pki]) -> None:
    cluster, pki = secured

    assert js(cluster.address, "create", ca=pki.ca, token="wrong")["code"] == 16


@needs_node
@pytest.mark.parametrize(("every_s", "held_s"), [(1, 8), (5, 28)])
def test_keepalive_pings_of_grpc_js_do_not_end_a_held_create(every_s: int, held_s: int, cluster: GoCluster) -> None:
    said = js(cluster.address, "create", id=f"slow-{held_s}s", keepaliveMs=every_s * 1000)

    assert said["code"] == 0, said


def _if_booted(said: str) -> str:
    return said if "CREATED" in said else ""
