"""The audit log of real servers: what was changed through any of them, by whom, and what was refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from billet.api import fleet_service as fleet
from billet.wire import flintlock as wire
from billet.wire.auth import basic_header
from billet.wire.headers import REQUEST_ID
from billet.wire.pb import fleet_pb2 as pb
from billet.wire.pb import flintlock_pb2 as rpc
from tests.cluster.clients import Clients, create_request, eventually, leading
from tests.harness import Cluster, plans

TOKEN = "marked-token"
AS_CLIENT = (("authorization", basic_header(TOKEN)),)
FLAGS = ("--audit-log", "audit.log", "--log-format", "json")


@pytest.fixture
async def cluster(tmp_path: Path) -> Any:
    made = Cluster(
        tmp_path, plans(2, tmp_path, memory_mib=8_192), "etcd", 2, http=True, token=TOKEN, server_flags=FLAGS
    )
    await asyncio.to_thread(made.start)
    yield made
    await asyncio.to_thread(made.stop)


def lines(cluster: Cluster, n: int) -> list[dict[str, Any]]:
    """What a server has written by now."""
    return [json.loads(line) for line in (cluster.folder / f"server-{n}" / "audit.log").read_text().splitlines()]


async def written(cluster: Cluster, n: int, count: int) -> list[dict[str, Any]]:
    return await eventually(lambda: found if len(found := lines(cluster, n)) >= count else None)


async def failed(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code().name


async def test_who_changed_what_and_from_where(cluster: Cluster) -> None:
    """All calls go to the server that does not lead: it writes each line, and the leader none.

    Broken on purpose (the leader writes; no trailer from the leader): two lines for each, or no host in them.
    """
    leader = await leading(cluster)
    here = 1 - leader
    clients = Clients(cluster.grpc[here])

    def call(method: str, request: bytes, *metadata: tuple[str, str]) -> Any:
        return clients.call(method, request, metadata=(*AS_CLIENT, *metadata))

    joined = (REQUEST_ID, "once")
    replies = await asyncio.gather(*(call(wire.CREATE, create_request("web"), joined) for _ in range(2)))
    assert replies[0] == replies[1]
    uid = rpc.CreateMicroVMResponse.FromString(replies[0]).microvm.spec.uid
    assert await failed(call(wire.CREATE, create_request("huge", memory_mib=16_384))) == "RESOURCE_EXHAUSTED"
    cordon = pb.ChangeHostRequest(host="h0", verb=pb.CORDON)
    await call(fleet.CHANGE_HOST, cordon.SerializeToString())
    cordon.host = "nowhere"
    assert await failed(call(fleet.CHANGE_HOST, cordon.SerializeToString())) == "INVALID_ARGUMENT"
    await call(wire.LIST, b"")
    await call(wire.DELETE, wire.with_uid(uid))
    assert await failed(clients.call(wire.DELETE, wire.with_uid(uid))) == "UNAUTHENTICATED"
    await clients.close()

    found = await written(cluster, here, 7)
    shown = [[line.get(key) for key in ("what", "name", "host", "code")] for line in found]
    assert shown[2:] == [
        ["create", "huge", None, "RESOURCE_EXHAUSTED"],
        ["cordon", None, "h0", "OK"],
        ["cordon", None, "nowhere", "INVALID_ARGUMENT"],
        ["delete", "web", found[0]["host"], "OK"],
        ["call", None, None, "UNAUTHENTICATED"],
    ]
    web = [{key: line[key] for key in ("what", "namespace", "name", "uid", "host", "auction")} for line in found[:2]]
    assert web[0] == web[1], "each of two creates that joined has its line"
    assert web[0] | {"auction": 0, "host": 0} == {
        "what": "create", "namespace": "ns", "name": "web", "uid": uid, "auction": 0, "host": 0
    }  # fmt: skip
    assert found[5]["auction"] == web[0]["auction"]
    assert found[6]["method"] == wire.DELETE
    assert all(line["from"].startswith("127.0.0.1:") and line["server"] == f"server-{here}" for line in found)
    assert lines(cluster, leader) == []
    path = cluster.folder / f"server-{here}" / "audit.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def asked(url: str, method: str, headers: dict[str, str], body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_the_http_port_has_lines_too_and_no_client_writes_them_itself(cluster: Cluster) -> None:
    """Broken on purpose (INTERNAL without the two headers): the client's own words are in the log."""
    url = f"http://{cluster.http_address}"
    forged = {"x-billet-from": "10.9.9.9:1", "x-billet-identity": "root", "x-billet-token": "a-forged"}
    spec = json.dumps({"id": "web", "namespace": "demo"}).encode()
    assert await asyncio.to_thread(asked, f"{url}/v1alpha1/microvm", "POST", forged, spec) == 401
    assert await asyncio.to_thread(asked, f"{url}/metrics", "GET", forged) == 401
    known = {**forged, "authorization": basic_header(TOKEN)}
    assert await asyncio.to_thread(asked, f"{url}/v1alpha1/microvm", "POST", known, spec) >= 400  # it has no volume
    clients = Clients(cluster.grpc[0])
    unread = [("x-billet-from", "10.9.9.9:1"), ("x-billet-identity", "root"), ("x-billet-token", "a-forged")]
    metadata = (*AS_CLIENT, *unread)
    await clients.call(wire.CREATE, create_request("forged"), metadata=metadata)
    await clients.close()
    found = await written(cluster, 0, 4)
    assert [(line["what"], line["code"] == "OK") for line in found] == [
        ("call", False), ("call", False), ("create", False), ("create", True)
    ]  # fmt: skip
    assert [line["method"] for line in found[:2]] == ["/v1alpha1/microvm", "/metrics"]
    said = json.dumps(found)
    assert "10.9.9.9" not in said
    assert "root" not in said
    assert "a-forged" not in said


async def test_lines_have_the_names_of_credentials_and_what_they_may_not(cluster: Cluster) -> None:
    """Broken on purpose (no look at PERMISSION_DENIED): the viewer's attempt is missing."""
    clients = Clients(cluster.grpc[1])
    for name, role, token in (("root", pb.OPERATOR, "o-token"), ("eve", pb.VIEWER, "v-token")):
        hashed = hashlib.sha256(token.encode()).hexdigest()
        wanted = pb.CreateCredentialRequest(name=name, role=role, token_sha256=hashed)
        await clients.call(fleet.CREATE_CREDENTIAL, wanted.SerializeToString(), metadata=AS_CLIENT)

    def call(token: str, method: str, request: bytes) -> Any:
        return clients.call(method, request, metadata=(("authorization", basic_header(token)),))

    async def known() -> bool:
        try:
            await call("v-token", fleet.HOSTS, b"")
        except grpc.aio.AioRpcError:
            return False  # this server reads the credentials every second
        return True

    await eventually(known)
    assert await failed(call("v-token", fleet.CREDENTIALS, b"")) == "PERMISSION_DENIED"
    assert await failed(call("v-token", wire.CREATE, create_request("web"))) == "PERMISSION_DENIED"
    await call("o-token", fleet.REVOKE_CREDENTIAL, pb.RevokeCredentialRequest(name="eve").SerializeToString())
    await clients.close()
    found = await eventually(lambda: done if (done := lines(cluster, 1))[-1]["what"] == "token-revoke" else None)
    shown = [[line["who"], line["what"], line.get("credential"), line["code"]] for line in found]
    assert shown[:2] == [["shared", "token-create", name, "OK"] for name in ("root", "eve")]
    assert [line for line in shown[2:] if line[3] != "UNAUTHENTICATED"] == [
        ["eve", "call", None, "PERMISSION_DENIED"],
        ["eve", "create", None, "PERMISSION_DENIED"],
        ["root", "token-revoke", "eve", "OK"],
    ]


async def test_the_log_of_the_process_is_json_too(cluster: Cluster) -> None:
    for process in cluster.server:
        events = [json.loads(line)["event"] for line in process.log.read_text().splitlines()]
        assert "server ready" in events
