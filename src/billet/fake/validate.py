"""flintlockd's struct validation: which fields it refuses, and with which texts.

Every rule that fails adds one line; a field shows only its first failing tag. The field names in the lines are those
of Flintlock's own structs, not of the protobuf.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

from billet.wire.pb import flintlock_types_pb2 as types

VCPU_MAX = 64
MEMORY_MIN_MIB, MEMORY_MAX_MIB = 1024, 32768

_DEVICE = re.compile(r"[a-z][a-z0-9_]*")
_MAC_BYTES = (6, 8, 20)
# What Go accepts between the slashes of a URL as host and port, which is what containerd makes of a reference.
_HOST = re.compile(r"""(?:\[[0-9A-Fa-f:.]+\]|(?:[\w.~!$&'()*+,;=<>"-]|[^\x00-\x7f])+)(?::[0-9]*)?""")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def failures(spec: types.MicroVMSpec) -> list[str]:
    """One line for each invalid field; empty for a valid spec. Defaults must be set already."""
    return [
        *_kernel(spec.kernel),
        *_initrd(spec),
        *_range("VCPU", spec.vcpu, 1, VCPU_MAX),
        *_range("MemoryInMb", spec.memory_in_mb, MEMORY_MIN_MIB, MEMORY_MAX_MIB),
        *_interfaces(spec.interfaces),
        *_volumes(spec),
    ]


def is_reference(image: str) -> bool:
    """Whether containerd takes this for the name of an image: a host, then anything that a URL may have."""
    if "://" in image or any(ord(char) < 0x20 or ord(char) == 0x7F for char in image):
        return False
    authority = re.split(r"[/?#]", image, maxsplit=1)[0].rpartition("@")[2]
    return _HOST.fullmatch(authority) is not None and not _BAD_ESCAPE.search(image)


def is_empty(kernel: types.Kernel) -> bool:
    """Whether the kernel is wholly empty, which flintlockd accepts (a poison pill)."""
    return not (kernel.image or kernel.filename or kernel.cmdline or kernel.add_network_config)


def is_zero(volume: types.Volume) -> bool:
    """Whether the volume is wholly empty."""
    return not (
        volume.id
        or volume.is_read_only
        or volume.mount_point
        or volume.partition_id
        or volume.size_in_mb
        or volume.source.HasField("container_source")
        or volume.source.HasField("virtiofs_source")
    )


def _line(path: str, tag: str) -> str:
    name = path.rpartition(".")[2]
    return f"Key: 'MicroVM.Spec.{path}' Error:Field validation for '{name}' failed on the '{tag}' tag"


def _kernel(kernel: types.Kernel) -> Iterator[str]:
    if is_empty(kernel):
        return
    if not kernel.image:
        yield _line("Kernel.Image", "required")
    elif not is_reference(kernel.image):
        yield _line("Kernel.Image", "imageURI")
    if not kernel.filename:
        yield _line("Kernel.Filename", "required")


def _initrd(spec: types.MicroVMSpec) -> Iterator[str]:
    if spec.HasField("initrd") and not is_reference(spec.initrd.image):
        yield _line("Initrd.Image", "imageURI")


def _range(name: str, value: int, low: int, high: int) -> Iterator[str]:
    if value < low:
        yield _line(name, "gte")
    elif value > high:
        yield _line(name, "lte")


def _interfaces(interfaces: Sequence[types.NetworkInterface]) -> Iterator[str]:
    if not interfaces:
        yield _line("NetworkInterfaces", "required")
    for index, nic in enumerate(interfaces):
        yield from _interface(f"NetworkInterfaces[{index}]", nic)


def _interface(path: str, nic: types.NetworkInterface) -> Iterator[str]:
    if not nic.device_id:
        yield _line(f"{path}.GuestDeviceName", "required")
    elif any(char in "/@" for char in nic.device_id):
        yield _line(f"{path}.GuestDeviceName", "excludesall")
    elif not _DEVICE.fullmatch(nic.device_id):
        yield _line(f"{path}.GuestDeviceName", "guestDeviceName")
    if nic.guest_mac and not _is_mac(nic.guest_mac):
        yield _line(f"{path}.GuestMAC", "mac")
    if nic.type not in (types.NetworkInterface.MACVTAP, types.NetworkInterface.TAP):
        yield _line(f"{path}.Type", "oneof")
    if nic.HasField("address"):
        yield from _address(f"{path}.StaticAddress", nic.address)


def _address(path: str, address: types.StaticAddress) -> Iterator[str]:
    if not _is_cidr(address.address):
        yield _line(f"{path}.Address", "cidr")
    if address.HasField("gateway") and not _is_cidr(address.gateway):
        yield _line(f"{path}.Gateway", "cidr")
    for index, server in enumerate(address.nameservers):
        if not _is_ip(server):
            yield _line(f"{path}.Nameservers[{index}]", "ip")


def _volumes(spec: types.MicroVMSpec) -> Iterator[str]:
    if spec.root_volume.source.HasField("virtiofs_source"):
        yield _line("RootVolume", "novirtiofs")
    sources = [volume.source for volume in spec.additional_volumes]
    if sum(source.HasField("virtiofs_source") for source in sources) > 1:
        yield _line("AdditionalVolumes", "onlyOneVirtioFS")
    elif any(source.HasField("virtiofs_source") and source.HasField("container_source") for source in sources):
        yield _line("AdditionalVolumes", "multipleVolSources")
    if not spec.HasField("initrd") and is_zero(spec.root_volume):
        yield _line("root_volume", "volumeOrInitrdRequired")


def _is_mac(text: str) -> bool:
    """Go's forms: aa:bb:.., aa-bb-.. and aabb.ccdd.., of 6, 8 or 20 bytes."""
    for separator, digits in ((":", 2), ("-", 2), (".", 4)):
        groups = text.split(separator)
        if all(re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", group) for group in groups):
            return len(groups) * digits // 2 in _MAC_BYTES
    return False


def _is_cidr(text: str) -> bool:
    address, slash, bits = text.partition("/")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    return bool(slash) and bits.isdecimal() and int(bits) <= ip.max_prefixlen


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
