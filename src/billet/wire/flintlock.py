"""Reads Flintlock's messages, and adds and removes the token without re-encoding them.

The client's request reaches flintlockd, and flintlockd's reply reaches the client, without being rebuilt. The token
is inserted and cut out at the level of the wire format, so fields that Billet does not know survive byte for byte.
"""

from __future__ import annotations

import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterator
from hashlib import blake2b
from typing import Literal, TypeVar, get_args

from google.protobuf.message import DecodeError, Message

from billet.core.constraints import CLUSTER_LABEL, PLANE_LABEL, PREFIX, read
from billet.core.errors import NOT_FOUND, InvalidRequest
from billet.core.model import NO_CONSTRAINTS, Auction, Image, Observed, Resources, VmState
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.poison import refuse_oversized, refuse_poison

SERVICE = "microvm.services.api.v1alpha1.MicroVM"
CREATE = f"/{SERVICE}/CreateMicroVM"
DELETE = f"/{SERVICE}/DeleteMicroVM"
GET = f"/{SERVICE}/GetMicroVM"
LIST = f"/{SERVICE}/ListMicroVMs"
LIST_STREAM = f"/{SERVICE}/ListMicroVMsStream"

# Our key in spec.metadata, the only field that a host returns. Firecracker shows it to the guest, so it is no secret.
TOKEN_KEY = "billet-token"

# flintlockd's values for zero or empty fields.
DEFAULT_NAMESPACE = "default"
DEFAULT_VCPU = 2
DEFAULT_MEMORY_MIB = 1024

NO_SPEC = "invalid create microvm request: MicroVMSpec required"
INVALID = "invalid request"
_UNKNOWN_UID = {
    GET: "getting microvm: error attempting to locate microvm with uid: {uid}: microvm spec //{uid} " + NOT_FOUND,
    DELETE: "deleting microvm: checking to see if spec exists: microvm spec //{uid} " + NOT_FOUND,
}

REQUEST_MAX_BYTES = 4_194_304  # that flintlockd receives: the default of gRPC for Go

_TOKEN_KEY_BYTES = TOKEN_KEY.encode()
_MICROVM, _SPEC, _METADATA = 1, 2, 11  # field numbers that lead to the token
_DELETING = types.MicroVM(status=types.MicroVMStatus(state=types.MicroVMStatus.DELETING)).SerializeToString()
_BYTES = 2  # wire type of strings and messages
_Own = Literal["id", "namespace", "uid", "labels", "metadata", "created_at", "updated_at", "deleted_at"]
_OWN_FIELDS: tuple[_Own, ...] = get_args(_Own)  # of a spec: those in which microVMs of one recipe differ


def read_create(request: bytes, auction_id: str, zone: str = "") -> Auction:
    """Read a CreateMicroVMRequest as an auction. `zone`: of the address that received the call, "" = none.

    Raises InvalidRequest for requests that no host may get: without a spec, those that crash or cripple flintlockd
    (docs/compatibility.md; HostVerdict if they have no name), and with malformed constraints or preferences.
    flintlockd itself refuses everything else.
    """
    spec = parse(rpc.CreateMicroVMRequest, request)
    if not spec.HasField("microvm"):
        raise InvalidRequest(NO_SPEC)
    refuse_poison(spec.microvm)
    return read_spec(spec.microvm, auction_id, zone)


def read_spec(vm: types.MicroVMSpec, auction_id: str, zone: str = "") -> Auction:
    """Read a spec as an auction. Raises InvalidRequest for malformed constraints or preferences."""
    # Only the labels that scheduling needs.
    labels = {k: v for k, v in vm.labels.items() if k.startswith(PREFIX) or k in (CLUSTER_LABEL, PLANE_LABEL)}
    refuse_oversized(vm, labels)
    return Auction(
        id=auction_id,
        namespace=vm.namespace or DEFAULT_NAMESPACE,
        name=vm.id,
        demand=demand(vm),
        provider=vm.provider,
        needs_macvtap=any(nic.type == types.NetworkInterface.MACVTAP for nic in vm.interfaces),
        needs_virtiofs=any(
            volume.source.HasField("virtiofs_source") for volume in [vm.root_volume, *vm.additional_volumes]
        ),
        labels=labels,
        constraints=read(labels, vm.id, zone) if labels or zone else NO_CONSTRAINTS,
        images=images(vm),
        recipe=recipe(vm),
    )


def read_labels(request: bytes) -> tuple[str, dict[str, str]]:
    """The namespace and all labels of a CreateMicroVMRequest."""
    vm = parse(rpc.CreateMicroVMRequest, request).microvm
    return vm.namespace or DEFAULT_NAMESPACE, dict(vm.labels)


def namespace_of(request: bytes) -> str:
    """The namespace of a CreateMicroVMRequest; the default one also if it cannot be read."""
    try:
        namespace: str = rpc.CreateMicroVMRequest.FromString(request).microvm.namespace
    except DecodeError:  # whoever reads all of it says what is wrong
        namespace = ""
    return namespace or DEFAULT_NAMESPACE


def read_name(request: bytes) -> tuple[str, str]:
    """The namespace and the name of a CreateMicroVMRequest."""
    vm = parse(rpc.CreateMicroVMRequest, request).microvm
    return vm.namespace or DEFAULT_NAMESPACE, vm.id


def demand(vm: types.MicroVMSpec) -> Resources:
    """The resources that a microVM is charged: flintlockd's defaults for zeros, and volumes by their size_in_mb."""
    disk_mib = vm.root_volume.size_in_mb + sum(volume.size_in_mb for volume in vm.additional_volumes)
    return Resources(vm.vcpu or DEFAULT_VCPU, vm.memory_in_mb or DEFAULT_MEMORY_MIB, max(disk_mib, 0), 1)


def images(vm: types.MicroVMSpec) -> tuple[Image, ...]:
    """The images that a microVM boots from, without duplicates, with references cleaned as flintlockd does."""
    kernels = [vm.kernel.image, vm.initrd.image]
    volumes = [volume.source.container_source for volume in (vm.root_volume, *vm.additional_volumes)]
    found = [Image(_clean(ref), kernel=True) for ref in kernels] + [Image(_clean(ref)) for ref in volumes]
    return tuple(dict.fromkeys(image for image in found if image.ref))


def recipe(vm: types.MicroVMSpec) -> str:
    """A digest of what decides whether a microVM boots: all of its spec but what is each microVM's own."""
    common = types.MicroVMSpec()
    common.CopyFrom(vm)
    for own in _OWN_FIELDS:
        common.ClearField(own)
    for nic in common.interfaces:
        nic.ClearField("guest_mac")
        nic.ClearField("address")
    return blake2b(common.SerializeToString(deterministic=True), digest_size=8).hexdigest()


def _clean(ref: str) -> str:
    ref = ref.strip()
    return ref if ref.isprintable() else "".join(char for char in ref if unicodedata.category(char) != "Cc")


def read_images(request: bytes) -> tuple[Image, ...]:
    """The images of a CreateMicroVMRequest."""
    return images(parse(rpc.CreateMicroVMRequest, request).microvm)


def observe(vm: types.MicroVM) -> Observed:
    """A microVM as its host shows it. Its metadata still contains the token."""
    token = vm.spec.metadata.get(TOKEN_KEY, "")
    return Observed(
        uid=vm.spec.uid,
        namespace=vm.spec.namespace,
        name=vm.spec.id,
        demand=demand(vm.spec),
        state=VmState(vm.status.state) if vm.status.state in _KNOWN_STATES else VmState.CREATED,
        token=read_token(token),
        retry=vm.status.retry,
        images=images(vm.spec),
    )


_KNOWN_STATES = {state.value for state in VmState}


def read_token(value: str) -> str:
    """The token in a metadata value; "" when it is not base64 of ASCII."""
    try:
        return b64decode(value, validate=True).decode("ascii")
    except ValueError:
        return ""


def read_list(reply: bytes) -> list[Observed]:
    """The microVMs in a ListMicroVMsResponse."""
    return [observe(vm) for vm in parse(rpc.ListMicroVMsResponse, reply).microvm]


def read_created(reply: bytes) -> Observed:
    """The microVM in a CreateMicroVMResponse or GetMicroVMResponse (the same on the wire)."""
    return observe(parse(rpc.CreateMicroVMResponse, reply).microvm)


def has_name_of(request: bytes, row: Observed) -> bool:
    """Whether a microVM has the namespace and name that a CreateMicroVMRequest asks for."""
    vm = parse(rpc.CreateMicroVMRequest, request).microvm
    return (vm.namespace or DEFAULT_NAMESPACE, vm.id) == (row.namespace, row.name)


def read_uid(request: bytes) -> str:
    """The uid of a GetMicroVMRequest or DeleteMicroVMRequest. Raises InvalidRequest with flintlockd's text."""
    uid: str = parse(rpc.GetMicroVMRequest, request).uid
    if not uid:
        raise InvalidRequest(INVALID)
    return uid


def unknown_uid(method: str, uid: str) -> str:
    """flintlockd's text for a Get or Delete of a microVM that does not exist."""
    return _UNKNOWN_UID[method].format(uid=uid)


def read_namespace(request: bytes) -> str:
    """The namespace of a ListMicroVMsRequest."""
    namespace: str = parse(rpc.ListMicroVMsRequest, request).namespace
    return namespace


def list_request(namespace: str) -> bytes:
    """A ListMicroVMsRequest for a whole namespace."""
    return rpc.ListMicroVMsRequest(namespace=namespace).SerializeToString()


def with_uid(uid: str) -> bytes:
    """A GetMicroVMRequest or DeleteMicroVMRequest (the same on the wire)."""
    return rpc.GetMicroVMRequest(uid=uid).SerializeToString()


def with_token(request: bytes, token: str) -> bytes:
    """A CreateMicroVMRequest with the token added to the spec's metadata.

    Protobuf merges a message field that occurs twice, so it is enough to append a second `microvm` that holds only
    the metadata entry.
    """
    value = b64encode(token.encode("ascii"))
    entry = field(1, _TOKEN_KEY_BYTES) + field(2, value)
    return request + field(1, field(_METADATA, entry))


def refuse_too_long(request: bytes, token: str) -> None:
    """Raise InvalidRequest for a create that no flintlockd would receive, because of its length with the token."""
    added = len(with_token(b"", token))
    if len(request) + added > REQUEST_MAX_BYTES:
        raise InvalidRequest(
            f"the request has {len(request):,} bytes, and {added} more with Billet's token; "
            f"flintlockd receives at most {REQUEST_MAX_BYTES:,}: shorten the metadata (user-data) of the microVM"
        )


def without_token(reply: bytes) -> bytes:
    """A reply with microVMs in field 1 (of Create, Get, List or a list stream), without the token's entry."""
    return b"".join(
        field(_MICROVM, _cut_spec(reply[start:end])) if number == _MICROVM else reply[at:end]
        for number, at, start, end in fields(reply)
    )


def deleting_in(reply: bytes, uids: Collection[str]) -> bytes:
    """A reply with microVMs in field 1, in which these have the state DELETING.

    Protobuf merges a message field that occurs twice, so a second status with nothing but the state is appended.
    """
    return b"".join(
        field(_MICROVM, reply[start:end] + _DELETING)
        if number == _MICROVM and types.MicroVM.FromString(reply[start:end]).spec.uid in uids
        else reply[at:end]
        for number, at, start, end in fields(reply)
    )


def split_list(reply: bytes) -> Iterator[bytes]:
    """Split a ListMicroVMsResponse into ListMessages: each has one microVM, in the same field."""
    return (reply[at:end] for number, at, _, end in fields(reply) if number == _MICROVM)


def _cut_spec(vm: bytes) -> bytes:
    return b"".join(
        field(_SPEC, _cut_entry(vm[start:end])) if number == _SPEC else vm[at:end]
        for number, at, start, end in fields(vm)
    )


def _cut_entry(spec: bytes) -> bytes:
    return b"".join(
        spec[at:end]
        for number, at, start, end in fields(spec)
        if number != _METADATA or not _is_token(spec[start:end])
    )


def _is_token(entry: bytes) -> bool:
    return any(n == 1 and entry[start:end] == _TOKEN_KEY_BYTES for n, _, start, end in fields(entry))


def fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """For each field: its number, and the offsets of its tag, of its value and of its end."""
    at = 0
    while at < len(message):
        tag, start = _varint(message, at)
        match tag & 7:
            case 0:
                _, end = _varint(message, start)
            case 1:
                end = start + 8
            case 2:
                length, start = _varint(message, start)
                end = start + length
            case 5:
                end = start + 4
            case other:
                raise InvalidRequest(f"malformed protobuf: wire type {other}")
        if end > len(message):
            raise InvalidRequest("malformed protobuf: a field is longer than its message")
        yield tag >> 3, at, start, end
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message):
            raise InvalidRequest("malformed protobuf: it ends inside a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def field(number: int, value: bytes) -> bytes:
    """Encode a length-delimited protobuf field."""
    return _encode_varint(number << 3 | _BYTES) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """Decode a message of this kind. Raises InvalidRequest."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidRequest(f"malformed {kind.__name__}: not valid protobuf") from error
