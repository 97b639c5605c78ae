"""`python -m tests.conformance` as a user runs it, against endpoints that it knows only by their addresses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from billet.demo.processes import free_port
from billet.fake.process import FakeProcess
from billet.fake.settings import FakeConfig
from billet.wire.tls import TlsSettings
from tests.conformance.calls import Client, eventually, spec
from tests.conformance.pki import Pki
from tests.harness import Cluster, HostPlan

ROOT = Path(__file__).parent.parent
TOKEN = "s3cret"


def conformance(*arguments: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", *arguments],
        cwd=ROOT, env=os.environ | {"CONFORMANCE_TOKEN": TOKEN}, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def checks(output: str, address: str) -> tuple[int, int]:
    """How many checks held, and how many were skipped. Fails unless the others are none."""
    found = re.search(f"conformance of {address}: (\\d+) checks held, 0 failed, 0 errors, (\\d+) skipped", output)
    assert found, output
    return int(found[1]), int(found[2])


def fake_config(**changes: object) -> FakeConfig:
    settings = {"grpc_endpoint": f"127.0.0.1:{free_port()}", "boot_mean_s": 0.05, "pull_mean_s": 0.0, "sigma": 0.0}
    return FakeConfig(**settings | changes)


def bystander(client: Client) -> str:
    """A microVM of somebody else on the target, in a namespace that the checks also use."""
    return client.create(spec("twin")).spec.uid


def alone(client: Client, uid: str) -> None:
    """Nothing is on the target but this microVM."""
    eventually(lambda: [vm.spec.uid for vm in client.list()] == [uid])


@pytest.mark.slow
def test_a_flintlockd_with_token_and_mutual_tls(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    tls = TlsSettings(cert=pki.server_cert, key=pki.server_key, client_validate=True, client_ca=pki.ca)
    host = FakeProcess(fake_config(tls=tls, basic_auth_token=TOKEN)).start()
    try:
        client = Client(host.grpc_address, token=TOKEN, credentials=pki.credentials(client=True))
        uid = bystander(client)
        code, output = conformance(
            host.grpc_address, "--ca", pki.ca, "--cert", pki.client_cert, "--key", pki.client_key
        )
        assert code == 0, output
        assert checks(output, host.grpc_address) >= (54, 30)
        alone(client, uid)
        assert host.stats()["creates_accepted"] > 25
    finally:
        host.stop()


@pytest.mark.slow
def test_a_cluster_with_token_and_http(tmp_path: Path) -> None:
    plans = [HostPlan(f"host-{n}", fake_config(tls=TlsSettings(insecure=True))) for n in range(2)]
    cluster = Cluster(tmp_path, plans, http=True, token=TOKEN).start()
    try:
        client = Client(cluster.grpc[0], token=TOKEN)
        uid = bystander(client)
        code, output = conformance(cluster.grpc[0], "--http", cluster.http_address)
        assert code == 0, output
        assert checks(output, cluster.grpc[0]) >= (56, 30)
        alone(client, uid)
    finally:
        cluster.stop()


def test_without_a_target_it_prints_usage() -> None:
    code, output = conformance()
    assert code == 0
    assert "HOST:PORT" in output
    assert "--kernel-image" in output


def test_a_target_that_does_not_answer() -> None:
    code, output = conformance(f"127.0.0.1:{free_port()}")
    assert code == 4
    assert "does not answer: UNAVAILABLE" in output
