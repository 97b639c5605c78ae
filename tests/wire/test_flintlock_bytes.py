"""Requests and replies pass as bytes: only the token is put in and cut out."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.errors import HostVerdict, InvalidRequest
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

UNKNOWN_FIELD = b"\xf2\x3f\x05newer"  # field 1022, a string that no proto of ours knows
ULID = "01KJ5Z7Q8R9S0T1V2W3X4Y5Z6A"

texts = st.text(max_size=12)
keys = texts.filter(lambda key: key != wire.TOKEN_KEY)  # Billet's own: hypothesis finds the word in the source
specs = st.builds(
    types.MicroVMSpec,
    id=texts,
    namespace=texts,
    vcpu=st.integers(-5, 100),
    memory_in_mb=st.integers(0, 40000),
    metadata=st.dictionaries(keys, texts, max_size=4),
    labels=st.dictionaries(texts, texts, max_size=2),
)


def reply_of(spec):
    return rpc.CreateMicroVMResponse(microvm=types.MicroVM(version=1, spec=spec))


@given(specs)
def test_the_token_goes_in_and_comes_out_and_nothing_else_changes(spec):
    request = rpc.CreateMicroVMRequest(microvm=spec).SerializeToString()
    told = rpc.CreateMicroVMRequest.FromString(wire.with_token(request, ULID)).microvm
    reply = reply_of(told).SerializeToString()
    assert wire.read_created(reply).token == ULID
    clean = rpc.CreateMicroVMResponse.FromString(wire.without_token(reply))
    assert clean == reply_of(spec)


@given(specs)
def test_a_reply_without_a_token_passes_to_the_byte(spec):
    reply = reply_of(spec).SerializeToString() + UNKNOWN_FIELD
    assert wire.without_token(reply) == reply


def test_fields_that_billet_does_not_know_survive_inside_the_spec():
    spec = types.MicroVMSpec.FromString(types.MicroVMSpec(id="vm").SerializeToString() + UNKNOWN_FIELD)
    request = wire.with_token(rpc.CreateMicroVMRequest(microvm=spec).SerializeToString(), ULID)
    assert UNKNOWN_FIELD in request
    reply = reply_of(rpc.CreateMicroVMRequest.FromString(request).microvm).SerializeToString()
    assert UNKNOWN_FIELD in wire.without_token(reply)


def test_lists_of_hosts_are_merged_by_joining_them_and_split_into_messages():
    lists = [rpc.ListMicroVMsResponse(microvm=[types.MicroVM(version=n)]).SerializeToString() for n in (1, 2, 3)]
    whole = b"".join(lists)
    assert [vm.version for vm in rpc.ListMicroVMsResponse.FromString(whole).microvm] == [1, 2, 3]
    assert [rpc.ListMessage.FromString(m).microvm.version for m in wire.split_list(whole)] == [1, 2, 3]


def test_the_uid_is_read_from_field_1_and_from_one_message_deeper():
    flat = wire.with_uid(ULID)
    deeper = b"\x0a" + bytes([len(flat)]) + flat
    assert newer.uid_of(flat) == newer.uid_of(deeper) == ULID
    assert newer.uid_of(b"") == newer.uid_of(b"\x0a\x03abc") == ""


@given(st.binary(max_size=60))
def test_garbage_is_refused_and_harms_nothing(garbage):
    for read in (newer.uid_of, wire.without_token, lambda b: wire.read_create(b, "01A")):
        with contextlib.suppress(InvalidRequest):
            read(garbage)


def good_spec(**changes):
    spec = types.MicroVMSpec(id="vm", namespace="ns", vcpu=2, memory_in_mb=2048)
    spec.kernel.image = "kernel"
    spec.interfaces.add(device_id="eth1", type=types.NetworkInterface.TAP)
    return spec


def read(spec):
    return wire.read_create(rpc.CreateMicroVMRequest(microvm=spec).SerializeToString(), "01A")


def test_zeros_are_charged_as_what_flintlockd_makes_of_them():
    spec = good_spec()
    spec.vcpu = spec.memory_in_mb = 0
    assert read(spec).demand[:2] == (2, 1024)


def test_volumes_are_charged_by_their_size():
    spec = good_spec()
    spec.root_volume.size_in_mb = 1000
    spec.additional_volumes.add(size_in_mb=500)
    assert read(spec).demand.disk_mib == 1500


def test_only_labels_that_scheduling_needs_are_kept():
    spec = good_spec()
    spec.labels.update({"cluster-name": "c1", "billet.io/zone": "a", "secret": "x"})
    assert read(spec).labels == {"cluster-name": "c1", "billet.io/zone": "a"}


def test_the_poison_pills_are_refused_with_what_would_help():
    overrides = good_spec()
    overrides.interfaces[0].overrides.SetInParent()
    no_kernel = good_spec()
    no_kernel.ClearField("kernel")
    empty_kernel = good_spec()
    empty_kernel.kernel.Clear()
    for spec, word in ((overrides, "bridge_name"), (no_kernel, "kernel.image"), (empty_kernel, "kernel.image")):
        with pytest.raises(InvalidRequest, match=word):
            read(spec)
        spec.id = ""  # flintlockd refuses it before it comes to what crashes it
        with pytest.raises(HostVerdict, match="name is required"):
            read(spec)


def test_no_spec_at_all_gets_flintlockds_own_words():
    with pytest.raises(InvalidRequest, match="invalid create microvm request: MicroVMSpec required"):
        wire.read_create(b"", "01A")


def test_what_can_make_a_boot_fail_is_part_of_the_recipe() -> None:
    spec = types.MicroVMSpec(id="a", namespace="n", vcpu=2, memory_in_mb=1024)
    spec.kernel.image, spec.root_volume.source.container_source = "kernel", "image"
    spec.interfaces.add(device_id="eth1", type=types.NetworkInterface.TAP)
    recipe = wire.recipe(spec)

    def changed(change: Callable[[types.MicroVMSpec], object]) -> str:
        other = types.MicroVMSpec()
        other.CopyFrom(spec)
        change(other)
        return wire.recipe(other)

    own: list[Callable[[types.MicroVMSpec], object]] = [
        lambda vm: setattr(vm, "id", "b"),
        lambda vm: setattr(vm, "namespace", "other"),
        lambda vm: vm.labels.update(a="b"),
        lambda vm: vm.metadata.update({"user-data": "x"}),
        lambda vm: setattr(vm.interfaces[0], "guest_mac", "aa:bb"),
        lambda vm: setattr(vm.interfaces[0].address, "address", "10.0.0.2/24"),
    ]
    decisive: list[Callable[[types.MicroVMSpec], object]] = [
        lambda vm: setattr(vm, "vcpu", 64),
        lambda vm: setattr(vm, "memory_in_mb", 32_768),
        lambda vm: setattr(vm, "provider", "cloudhypervisor"),
        lambda vm: setattr(vm.kernel, "filename", "vmlinux"),
        lambda vm: vm.kernel.cmdline.update(init="/none"),
        lambda vm: setattr(vm.initrd, "image", "initrd"),
        lambda vm: setattr(vm.root_volume.source, "container_source", "missing"),
        lambda vm: setattr(vm.root_volume, "size_in_mb", 1),
        lambda vm: vm.additional_volumes.add(id="more"),
        lambda vm: setattr(vm.interfaces[0].overrides, "bridge_name", "missing"),
    ]
    assert {changed(change) for change in own} == {recipe}
    assert len({recipe, *map(changed, decisive)}) == 1 + len(decisive)
