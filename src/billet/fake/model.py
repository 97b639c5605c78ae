"""The steps of flintlockd's CreateMicroVM, in its order, as pure functions.

A spec is changed where flintlockd changes it and otherwise left as it came, unknown fields included.
"""

from __future__ import annotations

import unicodedata
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

import yaml

from billet.core.errors import Code, HostVerdict
from billet.fake import names
from billet.fake.settings import PROVIDERS
from billet.fake.validate import failures, is_empty, is_zero
from billet.wire.flintlock import DEFAULT_MEMORY_MIB, DEFAULT_NAMESPACE, DEFAULT_VCPU, NO_SPEC
from billet.wire.flintlock import field as encode_field
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from billet.wire.poison import NO_NAME

PENDING = types.MicroVMStatus.PENDING
CREATED = types.MicroVMStatus.CREATED
FAILED = types.MicroVMStatus.FAILED
DELETING = types.MicroVMStatus.DELETING

INVALID_SPEC = "an error occurred when attempting to validate microvm spec: validation failures found"

META_DATA = "meta-data"
INSTANCE_ID = "instance_id"
METADATA_NIC, METADATA_ADDRESS, METADATA_MAC = "eth0", "169.254.0.1/16", "AA:FF:00:00:00:01"

# Which providers can do what. Both have vsock, so a guest agent is refused by neither.
_MACVTAP = frozenset({"cloudhypervisor"})
_VIRTIOFS = frozenset({"cloudhypervisor"})
_METADATA_SERVICE = frozenset({"firecracker"})


class Panic(Exception):
    """flintlockd dereferences nil: the process dies, and no client gets an answer."""


@dataclass(slots=True)
class StoredMicroVm:
    """A microVM on this host: the message for clients, and flintlockd's own data."""

    vm: types.MicroVM
    provider: str
    poisoned: bool = False  # no kernel: its boot will panic
    accepted_s: float = field(default=0.0, compare=False)  # monotonic clock; 0 = before this process started
    _spec: bytes = field(default=b"", compare=False)  # encoded

    @property
    def uid(self) -> str:
        """The host's ULID."""
        return self.vm.spec.uid

    def reply(self) -> bytes:
        """A reply with this microVM: the message of Create, Get and ListStream, and of List for one of many.

        Its spec, which never changes, may be large: it is encoded once. Parts of one message may stand apart.
        """
        if not self._spec:
            self._spec = types.MicroVM(spec=self.vm.spec).SerializeToString()
        rest = types.MicroVM(version=self.vm.version, status=self.vm.status).SerializeToString()
        return encode_field(1, self._spec + rest)


def accept(request: rpc.CreateMicroVMRequest, uid: str, default_provider: str) -> StoredMicroVm:
    """Create a microVM from a request: PENDING, version 1. Raises HostVerdict or Panic."""
    if not request.HasField("microvm"):
        raise HostVerdict(Code.INVALID_ARGUMENT, NO_SPEC)
    spec = types.MicroVMSpec()
    spec.CopyFrom(request.microvm)
    clean_images(spec)
    convert(spec)
    if lines := failures(spec):
        text = "\n".join(lines)
        raise _refuse(f"{INVALID_SPEC}: {text}")
    provider = spec.provider or default_provider
    if provider not in PROVIDERS:
        raise _refuse(f"microvm provider {provider} isn't available")
    check_capabilities(spec, provider)
    poisoned = is_empty(spec.kernel)
    set_instance_id(spec, uid)
    if text := names.refusal(spec):
        raise _refuse(text)
    if provider in _METADATA_SERVICE:
        add_metadata_nic(spec)
    show(spec, uid)
    return StoredMicroVm(
        types.MicroVM(version=1, spec=spec, status=types.MicroVMStatus(state=PENDING)), provider, poisoned
    )


def clean_images(spec: types.MicroVMSpec) -> None:
    """Trim image references, and remove control characters."""
    if spec.HasField("kernel"):
        spec.kernel.image = _clean(spec.kernel.image)
    if spec.HasField("initrd"):
        spec.initrd.image = _clean(spec.initrd.image)
    volumes = [spec.root_volume] if spec.HasField("root_volume") else []
    for volume in [*volumes, *spec.additional_volumes]:
        if volume.source.HasField("container_source"):
            volume.source.container_source = _clean(volume.source.container_source)


def _clean(image: str) -> str:
    return "".join(char for char in image.strip() if unicodedata.category(char) != "Cc")


def convert(spec: types.MicroVMSpec) -> None:
    """Check the name, and set namespace and defaults. Raises Panic for an override without a bridge."""
    if not spec.id:
        raise HostVerdict(Code.UNKNOWN, NO_NAME)
    spec.namespace = spec.namespace or DEFAULT_NAMESPACE
    spec.vcpu = spec.vcpu or DEFAULT_VCPU
    spec.memory_in_mb = spec.memory_in_mb or DEFAULT_MEMORY_MIB
    if any(nic.HasField("overrides") and not nic.overrides.HasField("bridge_name") for nic in spec.interfaces):
        raise Panic("interfaces[].overrides without bridge_name")


def check_capabilities(spec: types.MicroVMSpec, provider: str) -> None:
    """Refuse features that the provider lacks."""
    if provider not in _MACVTAP and any(nic.type == types.NetworkInterface.MACVTAP for nic in spec.interfaces):
        raise _refuse("macvtap network interfaces not supported by the microvm provider")
    if provider not in _VIRTIOFS and any(v.source.HasField("virtiofs_source") for v in spec.additional_volumes):
        raise _refuse("virtiofs volumes not supported by the microvm provider")


def set_instance_id(spec: types.MicroVMSpec, uid: str) -> None:
    """Add the uid to the meta-data as instance_id, unless it has one."""
    data: dict[str, str] = {}
    if meta := spec.metadata.get(META_DATA, ""):
        data = _read_meta_data(meta)
    if data.get(INSTANCE_ID):
        return
    text = yaml.safe_dump(data | {INSTANCE_ID: uid}, default_flow_style=False, allow_unicode=True)
    spec.metadata[META_DATA] = b64encode(text.encode()).decode("ascii")


def _read_meta_data(value: str) -> dict[str, str]:
    # Go's decoder skips line breaks and nothing else.
    try:
        text = b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError as error:
        raise _refuse(f"adding instance data: decoding existing instance metadata: {error}") from error
    failed = "adding instance data: unmarshalling exists instance metadata"
    try:
        data = yaml.load(text, Loader=yaml.BaseLoader)  # builds strings, lists and dicts only
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _refuse(f"{failed}: {' '.join(str(error).split())}") from error
    if data in (None, ""):
        return {}
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise _refuse(f"{failed}: cannot unmarshal it into a map of strings")
    return data


def add_metadata_nic(spec: types.MicroVMSpec) -> None:
    """Insert eth0 first, for Firecracker's metadata service, unless there is an eth0."""
    if any(nic.device_id == METADATA_NIC for nic in spec.interfaces):
        return
    others = list(spec.interfaces)
    nic = types.NetworkInterface(device_id=METADATA_NIC, type=types.NetworkInterface.TAP, guest_mac=METADATA_MAC)
    nic.address.address = METADATA_ADDRESS
    del spec.interfaces[:]
    spec.interfaces.extend([nic, *others])


def show(spec: types.MicroVMSpec, uid: str) -> None:
    """The spec as flintlockd returns it: with its own uid, some fields always set, others never."""
    spec.uid = uid
    for name in ("labels", "provider", "created_at", "updated_at", "deleted_at"):
        spec.ClearField(name)
    spec.kernel.filename = spec.kernel.filename
    if spec.HasField("initrd"):
        spec.initrd.filename = spec.initrd.filename
    if is_zero(spec.root_volume):
        spec.ClearField("root_volume")
    for volume in [*([spec.root_volume] if spec.HasField("root_volume") else []), *spec.additional_volumes]:
        volume.ClearField("mount_point")
        volume.partition_id = volume.partition_id
        volume.size_in_mb = volume.size_in_mb
        volume.source.SetInParent()
    for nic in spec.interfaces:
        nic.ClearField("overrides")
        nic.guest_mac = nic.guest_mac


def images(spec: types.MicroVMSpec) -> list[str]:
    """The images that a boot needs, in the order of the mounts."""
    volumes = [spec.root_volume, *spec.additional_volumes]
    wanted = [volume.source.container_source for volume in volumes]
    return [image for image in dict.fromkeys([*wanted, spec.kernel.image, spec.initrd.image]) if image]


def run(vm: types.MicroVM) -> None:
    """CREATED: the VMM's process lives, and the status shows what was mounted and plugged."""
    spec, status = vm.spec, vm.status
    home = f"/var/lib/flintlock/vm/{spec.namespace}/{spec.id}/{spec.uid}"
    for index, volume in enumerate([spec.root_volume, *spec.additional_volumes]):
        if volume.source.HasField("container_source"):
            mount = status.volumes[volume.id].mount
            mount.type, mount.source = types.Mount.DEV, f"/dev/mapper/flintlock-dev-thinpool-snap-{index + 1}"
    status.kernel_mount.type, status.kernel_mount.source = types.Mount.HOSTPATH, f"{home}/kernel"
    if spec.HasField("initrd"):
        status.initrd_mount.type, status.initrd_mount.source = types.Mount.HOSTPATH, f"{home}/initrd"
    for index, nic in enumerate(spec.interfaces):
        plugged = status.network_interfaces[nic.device_id]
        plugged.host_device_name = f"fltap{spec.uid[-6:].lower()}{index}"
        plugged.index = index + 1
        plugged.mac_address = nic.guest_mac
    if spec.allow_guest_agent:
        status.vsock_path = f"{home}/guest-agent.vsock"
    status.state = CREATED


def unknown_uid(uid: str) -> str:
    """flintlockd's text for an unknown microVM."""
    return f"microvm spec //{uid} not found"


def _refuse(text: str) -> HostVerdict:
    return HostVerdict(Code.UNKNOWN, f"creating microvm: {text}")
