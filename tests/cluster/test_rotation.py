"""Certificates and secrets are replaced under real servers and agents."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from pathlib import Path

import pytest

from billet.wire.auth import basic_header
from billet.wire.tls import client_context
from tests.cluster.clients import eventually
from tests.cluster.rotation import run
from tests.cluster.secured import SecuredCluster
from tests.zygote import ZYGOTE


@pytest.mark.long
async def test_every_secret_of_every_leg_is_replaced_under_load(tmp_path: Path) -> None:
    """Every CA, certificate, token and password, with an overlap of the CAs and of the secrets; no call fails.

    Broken on purpose (Watch.look takes nothing; or LinkServer.renew_tls, Channels._renew does nothing; or
    Secret.accepts knows the first line only): a process does not say that its files are in force, a create fails, or
    an agent that is started again does not get in.
    """
    tally = await run(tmp_path, at_once=16, step_s=1.0, hosts=2)
    assert not tally.errors
    assert tally.most_in_flight == 16
    assert tally.uids


async def test_sighup_ends_nothing_and_expiry_is_shown(tmp_path: Path) -> None:
    """The certificates are valid for a day. Broken on purpose (no handler): the server and the agent end."""
    cluster = SecuredCluster(tmp_path, servers=1, hosts=1)
    try:
        await cluster.start()
        for process in (*cluster.servers, *cluster.agents):
            process.signal(signal.SIGHUP)
        ours = [process.log for process in (*cluster.servers, *cluster.agents)]
        await eventually(lambda: all("reloading" in log.read_text() for log in ours))
        assert all(process.running() for process in (*cluster.servers, *cluster.agents))
        assert all("certificate expires" in log.read_text() for log in ours)

        api = cluster.legs["api"]
        (grpc, http, _), tls = cluster.ports[0], api.client()
        where = ("--server", f"127.0.0.1:{grpc}", "--tls-ca", tls.ca, "--tls-cert", tls.cert, "--tls-key", tls.key)
        said = await asyncio.to_thread(ZYGOTE.run, "hosts", *where, "--token-file", str(api.secret))
        assert "server server-0: " in said.stdout
        assert "h0: the agent's certificate expires in less than a day" in said.stdout
        said = await asyncio.to_thread(ZYGOTE.run, "hosts", *where, "--token-file", str(api.secret), "-o", "json")
        assert json.loads(said.stdout)[0]["certificate_ends_s"] > 0

        files = [
            line.split('"')[1] for line in await asyncio.to_thread(metrics, cluster, http) if "not_after" in line
        ]
        assert {api.ca, str(api.files.server_cert)} <= set(files)
    finally:
        cluster.stop()


def metrics(cluster: SecuredCluster, port: int) -> list[str]:
    headers = {"Authorization": basic_header("api-old")}
    request = urllib.request.Request(f"https://127.0.0.1:{port}/metrics", headers=headers)
    with urllib.request.urlopen(request, context=client_context(*cluster.legs["api"].client())) as reply:
        return [line for line in reply.read().decode().splitlines() if not line.startswith("#")]
