"""What the demo runs: the hosts' sizes, the microVMs' shapes, and the static list's choice. Values only."""

from __future__ import annotations

import base64
import math
import random
import zlib
from typing import NamedTuple

from billet.wire.pb.flintlock_types_pb2 import Kernel, MicroVMSpec, NetworkInterface, Volume, VolumeSource

NAMESPACE = "demo"
HOST_VCPU = (8, 16, 24, 32, 40)  # a fleet that has grown over the years; further hosts begin again
MIB_PER_VCPU = (4096, 2048, 4096, 4096, 2048)
FILL = 0.85  # of all vCPUs at most; where --create wants more, every host gets bigger
SHAPES = ((1, 2048), (2, 4096), (4, 4096))  # vCPU and MiB: small ones, a few middle ones, the odd large one
SHAPE_WEIGHTS = (60, 30, 10)
LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # what Kubernetes draws the ends of names from


class HostSize(NamedTuple):
    """One host of the demo."""

    id: str
    vcpu: int
    memory_mib: int
    disk_mib: int


class Shape(NamedTuple):
    """One microVM of the demo."""

    name: str
    vcpu: int
    memory_mib: int


def draw_shapes(count: int, seed: int) -> list[Shape]:
    """The microVMs, the same for the same seed, with names as a Cluster API MachineDeployment gives them."""
    chance = random.Random(seed)
    made: dict[str, Shape] = {}
    while len(made) < count:
        name = "web-md-0-" + "".join(chance.choices(LETTERS, k=5))
        vcpu, memory_mib = chance.choices(SHAPES, SHAPE_WEIGHTS)[0]
        made.setdefault(name, Shape(name, vcpu, memory_mib))
    return list(made.values())


def host_sizes(count: int, wanted_vcpu: int) -> list[HostSize]:
    """The hosts, big enough that the microVMs fill them to `FILL` and no further."""
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
    """The host that a static list gives to a name, as Cluster API's provider for microVMs does it: crc32 % N."""
    return zlib.crc32(name.encode()) % hosts


def spec_of(shape: Shape) -> MicroVMSpec:
    """The request's spec, as a client of Flintlock writes it."""
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
