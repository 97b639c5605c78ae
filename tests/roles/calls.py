"""Every call that a client can make, each as the caller who makes it sees it, and in one word what came of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from grpc_reflection.v1alpha import reflection_pb2

from billet.api import fleet_service as fleet
from billet.api.record_exchange import EXCHANGE
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.auth import basic_header, hash_of
from billet.wire.flintlock import field
from billet.wire.pb import fleet_pb2 as pb
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.pb.servers_pb2 import Copies
from tests.conformance.calls import Client, http, spec

UNKNOWN = "01" + "0" * 24
WORDS = {
    grpc.StatusCode.UNAUTHENTICATED: "unknown", 401: "unknown",
    grpc.StatusCode.PERMISSION_DENIED: "denied", 403: "denied",
    grpc.StatusCode.UNIMPLEMENTED: "nosuch",
}  # fmt: skip
NEEDED = b"billet token create"


class Outcome(NamedTuple):
    """`word`: ok, unknown (who are you?), denied, gone (no such microVM), nosuch (no such method), or a status."""

    word: str
    text: str = ""
    answer: Any = None


@dataclass
class Fleet:
    """A cluster, its callers by name, and a microVM in each of two namespaces."""

    grpc: str
    http: str
    tokens: Mapping[str, str]
    ci: str = ""
    prod: str = ""

    def client(self, caller: str) -> Client:
        return Client(self.grpc, authorization=self.header(caller))

    def header(self, caller: str) -> str:
        token = self.tokens[caller]
        return basic_header(token) if token else ""

    def fresh(self, namespace: str) -> str:
        """The uid of a new microVM."""
        with closed(self.client("shared")) as client:
            return client.create(microvm(namespace)).spec.uid


class closed:
    """Closes a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __enter__(self) -> Client:
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


_names = itertools.count()


def microvm(namespace: str) -> types.MicroVMSpec:
    return spec(f"role-{next(_names)}", namespace)


def over_grpc(method: str, request: Callable[[Fleet], bytes]) -> Callable[[Fleet, str], Outcome]:
    """A unary call."""

    def call(cluster: Fleet, caller: str) -> Outcome:
        with closed(cluster.client(caller)) as client:
            try:
                return Outcome("ok", answer=client.call(method, request(cluster)))
            except grpc.RpcError as error:
                return failed(error)

    return call


def streamed(method: str, *requests: Callable[[Fleet], bytes]) -> Callable[[Fleet, str], Outcome]:
    """A call with several messages."""

    def call(cluster: Fleet, caller: str) -> Outcome:
        with closed(cluster.client(caller)) as client:
            sent = iter([request(cluster) for request in requests])
            try:
                replies = client.channel.stream_stream(method)(sent, timeout=60, metadata=client.metadata)
                return Outcome("ok", answer=list(replies))
            except grpc.RpcError as error:
                return failed(error)

    return call


def failed(error: Any) -> Outcome:
    text = error.details()
    if "not found" in text:
        return Outcome("gone", text)
    return Outcome(WORDS.get(error.code(), error.code().name), text)


def over_http(verb: str, path: Callable[[Fleet], str], body: Callable[[], object] = lambda: None) -> Any:
    """A request to the gateway, /healthz or /metrics."""

    def call(cluster: Fleet, caller: str) -> Outcome:
        headers = {"Authorization": cluster.header(caller)} if cluster.tokens[caller] else {}
        status, answer = http(cluster.http, verb, path(cluster), body(), **headers)
        if status == 200:
            return Outcome("ok", answer=answer)
        return Outcome("gone" if b"not found" in answer else WORDS.get(status, str(status)), answer.decode())

    return call


def json_spec(namespace: str) -> dict[str, object]:
    return {
        "id": f"role-{next(_names)}",
        "namespace": namespace,
        "kernel": {"image": "registry.example/kernel:5.10", "filename": "vmlinux"},
        "rootVolume": {"id": "root", "source": {"containerSource": "registry.example/os:22.04"}},
        "interfaces": [{"deviceId": "eth1", "type": "TAP"}],
    }


def create(namespace: str) -> Callable[[Fleet], bytes]:
    return lambda _: rpc.CreateMicroVMRequest(microvm=microvm(namespace)).SerializeToString()


def credential(cluster: Fleet) -> bytes:
    name = f"made-{next(_names)}"
    return pb.CreateCredentialRequest(name=name, role=pb.VIEWER, token_sha256=hash_of(name)).SerializeToString()


def to_revoke(cluster: Fleet) -> bytes:
    with closed(cluster.client("shared")) as client:
        made = pb.CreateCredentialReply.FromString(client.call(fleet.CREATE_CREDENTIAL, credential(cluster)))
    return pb.RevokeCredentialRequest(name=made.credential.name).SerializeToString()


def capacity(namespace: str) -> bytes:
    return pb.CapacityRequest(microvm=types.MicroVMSpec(namespace=namespace)).SerializeToString()


def started(*uids: str) -> bytes:
    """An exec's first message. Of several uids the last one counts, as protobuf has it."""
    return field(1, b"".join(field(1, uid.encode()) for uid in uids) + field(2, b"cat"))


def reflection(cluster: Fleet, caller: str) -> Outcome:
    ask = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    return streamed("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", lambda _: ask)(cluster, caller)


CI, PROD = "ci-1", "prod"
EXIT = b"\x18\x01"
CALLS: dict[str, Callable[[Fleet, str], Outcome]] = {
    "create ci": over_grpc(wire.CREATE, create(CI)),
    "create prod": over_grpc(wire.CREATE, create(PROD)),
    "create default": over_grpc(wire.CREATE, create("")),
    "get ci": over_grpc(wire.GET, lambda f: wire.with_uid(f.ci)),
    "get prod": over_grpc(wire.GET, lambda f: wire.with_uid(f.prod)),
    "get unknown": over_grpc(wire.GET, lambda _: wire.with_uid(UNKNOWN)),
    "list": over_grpc(wire.LIST, lambda _: b""),
    "list ci": over_grpc(wire.LIST, lambda _: wire.list_request(CI)),
    "list prod": over_grpc(wire.LIST, lambda _: wire.list_request(PROD)),
    "stream ci": streamed(wire.LIST_STREAM, lambda _: wire.list_request(CI)),
    "stream prod": streamed(wire.LIST_STREAM, lambda _: wire.list_request(PROD)),
    "delete ci": over_grpc(wire.DELETE, lambda f: wire.with_uid(f.fresh(CI))),
    "delete prod": over_grpc(wire.DELETE, lambda f: wire.with_uid(f.fresh(PROD))),
    "delete unknown": over_grpc(wire.DELETE, lambda _: wire.with_uid(UNKNOWN)),
    "server info": over_grpc(newer.SERVER_INFO, lambda _: b""),
    "exec ci": streamed(newer.EXEC, lambda f: started(f.ci), lambda _: EXIT),
    "exec prod": streamed(newer.EXEC, lambda f: started(f.prod), lambda _: EXIT),
    "exec prod after ci": streamed(newer.EXEC, lambda f: started(f.ci, f.prod), lambda _: EXIT),
    "exec unknown": streamed(newer.EXEC, lambda _: started(UNKNOWN), lambda _: EXIT),
    "ssh ci": streamed(newer.SSH, lambda f: field(1, f.ci.encode())),
    "ssh prod": streamed(newer.SSH, lambda f: field(1, f.prod.encode())),
    "ssh prod after ci": streamed(newer.SSH, lambda f: field(1, f.ci.encode()) + field(1, f.prod.encode())),
    "new method": streamed(f"/{wire.SERVICE}/Reboot", lambda f: wire.with_uid(f.ci)),
    "hosts": over_grpc(fleet.HOSTS, lambda _: b""),
    "status": over_grpc(fleet.STATUS, lambda _: b""),
    "accuracy": over_grpc(fleet.ACCURACY, lambda _: b""),
    "capacity": over_grpc(fleet.CAPACITY, lambda _: capacity("")),
    "capacity ci": over_grpc(fleet.CAPACITY, lambda _: capacity(CI)),
    "capacity prod": over_grpc(fleet.CAPACITY, lambda _: capacity(PROD)),
    "placements": over_grpc(fleet.PLACEMENTS, lambda _: b""),
    "placements ci": over_grpc(fleet.PLACEMENTS, lambda _: pb.PlacementsRequest(namespace=CI).SerializeToString()),
    "placements prod": over_grpc(
        fleet.PLACEMENTS, lambda _: pb.PlacementsRequest(namespace=PROD).SerializeToString()
    ),
    "explain": over_grpc(fleet.EXPLAIN, lambda f: pb.ExplainRequest(key=f.prod).SerializeToString()),
    "records": over_grpc(fleet.RECORDS, lambda _: b""),
    "events": over_grpc(fleet.EVENTS, lambda _: b""),
    "exchange": streamed(EXCHANGE, lambda _: Copies(wait_s=1).SerializeToString()),
    "cordon": over_grpc(
        fleet.CHANGE_HOST, lambda _: pb.ChangeHostRequest(host="h1", verb=pb.CORDON).SerializeToString()
    ),
    "credentials": over_grpc(fleet.CREDENTIALS, lambda _: b""),
    "create credential": over_grpc(fleet.CREATE_CREDENTIAL, credential),
    "revoke credential": over_grpc(fleet.REVOKE_CREDENTIAL, to_revoke),
    "health": over_grpc("/grpc.health.v1.Health/Check", lambda _: b""),
    "reflection": reflection,
    "HTTP create ci": over_http("POST", lambda _: "/v1alpha1/microvm", lambda: json_spec(CI)),
    "HTTP create prod": over_http("POST", lambda _: "/v1alpha1/microvm", lambda: json_spec(PROD)),
    "HTTP list": over_http("GET", lambda _: "/v1alpha1/microvm/"),
    "HTTP list ci": over_http("GET", lambda _: f"/v1alpha1/microvm/{CI}"),
    "HTTP list prod": over_http("GET", lambda _: f"/v1alpha1/microvm/{PROD}"),
    "HTTP stream ci": over_http("POST", lambda _: wire.LIST_STREAM, lambda: {"namespace": CI}),
    "HTTP stream prod": over_http("POST", lambda _: wire.LIST_STREAM, lambda: {"namespace": PROD}),
    "HTTP delete ci": over_http("DELETE", lambda f: f"/v1alpha1/microvm/{f.fresh(CI)}"),
    "HTTP delete prod": over_http("DELETE", lambda f: f"/v1alpha1/microvm/{f.fresh(PROD)}"),
    "HTTP delete unknown": over_http("DELETE", lambda _: f"/v1alpha1/microvm/{UNKNOWN}"),
    "HTTP events": over_http("GET", lambda _: "/api/v1/events?follow=false"),
    "HTTP capacity": over_http("GET", lambda _: "/api/v1/capacity?vcpu=2"),
    "HTTP capacity prod": over_http("GET", lambda _: f"/api/v1/capacity?vcpu=2&namespace={PROD}"),
    "HTTP metrics": over_http("GET", lambda _: "/metrics"),
    "HTTP version": over_http("GET", lambda _: "/version"),
    "HTTP healthz": over_http("GET", lambda _: "/healthz"),
    "HTTP readyz": over_http("GET", lambda _: "/readyz"),
}


def namespaces_in(call: str, answer: Any) -> Iterator[str]:
    """The namespaces of all microVMs, placements or auctions in the answer of a call that lists some."""
    match call:
        case "list":
            yield from (vm.spec.namespace for vm in rpc.ListMicroVMsResponse.FromString(answer).microvm)
        case "HTTP list":
            yield from (vm["spec"]["namespace"] for vm in json.loads(answer)["microvm"])
        case "placements":
            yield from (view.namespace for view in pb.PlacementsReply.FromString(answer).placements)
        case "explain":
            yield from (
                json.loads(one)["auction"]["namespace"] for one in pb.ExplainReply.FromString(answer).record_json
            )
        case "events":
            found = [json.loads(one) for one in pb.EventsReply.FromString(answer).event_json]
            yield from (one["namespace"] for one in found if "microvm" in one)
        case "HTTP events":
            found = [json.loads(line[6:]) for line in answer.decode().splitlines() if line.startswith("data: ")]
            yield from (one["namespace"] for one in found if "microvm" in one)
        case "records":
            yield from (json.loads(one)["auction"]["namespace"] for one in pb.RecordsReply.FromString(answer).record)
