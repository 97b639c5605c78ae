"""The plan and the results of a benchmark: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

PER_HOST_MAX = 1000  # an agent's default --max-vms; more on one host is no case from life
STORES = ("sqlite", "etcd")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the run was asked for. `creates` is of one run; runs with one in flight make a third of it."""

    hosts: list[int]
    in_flight: list[int]
    stores: list[str]
    placed: list[int]
    creates: int
    repeats: int
    link_tls: bool
    fake_grpc: str

    def fleets(self) -> list[Fleet]:
        """Every cluster that is to be measured, the small ones first."""
        return [
            Fleet(hosts, placed, store)
            for hosts in self.hosts
            for placed in self.placed
            if placed <= hosts * PER_HOST_MAX
            for store in self.stores
        ]


class Fleet(NamedTuple):
    """One cluster: so many hosts, with so many microVMs on them before the measurement."""

    hosts: int
    placed: int
    store: str


class Run(msgspec.Struct, frozen=True):
    """One run that a client is to make: this many creates against one address."""

    target: str  # "billet" or "floor"
    address: str
    in_flight: int
    creates: int
    warm_up: int  # creates before the clock starts


class Plan(msgspec.Struct, frozen=True):
    """Everything that a client does on one fleet. `pids`: the processes whose CPU counts, by target and part."""

    runs: list[Run]
    pids: dict[str, dict[str, int]]


class Measured(msgspec.Struct, frozen=True):
    """What a client says after each run. CPU in seconds, by part, user and system."""

    run: Run
    seconds: float
    latencies_ms: list[float]
    cpu_s: dict[str, float]


class Figures(msgspec.Struct, frozen=True):
    """Medians over the repeats; p99 of all their creates together. CPU in milliseconds per create, by part."""

    creates_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]


class Case(msgspec.Struct, frozen=True):
    """One line of the table: Billet, and the floor as it was in the same minutes."""

    hosts: int
    placed: int
    store: str
    in_flight: int
    creates: int  # of all repeats together
    billet: Figures
    floor: Figures
    rate_to_floor: float  # of creates per second: below 1, Billet does less than a bare flintlockd
    p50_to_floor: float  # above 1, a create takes longer than on a bare flintlockd


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    cores: int
    cpu: str
    system: str
    python: str
    grpcio: str
    measured_at: str


class Report(msgspec.Struct, frozen=True):
    """The JSON that a run leaves."""

    machine: Machine
    settings: dict[str, object]
    cases: list[Case]
