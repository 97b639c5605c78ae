"""Generate placement workloads: a fleet of unequal hosts, and a stream of creates and deletes.

Every workload has three phases, each of which ends with a mark where the balance is measured:

1. *filled*: creates until the demand reaches 70 % of the tighter resource (vCPU or memory, of the whole fleet).
2. *churned*: half as many times as there are microVMs, one delete and then creates until 70 % is reached again.
3. *surged*: creates until the demand reaches 110 %.

The generator does not place anything: a microVM that a rule refuses later still counts as demand here, so every rule
gets the same stream. A workload depends on its shape, number of hosts and seed alone; `random.Random` draws the same
numbers on every Python version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

MIB_PER_GIB = 1024
ZONES = 3
FILL, CHURN, SURGE = 0.70, 0.5, 1.10


class HostType(NamedTuple):
    """A machine that a fleet may contain, and how often: weights are relative."""

    weight: int
    vcpu: int
    memory_gib: int


HOST_TYPES = (
    # 4 GiB for each vCPU
    HostType(20, 32, 128),
    HostType(15, 48, 192),
    HostType(20, 64, 256),
    HostType(10, 96, 384),
    HostType(10, 128, 512),
    # 2 or 8 GiB for each vCPU
    HostType(10, 64, 128),
    HostType(5, 32, 256),
    HostType(5, 64, 512),
    HostType(5, 128, 256),
)


class Shape(NamedTuple):
    """Distribution of microVM sizes. Each mapping is value -> weight; the two are drawn independently."""

    vcpu: dict[int, int]
    gib_per_vcpu: dict[int, int]


SHAPES = {
    "mix": Shape({1: 30, 2: 30, 4: 22, 8: 12, 16: 6}, {2: 30, 4: 45, 8: 25}),
    # The shares that clouds have published: mostly 1 and 2 vCPU, with a long tail.
    "small": Shape({1: 46, 2: 31, 4: 14, 8: 6, 16: 3}, {1: 20, 2: 40, 4: 25, 8: 15}),
}


class WorkloadId(NamedTuple):
    """What a workload depends on."""

    shape: str
    hosts: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its file, without the suffix."""
        return f"{self.shape}-H{self.hosts}-s{self.seed}"


class MicroVM(NamedTuple):
    """A microVM that the stream has created and not deleted."""

    name: str
    vcpu: int
    memory_mib: int


@dataclass
class Generator:
    """Draws one workload. The order of the draws is part of the format: do not change it."""

    id: WorkloadId
    hosts: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = Random(f"{self.id.shape}-{self.id.hosts}-{self.id.seed}")
        self._shape = SHAPES[self.id.shape]
        self._alive: list[MicroVM] = []
        self._created = self._vcpu = self._memory_mib = 0

    def generate(self) -> dict[str, Any]:
        """The workload as JSON has it. Sizes are vCPUs and MiB."""
        self._draw_hosts()
        self._create_until(FILL)
        self._mark("filled")
        for _ in range(int(CHURN * len(self._alive))):
            self._delete()
            self._create_until(FILL)
        self._mark("churned")
        self._create_until(SURGE)
        self._mark("surged")
        head = {"name": self.id.name, "seed": self.id.seed, "shape": self.id.shape}
        phases = {"fill": FILL, "churn": CHURN, "surge": SURGE}
        return {**head, **phases, "hosts": self.hosts, "events": self.events}

    def _draw_hosts(self) -> None:
        weights = [kind.weight for kind in HOST_TYPES]
        for n in range(self.id.hosts):
            kind = self._random.choices(HOST_TYPES, weights)[0]
            memory_mib = kind.memory_gib * MIB_PER_GIB
            self.hosts.append({"id": f"h{n:05d}", "zone": f"z{n % ZONES}", "vcpu": kind.vcpu, "mem_mib": memory_mib})
        self._fleet_vcpu = sum(host["vcpu"] for host in self.hosts)
        self._fleet_memory_mib = sum(host["mem_mib"] for host in self.hosts)

    def _create_until(self, share: float) -> None:
        """Create microVMs until the demand is at least this share of the tighter resource."""
        while max(self._vcpu / self._fleet_vcpu, self._memory_mib / self._fleet_memory_mib) < share:
            self._create()

    def _create(self) -> None:
        vcpu = self._weighted(self._shape.vcpu)
        memory_mib = vcpu * self._weighted(self._shape.gib_per_vcpu) * MIB_PER_GIB
        vm = MicroVM(f"v{self._created:06d}", vcpu, memory_mib)
        app = self._random.randrange(max(4, self.id.hosts // 2))  # a group of related microVMs; Billet ignores it
        self.events.append({"op": "create", "vm": vm.name, "vcpu": vcpu, "mem_mib": memory_mib, "app": f"a{app:04d}"})
        self._alive.append(vm)
        self._created += 1
        self._vcpu += vcpu
        self._memory_mib += memory_mib

    def _delete(self) -> None:
        """Delete a random microVM. The last one takes its place in the list."""
        n = self._random.randrange(len(self._alive))
        vm, self._alive[n] = self._alive[n], self._alive[-1]
        self._alive.pop()
        self.events.append({"op": "delete", "vm": vm.name})
        self._vcpu -= vm.vcpu
        self._memory_mib -= vm.memory_mib

    def _mark(self, name: str) -> None:
        self.events.append({"op": "mark", "name": name})

    def _weighted(self, weights: dict[int, int]) -> int:
        return self._random.choices(list(weights), list(weights.values()))[0]


def text(workload: WorkloadId) -> str:
    """The workload as one line of JSON, byte for byte what its file contains."""
    return json.dumps(Generator(workload).generate(), separators=(",", ":"))


def standard() -> Iterator[WorkloadId]:
    """Every workload that docs/lab/score-comparison.md reports on."""
    for shape in SHAPES:
        for hosts, seeds in ((10, 10), (100, 10), (1000, 1)):
            yield from (WorkloadId(shape, hosts, seed) for seed in range(1, seeds + 1))
