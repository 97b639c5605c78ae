"""Checks 18, 24, 32 to 35: hosts that are down, full, cut off, and requests that would crash them."""

from __future__ import annotations

from collections.abc import Callable

import grpc
from ulid import ULID

from billet.fake.faults import Kind
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

from .calls import DEADLINE_S, GONE, Client, Refusal, attempt, eventually, refused, spec
from .targets import NEVER_S, Service, Target

AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


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
    service.hosts[1].fault(Kind.HANG, method="*", count=-1)
    request = rpc.DeleteMicroVMRequest(uid=uid).SerializeToString()
    code, text = refused(client.channel.unary_unary(wire.DELETE), request, timeout=5)
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


def test_check_24_list_with_a_host_down(cluster: Target, start: Callable[..., Service]) -> None:
    """An error by default; a part of the list only for who asks for it, and then it says what is missing."""
    service = start(hosts=2)
    client = Client(service.address)
    kept, lost = make_on(service, client, 0), make_on(service, client, 1)
    service.hosts[1].kill()

    def unavailable() -> str:
        got = attempt(client.list)
        if not isinstance(got, Refusal):
            return ""
        assert got.code == grpc.StatusCode.UNAVAILABLE
        assert GONE not in got.text
        return got.text

    assert eventually(unavailable)
    request = rpc.ListMicroVMsRequest().SerializeToString()
    reply, call = client.channel.unary_unary(wire.LIST).with_call(
        request, timeout=DEADLINE_S, metadata=[("x-billet-partial", "allow")]
    )
    seen = {vm.spec.uid for vm in rpc.ListMicroVMsResponse.FromString(reply).microvm}
    assert kept in seen
    assert lost not in seen
    missing = dict(call.trailing_metadata())["x-billet-partial"]
    assert missing
    assert missing in unavailable()  # the error names the same host


def test_check_32_cut_after_accept(target: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2 if target.is_cluster else 1)
    client = Client(service.address)
    for host in service.hosts:
        host.fault(Kind.CUT_AFTER_ACCEPT)
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
    service.hosts[0].fault(Kind.CUT_BEFORE_ACCEPT)
    got = attempt(client.create, spec("cut"))
    assert got.code in AWAY if isinstance(got, Refusal) else got.spec.id == "cut"
    assert service.on_hosts("cut") == ([] if isinstance(got, Refusal) else [got.spec.uid])


def test_check_33_no_room(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2, host_vcpu=4, host_memory_mib=8192, boot_mean_s=NEVER_S)
    client = Client(service.address)
    for _ in range(64):
        got = attempt(client.create, spec(vcpu=4, memory_in_mb=4096))
        if isinstance(got, Refusal):
            break
    assert isinstance(got, Refusal), "64 microVMs of 4 vCPU on two hosts of 4"
    assert got.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert GONE not in got.text


def test_check_34_poison_pills_reach_no_host(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2)
    client = Client(service.address)
    no_bridge = types.NetworkInterface(device_id="eth1", type=types.NetworkInterface.TAP)
    no_bridge.overrides.SetInParent()
    for poison in (spec(interfaces=[no_bridge]), spec(kernel=types.Kernel()), spec_without_kernel()):
        code, text = refused(client.create, poison)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert GONE not in text
    assert service.creates() == 0  # and every host is there to say so


def spec_without_kernel() -> types.MicroVMSpec:
    bare = spec()
    bare.ClearField("kernel")
    return bare


def test_check_35_versions_never_go_back(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=1, fronts=2, boot_mean_s=0.3)
    clients = [Client(address) for address in service.fronts]
    uid = clients[0].create(spec()).spec.uid
    seen = []

    def created() -> bool:
        for client in clients:
            vm = client.get(uid)
            seen.append(vm.version)
        return vm.status.state == types.MicroVMStatus.CREATED

    eventually(created)
    assert seen == sorted(seen)


def test_check_37_the_lowest_version_of_the_fleet(cluster: Target, start: Callable[..., Service]) -> None:
    client = Client(start(hosts=2, versions=("0.16.0", "0.15.2")).address)
    assert eventually(lambda: client.call(wire.SERVER_INFO, b"")).startswith(b"\x0a\x060.15.2")
