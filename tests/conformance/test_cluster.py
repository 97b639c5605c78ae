"""Checks that need a fleet: hosts that are down, full, cut off, unknown, and requests that would crash them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToJson
from ulid import ULID

from billet.adapters.pki import write_pki
from billet.api import fleet_service as fleet
from billet.fake.faults import FaultKind
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.tls import TlsSettings
from tests.harness import Cluster, plans

from .calls import DEADLINE_S, GONE, Client, Refusal, attempt, eventually, http, refused, spec
from .targets import NEVER_S, Service, Target

AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.fixture
def cluster_of(cluster: Target, tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """A cluster of the harness itself, for what Options has no words for."""
    made: list[Cluster] = []

    def start(hosts: int, **settings: Any) -> Cluster:
        settings = {"store": cluster.name.removeprefix("cluster-"), **settings}
        made.append(Cluster(tmp_path, plans(hosts, tmp_path), **settings).start())
        return made[-1]

    yield start
    for one in made:
        one.stop()


def make_on(service: Service, client: Client, index: int) -> str:
    """The uid of a microVM that the front knows, on that host."""
    direct = Client(service.hosts[index].grpc_address)
    uid = direct.create(spec()).spec.uid
    direct.close()
    eventually(lambda: uid in {vm.spec.uid for vm in client.list()})
    return uid


def test_check_06_same_name_on_two_hosts(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2)
    client = Client(service.address)
    uids = {client.create(spec("twin")).spec.uid for _ in range(4)}
    assert len(uids) == 4
    assert sorted(service.on_hosts("twin")) == sorted(uids)


def test_check_17_unknown_to_the_whole_fleet(cluster: Target, start: Callable[..., Service]) -> None:
    """Every host has said so: then, and only then, flintlockd's own words."""
    client = Client(start(hosts=3).address)
    uid = str(ULID())
    assert refused(client.get, uid) == (
        grpc.StatusCode.UNKNOWN,
        f"getting microvm: error attempting to locate microvm with uid: {uid}: microvm spec //{uid} not found",
    )


def test_check_18_host_down(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2)
    client = Client(service.address)
    uid = make_on(service, client, 1)
    service.hosts[1].kill()
    for call in (client.get, client.delete):
        code, text = refused(call, uid)
        assert code in AWAY
        assert GONE not in text


def test_check_18_host_hangs(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2)
    client = Client(service.address)
    uid = make_on(service, client, 1)
    service.hosts[1].fault(FaultKind.HANG, method="*", count=-1)
    request = rpc.DeleteMicroVMRequest(uid=uid).SerializeToString()
    code, text = refused(client.channel.unary_unary(wire.DELETE), request, timeout=5)
    assert code in AWAY
    assert GONE not in text


def test_check_18_the_name_of_a_host_cannot_be_resolved(cluster_of: Callable[..., Cluster]) -> None:
    """gRPC's own text for that holds the words that nobody may hear."""
    service = cluster_of(1)
    service.agent[0].kill()
    service.agent_flags = ("--flintlock", "flintlock.invalid:9090")
    service.launch_agent(0)  # restart_agent would wait for a host that is ready
    client = Client(service.grpc[0])
    # The first agent may have been killed before its host was written down: then the fleet has none until the second.
    eventually(lambda: [host.state for host in hosts_of(client)] == [fleet_pb2.DAEMON_DOWN])
    for call, argument in ((client.get, str(ULID())), (client.delete, str(ULID())), (client.create, spec())):
        code, text = refused(call, argument)
        assert code in AWAY
        assert GONE not in text


def hosts_of(client: Client) -> list[fleet_pb2.HostView]:
    return [*fleet_pb2.HostsReply.FromString(client.call(fleet.HOSTS, b"")).hosts]


def test_check_18_the_name_of_the_leader_cannot_be_resolved(cluster_of: Callable[..., Cluster]) -> None:
    service = cluster_of(
        0, servers=2, store="etcd", server_flags=("--advertise-host", "leader.invalid", "--hold-s", "1")
    )
    servers = [Client(address.replace("leader.invalid", "127.0.0.1")) for address in service.grpc]
    eventually(lambda: any(attempt(client.list) == [] for client in servers))  # one of them leads
    follower = next(client for client in servers if attempt(client.list) != [])
    for call in (follower.get, follower.delete):
        code, text = refused(call, str(ULID()))
        assert code in AWAY
        assert GONE not in text


def test_check_18b_unknown_uid_while_a_host_is_down(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2)
    direct = Client(service.hosts[1].grpc_address)
    uid = direct.create(spec()).spec.uid
    service.hosts[1].kill()  # perhaps before anybody learnt of the microVM
    client = Client(service.address)
    code, text = refused(client.get, uid)
    assert code in AWAY
    assert GONE not in text


def test_check_18b_the_host_comes_back(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2, keep_state=True)
    client = Client(service.address)
    uid = make_on(service, client, 1)
    service.hosts[1].kill()
    assert refused(client.get, uid).code in AWAY
    service.hosts[1].start()

    def back() -> bool:
        got = attempt(client.get, uid)
        assert got.code in AWAY if isinstance(got, Refusal) else got.spec.uid == uid
        return not isinstance(got, Refusal)

    eventually(back)
    eventually(lambda: GONE in refused(client.get, str(ULID())).text)


def test_check_22_list_of_the_whole_fleet(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=3)
    client = Client(service.address)
    direct = {make_on(service, client, index) for index in range(3)}
    ours = {client.create(spec(namespace="other")).spec.uid for _ in range(3)}
    assert {vm.spec.uid for vm in client.list()} == direct | ours
    assert {vm.spec.uid for vm in client.list("ns")} == {vm.spec.uid for vm in client.stream("ns")} == direct


def test_check_24_list_with_a_host_down(cluster: Target, start: Callable[..., Service]) -> None:
    """An error by default; a part of the list only for who asks for it, and then it says what is missing."""
    service = start(hosts=2, http=True)
    client = Client(service.address)
    kept, lost = make_on(service, client, 0), make_on(service, client, 1)
    service.hosts[1].kill()
    for call in (client.list, lambda: client.stream("ns")):
        code, text = refused(call)
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "host-1" in text
        assert GONE not in text
    request = rpc.ListMicroVMsRequest().SerializeToString()
    reply, call = client.channel.unary_unary(wire.LIST).with_call(
        request, timeout=DEADLINE_S, metadata=[("x-billet-partial", "allow")]
    )
    seen = {vm.spec.uid for vm in rpc.ListMicroVMsResponse.FromString(reply).microvm}
    assert kept in seen
    assert lost not in seen
    assert dict(call.trailing_metadata())["x-billet-partial"] == "host-1"
    url = f"http://{service.http_address}/v1alpha1/microvm/ns"
    asked = urllib.request.Request(url, headers={"X-Billet-Partial": "allow"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=DEADLINE_S) as answer:
        assert answer.headers["x-billet-partial"] == "host-1"
    body = {"id": "twice", "namespace": "ns", **json.loads(MessageToJson(spec("twice")))}
    twice = [
        http(service.http_address, "POST", "/v1alpha1/microvm", body, **{"X-Billet-Request-Id": "one"})
        for _ in range(2)
    ]
    assert [status for status, _ in twice] == [200, 200]
    assert len({json.loads(reply)["microvm"]["spec"]["uid"] for _, reply in twice}) == 1


def test_check_32_cut_after_accept(target: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2 if target.is_cluster else 1)
    client = Client(service.address)
    for host in service.hosts:
        host.fault(FaultKind.CUT_AFTER_ACCEPT)
    got = attempt(client.create, spec("cut"))
    if isinstance(got, Refusal):
        assert got.code in AWAY
        assert GONE not in got.text
    assert eventually(lambda: service.on_hosts("cut"))
    eventually(lambda: [vm.spec.uid for vm in client.list() if vm.spec.id == "cut"] == service.on_hosts("cut"))
    assert len(service.on_hosts("cut")) == 1
    assert isinstance(got, Refusal) or service.on_hosts("cut") == [got.spec.uid]


def test_check_32_cut_before_accept(target: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2 if target.is_cluster else 1)
    client = Client(service.address)
    for host in service.hosts:
        host.fault(FaultKind.CUT_BEFORE_ACCEPT)
    got = attempt(client.create, spec("cut"))
    assert got.code in AWAY if isinstance(got, Refusal) else got.spec.id == "cut"
    assert service.on_hosts("cut") == ([] if isinstance(got, Refusal) else [got.spec.uid])


def test_check_27_mutual_tls_in_front_of_two_servers(cluster_of: Callable[..., Cluster], tmp_path: Path) -> None:
    """The one that does not lead shows the other its own certificate when it passes a call on."""
    pki = write_pki(tmp_path / "pki", ["127.0.0.1"], days=1)
    tls = TlsSettings(False, str(pki.server_cert), str(pki.server_key), True, str(pki.ca))
    service = cluster_of(1, servers=2, store="etcd", tls=tls)
    mine = grpc.ssl_channel_credentials(*(path.read_bytes() for path in (pki.ca, pki.client_key, pki.client_cert)))
    for address in service.grpc:
        client = Client(address, credentials=mine)
        assert eventually(lambda client=client: not isinstance(attempt(client.list), Refusal))
        assert client.create(spec()).version == 1
        client.close()


def test_check_33_no_room(cluster: Target, start: Callable[..., Service]) -> None:
    """RESOURCE_EXHAUSTED, which flintlockd never says, with the reasons counted; and not one microVM too many."""
    service = start(hosts=2, host_vcpu=4, host_memory_mib=8192, boot_mean_s=NEVER_S)
    client = Client(service.address)
    for _ in range(2):
        client.create(spec(vcpu=4, memory_in_mb=4096))
    code, text = refused(client.create, spec("third", vcpu=4, memory_in_mb=4096))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "no host can take ns/third (4 vCPU, 4096 MiB): 2 hosts: not enough vCPU (e.g. host-" in text
    assert GONE not in text
    assert service.creates() == 2


def test_check_33_no_host(cluster: Target, start: Callable[..., Service]) -> None:
    code, text = refused(Client(start(hosts=0).address).create, spec())
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "no host has joined" in text
    assert GONE not in text


def test_check_33_a_host_that_is_away_may_have_room(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2, host_vcpu=4)
    service.hosts[1].kill()
    client = Client(service.address)
    client.create(spec(vcpu=4))  # fills the one that is left
    code, text = refused(client.create, spec(vcpu=4))
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "1 host: not enough vCPU" in text
    assert GONE not in text


def test_check_34_poison_pills_reach_no_host(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2, http=True)
    client = Client(service.address)
    no_bridge = types.NetworkInterface(device_id="eth1", type=types.NetworkInterface.TAP)
    no_bridge.overrides.SetInParent()
    crash = [spec(interfaces=[no_bridge]), spec(kernel=types.Kernel()), spec_without_kernel()]
    cripple = [spec(id="a/b"), spec(id="a\\b"), spec(namespace="a/b"), spec(namespace="a\\b")]
    for poison in crash + cripple:
        code, text = refused(client.create, poison)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert GONE not in text
        status, body = http(service.http_address, "POST", "/v1alpha1/microvm", MessageToJson(poison).encode())
        assert (status, json.loads(body)["message"]) == (400, text)
    assert service.creates() == 0  # and every host is there to say so


def spec_without_kernel() -> types.MicroVMSpec:
    bare = spec()
    bare.ClearField("kernel")
    return bare


def test_check_35_versions_never_go_back(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=1, servers=2, boot_mean_s=0.3)
    clients = [Client(address) for address in service.servers]
    uid = clients[0].create(spec()).spec.uid
    seen = []

    def created() -> bool:
        for client in clients:
            vm = client.get(uid)
            seen.append(vm.version)
        return vm.status.state == types.MicroVMStatus.CREATED

    eventually(created)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("versions", "lowest"),
    [
        (("0.16.0", "0.15.2"), b"0.15.2"),
        (("0.15.3", "0.15.1", "0.15.2"), b"0.15.1"),
        (("1.2.0", "0.15.2"), b"0.15.2"),
        (("2.0.0", "1.10.0", "1.9.1"), b"1.9.1"),
    ],
)
def test_check_37_the_lowest_version_of_the_fleet(
    cluster: Target, start: Callable[..., Service], versions: tuple[str, ...], lowest: bytes
) -> None:
    client = Client(start(hosts=len(versions), versions=versions).address)
    inner = b"\x0a" + bytes([len(lowest)]) + lowest
    assert client.call(newer.SERVER_INFO, b"").startswith(b"\x0a" + bytes([len(inner)]) + inner)


def test_check_37_a_host_without_server_info_is_the_lowest(cluster: Target, start: Callable[..., Service]) -> None:
    client = Client(start(hosts=2, versions=("0.15.2", "0.11.0")).address)
    assert refused(client.call, newer.SERVER_INFO, b"").code == grpc.StatusCode.UNIMPLEMENTED
