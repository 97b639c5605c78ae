"""The rules of CreateMicroVM as functions of values."""

from __future__ import annotations

import unicodedata
from base64 import b64decode, b64encode

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from billet.core.errors import Code, HostVerdict
from billet.fake import model
from billet.fake.validate import failures, is_reference
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.conformance.calls import MACVTAP, TAP, spec

UID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"

texts = st.text(max_size=8)
image_names = st.sampled_from(["", "r.example/i:1", " r.example/i:1\n", "http://x", "os", "os:tag"])
numbers = st.integers(min_value=-(2**31), max_value=2**31 - 1) | st.sampled_from([0, 1, 64, 65, 1024, 32768, 32769])
maps = st.dictionaries(texts, texts, max_size=3)
sources = st.builds(types.VolumeSource, container_source=st.none() | image_names, virtiofs_source=st.none() | texts)
volumes = st.builds(types.Volume, id=texts, source=st.none() | sources, size_in_mb=st.none() | numbers)
nics = st.builds(
    types.NetworkInterface,
    device_id=st.sampled_from(["eth0", "eth1", "", "Eth", "a/b"]),
    type=st.sampled_from([0, 1, 2]),
    guest_mac=st.sampled_from([None, "", "AA:FF:00:00:00:01", "x"]),
    overrides=st.none() | st.builds(types.NetworkOverrides, bridge_name=st.none() | texts),
)
specs = st.builds(
    types.MicroVMSpec,
    id=texts,
    namespace=texts,
    labels=maps,
    vcpu=numbers,
    memory_in_mb=numbers,
    kernel=st.none() | st.builds(types.Kernel, image=image_names, filename=st.sampled_from([None, "", "f"])),
    root_volume=st.none() | volumes,
    additional_volumes=st.lists(volumes, max_size=2),
    interfaces=st.lists(nics, max_size=3),
    metadata=maps,
    provider=st.sampled_from([None, "", "firecracker", "cloudhypervisor", "qemu"]),
)


def accept(microvm: types.MicroVMSpec, provider: str = "firecracker") -> model.StoredMicroVm:
    return model.accept(rpc.CreateMicroVMRequest(microvm=microvm), UID, provider)


@given(specs)
def test_every_spec_is_accepted_refused_or_fatal(given_spec: types.MicroVMSpec) -> None:
    before = given_spec.SerializeToString(deterministic=True)
    outcome = attempt(given_spec)
    assert given_spec.SerializeToString(deterministic=True) == before
    match outcome:
        case HostVerdict():
            assert outcome.status == Code.UNKNOWN
            assert outcome.text
        case model.Panic():
            assert any(nic.HasField("overrides") for nic in given_spec.interfaces)
        case model.StoredMicroVm():
            check_accepted(outcome.vm)


def attempt(given_spec: types.MicroVMSpec) -> model.StoredMicroVm | HostVerdict | model.Panic:
    try:
        return accept(given_spec)
    except (HostVerdict, model.Panic) as refusal:
        return refusal


def check_accepted(vm: types.MicroVM) -> None:
    assert (vm.version, vm.status.state, vm.status.retry, vm.spec.uid) == (1, model.PENDING, 0, UID)
    assert 1 <= vm.spec.vcpu <= 64
    assert 1024 <= vm.spec.memory_in_mb <= 32768
    assert vm.spec.interfaces
    assert not vm.spec.labels
    assert vm.spec.namespace


@given(specs)
def test_validation_names_each_field_once(given_spec: types.MicroVMSpec) -> None:
    keys = [line.split("'")[1] for line in failures(given_spec)]
    assert len(keys) == len(set(keys))


def test_an_empty_spec_has_four_failures() -> None:
    lines = failures(types.MicroVMSpec())
    assert [line.split("'")[1].removeprefix("MicroVM.Spec.") for line in lines] == [
        "VCPU",
        "MemoryInMb",
        "NetworkInterfaces",
        "root_volume",
    ]


@given(st.text(max_size=30))
def test_cleaning_an_image_is_idempotent_and_leaves_no_control_character(image: str) -> None:
    dirty = types.MicroVMSpec(kernel=types.Kernel(image=image))
    model.clean_images(dirty)
    assert not any(unicodedata.category(char) == "Cc" for char in dirty.kernel.image)
    once = dirty.kernel.image
    assert once.strip() == once or any(unicodedata.category(char) == "Cc" for char in image)


@pytest.mark.parametrize(
    "image",
    ["docker.io/library/ubuntu:22.04", "r.example:5000/a/b@sha256:00", "localhost/x", "[::1]:5000/a", "os", "host:1"],
)
def test_references(image: str) -> None:
    assert is_reference(image)


@pytest.mark.parametrize("image", ["", "http://r/x", "/x", "ubuntu:latest", "a b/c", "a/%zz", "a/b\n", "?x"])
def test_no_references(image: str) -> None:
    assert not is_reference(image)


letters = st.text(st.characters(categories=["L"]), min_size=1)


@given(st.dictionaries(letters, letters))
def test_meta_data_keeps_everything_and_gains_the_instance_id(data: dict[str, str]) -> None:
    data.pop("instance_id", None)
    given_spec = spec(metadata={"meta-data": b64encode(yaml.safe_dump(data, allow_unicode=True).encode()).decode()})
    model.set_instance_id(given_spec, UID)
    kept = yaml.load(b64decode(given_spec.metadata["meta-data"]), Loader=yaml.BaseLoader)
    assert kept == data | {"instance_id": UID}


def test_fields_that_nobody_knows_survive() -> None:
    newer = spec()
    newer.MergeFromString(b"\xa2\x06\x03new")  # field 100
    newer.root_volume.MergeFromString(b"\xa2\x06\x03vol")
    kept = accept(newer).vm.spec
    assert b"\xa2\x06\x03new" in kept.SerializeToString()
    assert b"\xa2\x06\x03vol" in kept.root_volume.SerializeToString()


def test_overrides_without_a_bridge_are_fatal_before_validation() -> None:
    poison = spec(vcpu=65)
    poison.interfaces[0].overrides.SetInParent()
    with pytest.raises(model.Panic):
        accept(poison)
    poison.ClearField("id")  # the name is looked at first
    with pytest.raises(HostVerdict, match="name is required"):
        accept(poison)


@pytest.mark.parametrize("kernel", [None, types.Kernel(), types.Kernel(filename="")])
def test_an_empty_kernel_is_accepted_and_poisonous(kernel: types.Kernel | None) -> None:
    bare = spec()
    bare.ClearField("kernel")
    if kernel is not None:
        bare.kernel.CopyFrom(kernel)
    assert accept(bare).poisoned
    assert not accept(spec()).poisoned


def test_the_hosts_default_decides() -> None:
    tapped = spec(interfaces=[types.NetworkInterface(device_id="eth1", type=MACVTAP)])
    assert accept(tapped, "cloudhypervisor").provider == "cloudhypervisor"
    with pytest.raises(HostVerdict, match="macvtap"):
        accept(tapped, "firecracker")


def test_an_initrd_does_without_a_root_volume() -> None:
    booted = spec(root_volume=types.Volume(), initrd=types.Initrd(image="r/i:1"))
    kept = accept(booted).vm.spec
    assert not kept.HasField("root_volume")
    assert kept.initrd.HasField("filename")


@pytest.mark.parametrize(
    "mac", ["aa:bb:cc:dd:ee:ff", "AA-BB-CC-DD-EE-FF", "aabb.ccdd.eeff", "00:01:02:03:04:05:06:07"]
)
def test_macs(mac: str) -> None:
    assert not failures(spec(interfaces=[types.NetworkInterface(device_id="eth1", type=TAP, guest_mac=mac)]))


def test_a_static_address_is_checked() -> None:
    nic = types.NetworkInterface(device_id="eth1", type=TAP)
    nic.address.address, nic.address.gateway = "10.0.0.1", "10.0.0.1/33"
    nic.address.nameservers.extend(["1.1.1.1", "x"])
    paths = [line.split("'")[1].rpartition("StaticAddress.")[2] for line in failures(spec(interfaces=[nic]))]
    assert paths == ["Address", "Gateway", "Nameservers[1]"]
