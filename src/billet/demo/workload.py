"""The demo's workload: host sizes, microVM sizes, and the choice of the static list. Pure functions."""

from __future__ import annotations

import base64
import math
import random
import zlib
from typing import NamedTuple

from billet.wire.pb.flintlock_types_pb2 import Kernel, MicroVMSpec, NetworkInterface, Volume, VolumeSource

NAMESPACE = "demo"
HOST_VCPU = (8, 16, 24, 32, 40)  # a fleet that has grown over the years; repeated for further hosts
MIB_PER_VCPU = (4096, 2048, 4096, 4096, 2048)
FILL = 0.85  # maximum share of all vCPUs in use; with a larger --create, every host becomes larger
SHAPES = ((1, 2048), (2, 4096), (4, 4096))  # vCPU and MiB: small, medium and large
SHAPE_WEIGHTS = (60, 30, 10)
LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # the alphabet of Kubernetes' name suffixes


class HostSize(NamedTuple):
    """Name and size of one host."""

    id: str
    vcpu: int
    memory_mib: int
    disk_mib: int


class Shape(NamedTuple):
    """Name and size of one microVM."""

    name: str
    vcpu: int
    memory_mib: int


def draw_shapes(count: int, seed: int) -> list[Shape]:
    """Draw microVMs from the seed, with names like those of a Cluster API MachineDeployment."""
    chance = random.Random(seed)
    shapes: dict[str, Shape] = {}
    while len(shapes) < count:
        name = "web-md-0-" + "".join(chance.choices(LETTERS, k=5))
        vcpu, memory_mib = chance.choices(SHAPES, SHAPE_WEIGHTS)[0]
        shapes.setdefault(name, Shape(name, vcpu, memory_mib))
    return list(shapes.values())


def host_sizes(count: int, wanted_vcpu: int) -> list[HostSize]:
    """Hosts that are large enough for `wanted_vcpu` to use at most FILL of them."""
    vcpu = [HOST_VCPU[n % len(HOST_VCPU)] for n in range(count)]
    factor = max(1, math.ceil(wanted_vcpu / FILL / sum(vcpu)))
    return [
        HostSize(
            id=f"host-{n + 1}",
            vcpu=size * factor,
            memory_mib=size * factor * MIB_PER_VCPU[n % len(MIB_PER_VCPU)],
            disk_mib=500 * 1024,
        )
        for n, size in enumerate(vcpu)
    ]


def static_choice(name: str, hosts: int) -> int:
    """Index of the host that a static list gives to a name: crc32 % N, as Cluster API's microVM provider does."""
    return zlib.crc32(name.encode()) % hosts


def spec_of(shape: Shape) -> MicroVMSpec:
    """The MicroVMSpec of a microVM, as a Flintlock client would send it."""
    user_data = base64.b64encode(f"#cloud-config\nhostname: {shape.name}\n".encode()).decode()
    root = Volume(id="root", source=VolumeSource(container_source="ghcr.io/liquidmetal-dev/capmvm-k8s-os:1.23.5"))
    return MicroVMSpec(
        id=shape.name,
        namespace=NAMESPACE,
        labels={"cluster-name": "web"},
        vcpu=shape.vcpu,
        memory_in_mb=shape.memory_mib,
        kernel=Kernel(image="ghcr.io/liquidmetal-dev/kernel-bin:5.10.77", filename="boot/vmlinux"),
        root_volume=root,
        interfaces=[NetworkInterface(device_id="eth1", type=NetworkInterface.TAP)],
        metadata={"user-data": user_data},
    )
