"""Checks 26 to 31 and 37: authentication, TLS, reflection, HTTP, proxies, sizes, newer methods."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from billet.api import fleet_service as fleet
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.flintlock import field
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.tls import TlsSettings

from .calls import GONE, PENDING, Client, Gateway, base64, http, own, refused, scope, spec
from .external import ExternalTarget
from .pki import Pki
from .targets import Service, Target, serving

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
NO_TOKEN = (
    "could not extract token from request header: "
    "rpc error: code = Unauthenticated desc = Request unauthenticated with basic"
)
WRONG_TOKEN = "invalid auth token: failed basic authentication. Check the token supplied"


def reflect(client: Client, version: str = "v1alpha", symbol: str = "") -> reflection_pb2.ServerReflectionResponse:
    """Ask reflection for the file of a symbol, or for the list of services."""
    question = {"file_containing_symbol": symbol} if symbol else {"list_services": ""}
    ask = client.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
    request = reflection_pb2.ServerReflectionRequest(**question).SerializeToString()
    replies = ask(iter([request]), timeout=60, metadata=client.metadata)
    return reflection_pb2.ServerReflectionResponse.FromString(next(replies))


def test_check_26_basic_authentication(guarded: Service) -> None:
    token = guarded.token
    for client, text in [
        (guarded.client(token=""), NO_TOKEN),
        (guarded.client(token="", authorization=f"Bearer {token}"), NO_TOKEN),
        (guarded.client(token="wrong"), WRONG_TOKEN),
        (guarded.client(token="", authorization=f"Basic {token}"), WRONG_TOKEN),
    ]:
        assert refused(client.list) == (UNAUTHENTICATED, text)
        assert refused(client.create, spec()) == (UNAUTHENTICATED, text)
        assert refused(client.stream, "ns") == (UNAUTHENTICATED, text)
        assert refused(reflect, client) == (UNAUTHENTICATED, text)
        client.close()
    nowhere = own("nowhere")
    allowed = guarded.client()
    assert allowed.list(nowhere) == []
    assert reflect(allowed).list_services_response.service
    lower = guarded.client(token="", authorization="bAsIc " + base64(token))
    assert lower.list(nowhere) == []


def test_health_is_asked_without_a_token(cluster: Target, start: Callable[..., Service]) -> None:
    """flintlockd has no health service; load balancers have no token."""
    address = start(token="s3cret").address
    assert serving(address)
    assert refused(Client(address).list).code == UNAUTHENTICATED


def handshake(address: str, protocol: str = "h2", **versions: ssl.TLSVersion) -> str | None:
    """The TLS version that the server agrees to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    for name, version in versions.items():
        setattr(context, name, version)
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain, context.wrap_socket(plain) as secured:
        if protocol == "h2":  # gRPC cannot do without it
            assert secured.selected_alpn_protocol() == "h2"
        return secured.version()


def test_check_27_only_tls_1_3(secured: Service) -> None:
    address = secured.address
    assert handshake(address, minimum_version=ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(OSError, match=r".*"):
        handshake(address, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert secured.client().create(spec()).status.state == PENDING
    assert refused(secured.client(credentials=None).list).code == grpc.StatusCode.UNAVAILABLE


def test_check_27_only_tls_1_3_on_http_too(cluster: Target, start: Callable[..., Service], pki: Pki) -> None:
    """flintlockd's own gateway works without TLS only."""
    address = start(tls=TlsSettings(cert=pki.server_cert, key=pki.server_key), http=True).http_address
    assert handshake(address, "http/1.1") == "TLSv1.3"
    with pytest.raises(OSError, match=r".*"):
        handshake(address, "http/1.1", maximum_version=ssl.TLSVersion.TLSv1_2)


def test_check_27_mutual_tls(mutual: Service, target: Target, pki: Pki) -> None:
    assert mutual.client().list(own("nowhere")) == []
    anonymous = target.credentials() if isinstance(target, ExternalTarget) else pki.credentials()
    without = mutual.client(credentials=anonymous)
    assert refused(without.list).code == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_check_28_reflection(client: Client, version: str) -> None:
    services = {service.name for service in reflect(client, version).list_services_response.service}
    assert wire.SERVICE in services
    for symbol in (wire.SERVICE, "flintlock.types.MicroVM", "flintlock.types.MicroVMSpec"):
        assert reflect(client, version, symbol).file_descriptor_response.file_descriptor_proto


def json_spec(name: str, namespace: str) -> dict[str, object]:
    return {
        "id": name and own(name),
        "namespace": own(namespace),
        "kernel": {"image": scope.kernel_image, "filename": scope.kernel_filename},
        "rootVolume": {"id": "root", "source": {"containerSource": scope.root_image}},
        "interfaces": [{"deviceId": "eth1", "type": "TAP"}],
        "unknownField": {"is": "dropped"},
    }


def test_check_28_reflection_lists_billets_own_service(cluster: Target, client: Client) -> None:
    services = {service.name for service in reflect(client).list_services_response.service}
    assert {wire.SERVICE, fleet.SERVICE, "grpc.health.v1.Health"} < services
    assert reflect(client, symbol=fleet.SERVICE).file_descriptor_response.file_descriptor_proto


def test_check_29_http_create_list_delete(gateway: Gateway) -> None:
    status, body = gateway("POST", "/v1alpha1/microvm", json_spec("web", "http"))
    vm = json.loads(body)["microvm"]
    assert status == 200
    assert (vm["version"], vm["status"]["state"], vm["spec"]["memoryInMb"]) == (1, "PENDING", 1024)
    # Unpopulated fields are written; a message that is not set is null; an unset `optional` field is left out.
    assert vm["spec"]["labels"] == {}
    assert vm["spec"]["createdAt"] is None
    assert vm["status"]["kernelMount"] is None
    assert "initrd" not in vm["spec"]
    uid = vm["spec"]["uid"]
    for query, expected in (("", [uid]), (f"?name={own('web')}", [uid]), ("?name=none", [])):
        status, body = gateway("GET", f"/v1alpha1/microvm/{own('http')}{query}")
        assert status == 200
        assert [vm["spec"]["uid"] for vm in json.loads(body)["microvm"]] == expected
    assert gateway("GET", f"/v1alpha1/microvm/{uid}") == (
        200,
        b'{"microvm":[]}',
    )  # List, never Get
    assert gateway("DELETE", f"/v1alpha1/microvm/{uid}") == (200, b"{}")


def test_check_29_http_errors(gateway: Gateway) -> None:
    nameless = {"code": 2, "message": "converting request: creating vmid from spec: name is required", "details": []}
    status, body = gateway("POST", "/v1alpha1/microvm", json_spec("", "http"))
    assert (status, json.loads(body)) == (500, nameless)
    for empty in ({}, b""):
        status, body = gateway("POST", "/v1alpha1/microvm", empty)
        assert (status, json.loads(body)) == (500, nameless)
    status, body = gateway("POST", "/v1alpha1/microvm", b"null")
    assert (status, json.loads(body)["code"]) == (400, 3)
    status, body = gateway("POST", "/v1alpha1/microvm", b"{nonsense")
    assert (status, json.loads(body)["code"]) == (400, 3)
    status, body = gateway("DELETE", "/v1alpha1/microvm/unknown")
    assert (status, json.loads(body)["code"]) == (500, 2)
    status, body = gateway("GET", "/v1alpha1/nothing")
    assert (status, json.loads(body)) == (404, {"code": 5, "message": "Not Found", "details": []})


def test_check_29_http_paths_that_end_with_a_slash(gateway: Gateway) -> None:
    """The slash is followed by an empty namespace or uid, not a spelling of the path without it."""
    assert gateway("POST", "/v1alpha1/microvm", json_spec("slash", "http-slash"))[0] == 200
    status, body = gateway("GET", "/v1alpha1/microvm/")
    assert status == 200
    assert own("slash") in {vm["spec"]["id"] for vm in json.loads(body)["microvm"]}
    for method, path, expected in (
        ("DELETE", "/v1alpha1/microvm/", (400, 3, wire.INVALID)),
        ("POST", "/v1alpha1/microvm/", (501, 12, "Method Not Allowed")),
        ("GET", "/v1alpha1/microvm", (501, 12, "Method Not Allowed")),
        ("GET", f"/v1alpha1/microvm/{own('http-slash')}/", (404, 5, "Not Found")),
        ("POST", f"{wire.LIST_STREAM}/", (404, 5, "Not Found")),
    ):
        status, body = gateway(method, path)
        answer = json.loads(body)
        assert (status, answer["code"], answer["message"]) == expected, (method, path)


def test_check_29_http_stream(gateway: Gateway) -> None:
    for name in ("s1", "s2"):
        assert gateway("POST", "/v1alpha1/microvm", json_spec(name, "http-stream"))[0] == 200
    status, body = gateway("POST", wire.LIST_STREAM, {"namespace": own("http-stream")})
    names = [json.loads(line)["result"]["microvm"]["spec"]["id"] for line in body.splitlines()]
    assert (status, sorted(names)) == (200, [own("s1"), own("s2")])
    assert gateway("POST", wire.LIST_STREAM, {})[0] == 400


def test_check_29_http_authentication(start: Callable[..., Service]) -> None:
    address = start(token="s3cret", http=True).http_address
    status, body = http(address, "GET", "/v1alpha1/microvm/ns")
    assert (status, json.loads(body)) == (401, {"code": 16, "message": NO_TOKEN, "details": []})
    assert http(address, "GET", "/v1alpha1/microvm/ns", Authorization="Basic " + base64("s3cret"))[0] == 200


@pytest.fixture
def connect_proxy() -> Iterator[tuple[str, list[str]]]:
    """An HTTP CONNECT proxy: its address, and the first line of each request that it got."""
    seen: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pipe(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += inner.recv(1)
            seen.append(head.split(b"\r\n")[0].decode())
            host, _, port = seen[-1].split()[1].rpartition(":")
            outer = socket.create_connection((host, int(port)))
            inner.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for pair in ((inner, outer), (outer, inner)):
                threading.Thread(target=pipe, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}", seen
    listener.close()


def test_check_30_through_a_connect_proxy(service: Service, connect_proxy: tuple[str, list[str]]) -> None:
    address, seen = connect_proxy
    client = service.client(options=[("grpc.http_proxy", f"http://{address}")])
    assert client.create(spec()).version == 1
    assert [line.split()[0] for line in seen] == ["CONNECT"]
    client.close()


def test_check_30_tls_through_a_connect_proxy(secured: Service, connect_proxy: tuple[str, list[str]]) -> None:
    proxy, seen = connect_proxy
    client = secured.client(options=[("grpc.http_proxy", f"http://{proxy}")])
    assert client.create(spec()).version == 1
    assert [line.split()[:2] for line in seen] == [["CONNECT", secured.address]]
    client.close()


def test_check_31_a_long_list(target: Target, start: Callable[..., Service]) -> None:
    """A unary List beyond 4 MiB fails in the client, as with flintlockd. The stream has no limit."""
    service = start(hosts=2 if target.is_cluster else 1)  # on two hosts neither's own list is that long
    client = Client(service.address)
    user_data = base64("x" * 120_000)
    uids = {client.create(spec(metadata={"user-data": user_data})).spec.uid for _ in range(30)}
    assert refused(client.list, "ns").code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert {vm.spec.uid for vm in client.stream("ns")} == uids
    roomy = Client(service.address, options=[("grpc.max_receive_message_length", -1)])
    assert {vm.spec.uid for vm in roomy.list("ns")} == uids


def create_of(size: int, namespace: str) -> bytes:
    """A CreateMicroVMRequest of exactly so many bytes."""
    request = b""
    filler = size
    while len(request) != size:
        filler += size - len(request) if request else -1_000
        vm = spec(namespace=namespace, metadata={"user-data": "x" * filler})
        request = rpc.CreateMicroVMRequest(microvm=vm).SerializeToString()
    return request


def test_check_38_the_largest_create(target: Target, start: Callable[..., Service]) -> None:
    """Broken on purpose (no check): a host refuses it with RESOURCE_EXHAUSTED, which a cluster says of no room."""
    service = start()
    client = service.client(options=[("grpc.max_receive_message_length", -1)])  # the reply is longer
    namespace = own("largest")
    added = len(wire.with_token(b"", "01KJ5Z7Q8R9S0T1V2W3X4Y5Z6A"))
    client.call(wire.CREATE, create_of(wire.REQUEST_MAX_BYTES - added, namespace))
    assert refused(client.call, wire.CREATE, create_of(wire.REQUEST_MAX_BYTES + 1, namespace)).code == EXHAUSTED
    largest = create_of(wire.REQUEST_MAX_BYTES, namespace)
    if not target.is_cluster:
        assert rpc.CreateMicroVMResponse.FromString(client.call(wire.CREATE, largest)).microvm.version == 1
        return
    before = [host.stats()["creates_accepted"] for host in service.hosts]
    code, text = refused(client.call, wire.CREATE, largest)
    assert (code, "receives at most 4,194,304" in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert [host.stats()["creates_accepted"] for host in service.hosts] == before


def test_check_38_the_largest_create_over_http(cluster: Target, start: Callable[..., Service]) -> None:
    """flintlockd's gateway answers 429 (RESOURCE_EXHAUSTED), which here would mean that there is no room."""
    address = start(http=True).http_address
    large = json_spec("large", "http") | {"metadata": {"user-data": "x" * wire.REQUEST_MAX_BYTES}}
    status, body = http(address, "POST", "/v1alpha1/microvm", large)
    assert (status, json.loads(body)["code"]) == (413, 8)


def test_check_37_server_info(client: Client, inside: Service, start: Callable[..., Service]) -> None:
    """Flintlock 0.11 has no ServerInfo; 0.15 has. `inside`: the version of a target of others is not known."""
    code, text = refused(client.call, newer.SERVER_INFO, b"")
    assert code == grpc.StatusCode.UNIMPLEMENTED
    assert GONE not in text.lower()
    recent = Client(start(versions=("0.15.2",)).address)
    assert recent.call(newer.SERVER_INFO, b"").startswith(b"\x0a\x08\x0a\x060.15.2")


def test_methods_and_services_that_do_not_exist(client: Client) -> None:
    for method in (f"/{wire.SERVICE}/Reboot", "/grpc.health.v2.Nonsense/Check"):
        code, text = refused(client.call, method, b"")
        assert code == grpc.StatusCode.UNIMPLEMENTED
        assert GONE not in text.lower()


def test_exec_and_ssh_streams(start: Callable[..., Service]) -> None:
    client = Client(start(versions=("0.13.0",)).address)
    uid = client.create(spec()).spec.uid.encode()

    def stream(method: str, *requests: bytes) -> list[bytes]:
        return list(client.channel.stream_stream(method)(iter(requests), timeout=60))

    started = field(1, field(1, uid) + field(2, b"cat"))
    assert stream(newer.EXEC, started, b"\x12\x02hi", b"\x18\x01") == [b"\x0a\x02hi", b"\x18\x00"]
    assert stream(newer.SSH, b"\x0a\x1a" + uid, b"\x12\x03abc", b"\x12\x01d") == [b"\x0a\x03abc", b"\x0a\x01d"]
    for unknown in (b"0" * 26, b"no-ulid"):
        assert GONE in refused(stream, newer.SSH, field(1, unknown)).text
    for method, firsts in (
        (newer.EXEC, (b"", field(1, field(2, b"cat")), field(2, b"input"), field(1, field(1, uid)))),
        (newer.SSH, (b"", field(1, b""), field(2, b"data"))),
    ):
        for first in firsts:
            assert refused(stream, method, first) == (grpc.StatusCode.INVALID_ARGUMENT, newer.NO_UID[method])
