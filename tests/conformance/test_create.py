"""Checks 1 to 15: CreateMicroVM, refused and accepted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import yaml

from billet.api import fleet_service as fleet
from billet.fake.faults import FaultKind
from billet.wire import flintlock as wire
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

from .calls import GONE, MACVTAP, PENDING, TAP, Client, base64, eventually, own, plain, refused, scope, spec
from .targets import Service, Target

UNKNOWN = grpc.StatusCode.UNKNOWN
ULID = r"[0-9A-HJKMNP-TV-Z]{26}"


def line(path: str, tag: str) -> str:
    name = path.rpartition(".")[2]
    return f"Key: 'MicroVM.Spec.{path}' Error:Field validation for '{name}' failed on the '{tag}' tag"


def test_check_01_no_spec(client: Client) -> None:
    assert refused(client.call, wire.CREATE, b"") == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid create microvm request: MicroVMSpec required",
    )


def test_check_02_no_name(client: Client) -> None:
    nameless = spec()
    nameless.ClearField("id")
    code, text = refused(client.create, nameless)
    assert code == UNKNOWN
    assert text == "converting request: creating vmid from spec: name is required"


def test_check_03_no_namespace_becomes_default(client: Client) -> None:
    assert client.create(spec(namespace="")).spec.namespace == "default"


def test_check_04_uid_is_the_hosts_own(client: Client, service: Service) -> None:
    wanted = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    made = client.create(spec(uid=wanted)).spec
    assert made.uid != wanted
    assert re.fullmatch(ULID, made.uid)
    assert service.on_hosts(made.id) == [made.uid]


def test_check_05_a_new_microvm_is_pending(client: Client) -> None:
    made = client.create(spec())
    assert (made.status.state, made.version, made.status.retry) == (PENDING, 1, 0)


def test_check_05_answers_before_the_boot(slow_client: Client) -> None:
    made = slow_client.create(spec())
    assert (made.status.state, made.version, made.status.retry) == (PENDING, 1, 0)
    assert slow_client.get(made.spec.uid).status.state == PENDING


def test_check_06_same_name_twice_makes_two(client: Client, service: Service) -> None:
    first, second = client.create(spec("twin")), client.create(spec("twin"))
    assert first.spec.uid != second.spec.uid
    assert sorted(service.on_hosts(own("twin"))) == sorted([first.spec.uid, second.spec.uid])


def test_check_07_no_interface(client: Client) -> None:
    code, text = refused(client.create, spec(interfaces=[]))
    assert code == UNKNOWN
    assert text.startswith(
        "creating microvm: an error occurred when attempting to validate microvm spec: validation failures found: "
    )
    assert text.endswith(line("NetworkInterfaces", "required"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vcpu": 65}, line("VCPU", "lte")),
        ({"vcpu": -1}, line("VCPU", "gte")),
        ({"memory_in_mb": 512}, line("MemoryInMb", "gte")),
        ({"memory_in_mb": 32769}, line("MemoryInMb", "lte")),
        ({"vcpu": 65, "memory_in_mb": 512}, line("VCPU", "lte") + "\n" + line("MemoryInMb", "gte")),
        ({"kernel": types.Kernel(image="k/k:1")}, line("Kernel.Filename", "required")),
        ({"kernel": types.Kernel(image="http://k", filename="f")}, line("Kernel.Image", "imageURI")),
        ({"root_volume": types.Volume()}, line("root_volume", "volumeOrInitrdRequired")),
        (
            {"interfaces": [types.NetworkInterface(device_id="Eth0", type=TAP)]},
            line("NetworkInterfaces[0].GuestDeviceName", "guestDeviceName"),
        ),
        (
            {"interfaces": [types.NetworkInterface(device_id="eth0", type=TAP, guest_mac="nonsense")]},
            line("NetworkInterfaces[0].GuestMAC", "mac"),
        ),
        (
            {"interfaces": [types.NetworkInterface(device_id="eth0", type=7)]},
            line("NetworkInterfaces[0].Type", "oneof"),
        ),
    ],
)
def test_check_08_out_of_bounds(client: Client, service: Service, changes: dict[str, object], expected: str) -> None:
    before = service.creates()
    code, text = refused(client.create, spec(**changes))
    assert code == UNKNOWN
    assert text.endswith(f"validation failures found: {expected}")
    assert service.creates() == before


@pytest.mark.parametrize("changes", [{"vcpu": 65}, {}], ids=["no auction", "after an auction"])
def test_check_08_one_host_is_asked_and_no_other(
    cluster: Target, start: Callable[..., Service], changes: dict[str, int]
) -> None:
    """A refusal by one flintlockd is final. What every flintlockd would refuse is refused without an auction."""
    service = start(hosts=3)
    for host in service.hosts:
        host.fault(FaultKind.REFUSE, code=UNKNOWN.value[0], text="creating microvm: said by one host")
    client = Client(service.address)
    assert refused(client.create, spec("refused", **changes)) == (UNKNOWN, "creating microvm: said by one host")
    assert sum(not host.stats()["faults"] for host in service.hosts) == 1
    bids = [attempt["bids"] for attempt in record(client, "refused").get("attempts", [])]
    assert [len(asked) for asked in bids] == ([] if changes else [3])


def record(client: Client, name: str) -> dict[str, Any]:
    """The record of the last auction of this name."""
    request = fleet_pb2.ExplainRequest(key=name).SerializeToString()
    reply = fleet_pb2.ExplainReply.FromString(client.call(fleet.EXPLAIN, request))
    found: dict[str, Any] = json.loads(reply.record_json[0])
    return found


def test_check_09_zeros_have_defaults(client: Client) -> None:
    made = client.create(spec("zeros", vcpu=0, memory_in_mb=0)).spec
    assert (made.vcpu, made.memory_in_mb) == (2, 1024)
    held = client.get(made.uid).spec
    assert (held.vcpu, held.memory_in_mb) == (2, 1024)


def test_check_09_zeros_have_defaults_on_the_host(client: Client, inside: Service) -> None:
    made = client.create(spec("zeros", vcpu=0, memory_in_mb=0)).spec
    held = next(vm for host in inside.hosts for vm in host.stats()["microvms"] if vm["uid"] == made.uid)
    assert (held["vcpu"], held["memory_in_mb"]) == (2, 1024)


@pytest.mark.parametrize("host", [{"host_vcpu": 4}, {"host_memory_mib": 2048}], ids=["vcpu", "memory"])
def test_check_09_zeros_are_charged(cluster: Target, start: Callable[..., Service], host: dict[str, int]) -> None:
    """A host with room for two of 2 vCPU and 1024 MiB has room for two creates without sizes."""
    client = Client(start(**host).address)
    for _ in range(2):
        client.create(spec(vcpu=0, memory_in_mb=0))
    assert refused(client.create, spec(vcpu=0, memory_in_mb=0)).code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_check_10_default_provider(client: Client, inside: Service) -> None:
    made = client.create(spec("by-default"))
    held = next(vm for host in inside.hosts for vm in host.stats()["microvms"] if vm["uid"] == made.spec.uid)
    assert held["provider"] == "firecracker"


def test_check_10_unknown_provider(client: Client) -> None:
    assert refused(client.create, spec(provider="qemu")) == (
        UNKNOWN,
        "creating microvm: microvm provider qemu isn't available",
    )


@pytest.mark.parametrize("kind", [{"type": MACVTAP}, {}], ids=["macvtap", "unset"])
def test_check_11_macvtap_on_firecracker(client: Client, kind: dict[str, int]) -> None:
    nic = types.NetworkInterface(device_id="eth1", **kind)
    code, text = refused(client.create, spec(provider="firecracker", interfaces=[nic]))
    assert code == UNKNOWN
    assert "macvtap" in text
    assert GONE not in text


def test_check_11_virtiofs_on_firecracker(client: Client) -> None:
    shared = types.Volume(id="data", source=types.VolumeSource(virtiofs_source="/data"))
    code, text = refused(client.create, spec(provider="firecracker", additional_volumes=[shared]))
    assert code == UNKNOWN
    assert "virtiofs" in text


def test_check_11_cloudhypervisor_takes_both(client: Client, inside: Service) -> None:
    """Needs a host with an interface for macvtap, or the microVM never boots."""
    shared = types.Volume(id="data", source=types.VolumeSource(virtiofs_source="/data"))
    nic = types.NetworkInterface(device_id="eth1", type=MACVTAP)
    made = client.create(spec(provider="cloudhypervisor", additional_volumes=[shared], interfaces=[nic])).spec
    assert made.additional_volumes[0].source.virtiofs_source == "/data"
    assert [nic.device_id for nic in made.interfaces] == ["eth1"]


def test_check_11_mixed_fleet(cluster: Target, start: Callable[..., Service]) -> None:
    service = start(hosts=2, providers=("firecracker", "cloudhypervisor"))
    client = Client(service.address)
    nic = types.NetworkInterface(device_id="eth1", type=MACVTAP)
    for _ in range(3):
        uid = client.create(spec("tapped", interfaces=[nic])).spec.uid
        assert uid in {vm["uid"] for vm in service.hosts[1].stats()["microvms"]}
    assert refused(client.create, spec(provider="firecracker", interfaces=[nic])).code == UNKNOWN


def test_check_12_labels_are_dropped(client: Client) -> None:
    made = client.create(spec(labels={"cluster-name": "c1", "other": "x"}))
    assert not made.spec.labels
    assert not client.get(made.spec.uid).spec.labels
    assert all(not vm.spec.labels for vm in client.list())


def test_check_13_metadata(client: Client) -> None:
    meta = base64("vm_host: 10.0.0.1:9090\nlocal_hostname: a\n")
    made = client.create(spec(metadata={"extra": base64("kept"), "meta-data": meta})).spec
    for seen in (made, client.get(made.uid).spec):
        assert set(seen.metadata) == {"extra", "meta-data"}
        assert plain(seen.metadata["extra"]) == "kept"
        assert yaml.safe_load(plain(seen.metadata["meta-data"])) == {
            "vm_host": "10.0.0.1:9090",
            "local_hostname": "a",
            "instance_id": made.uid,
        }


def test_check_13_billets_token_is_on_the_host(client: Client, inside: Service, target: Target) -> None:
    made = client.create(spec())
    held = next(vm for host in inside.hosts for vm in host.stats()["microvms"] if vm["uid"] == made.spec.uid)
    assert (wire.TOKEN_KEY in held["metadata"]) == target.is_cluster


def test_check_13_no_reply_shows_billets_token(client: Client) -> None:
    made = client.create(spec(namespace="leaks"))
    replies = [
        client.call(wire.CREATE, rpc.CreateMicroVMRequest(microvm=spec(namespace="leaks")).SerializeToString()),
        client.call(wire.GET, wire.with_uid(made.spec.uid)),
        client.call(wire.LIST, wire.list_request(own("leaks"))),
        *(vm.SerializeToString() for vm in client.stream(own("leaks"))),
    ]
    assert len(replies) == 5
    assert not any(wire.TOKEN_KEY.encode() in reply for reply in replies)


def test_check_13_instance_id_given_stays(client: Client) -> None:
    meta = base64("instance_id: mine\n")
    assert client.create(spec(metadata={"meta-data": meta})).spec.metadata["meta-data"] == meta


@pytest.mark.parametrize("meta", ["*", base64("- a\n- list\n"), base64("{")], ids=["base64", "list", "yaml"])
def test_check_13_bad_meta_data(client: Client, meta: str) -> None:
    code, text = refused(client.create, spec(metadata={"meta-data": meta}))
    assert code == UNKNOWN
    assert text.startswith("creating microvm: ")


def test_check_14_eth0_is_added_first(client: Client) -> None:
    first, second = client.create(spec(provider="firecracker")).spec.interfaces
    assert (first.device_id, first.type, first.address.address) == ("eth0", TAP, "169.254.0.1/16")
    assert first.guest_mac == "AA:FF:00:00:00:01"
    assert second.device_id == "eth1"


def test_check_14_eth0_given_is_kept(client: Client) -> None:
    nics = [types.NetworkInterface(device_id=name, type=TAP) for name in ("eth1", "eth0")]
    assert [
        nic.device_id for nic in client.create(spec(provider="firecracker", interfaces=nics)).spec.interfaces
    ] == ["eth1", "eth0"]


def test_check_15_images_are_cleaned(client: Client) -> None:
    made = client.create(
        spec(
            kernel=types.Kernel(image=f" {scope.kernel_image}\n", filename=scope.kernel_filename),
            root_volume=types.Volume(id="root", source=types.VolumeSource(container_source=dirty(scope.root_image))),
        )
    ).spec
    assert made.kernel.image == scope.kernel_image
    assert made.root_volume.source.container_source == scope.root_image


def dirty(image: str) -> str:
    """The image with white space around it and a control character in it."""
    return f"\t{image[:-1]}\x00{image[-1]} "


def test_which_fields_come_back(client: Client) -> None:
    given = spec(provider="firecracker")
    given.root_volume.mount_point = "/"
    given.created_at.seconds = 1
    made = client.create(given).spec
    assert not made.HasField("provider")
    assert not made.HasField("created_at")
    assert not made.root_volume.HasField("mount_point")
    assert made.root_volume.HasField("partition_id")
    assert made.root_volume.HasField("size_in_mb")
    assert all(nic.HasField("guest_mac") for nic in made.interfaces)


def test_bridges_do_not_come_back(client: Client, inside: Service) -> None:
    """Needs a host with this bridge, or the microVM never boots."""
    given = spec()
    given.interfaces[0].overrides.bridge_name = "br0"
    assert not any(nic.HasField("overrides") for nic in client.create(given).spec.interfaces)


def test_request_metadata_is_ignored(client: Client) -> None:
    request = rpc.CreateMicroVMRequest(microvm=spec())
    request.metadata["hint"].value = b"x"
    reply = client.call(wire.CREATE, request.SerializeToString())
    assert rpc.CreateMicroVMResponse.FromString(reply).microvm.version == 1


def test_version_rises_until_created(client: Client) -> None:
    uid = client.create(spec()).spec.uid
    assert eventually(lambda: client.get(uid).status.state != PENDING)
    assert client.get(uid).version > 1
