"""The plan and the results of a benchmark: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from billet.client import Address
from billet.grpc.engine import GRPCIO, OWN

PER_HOST_MAX = 1000  # an agent's default --max-vms; more on one host is no case from life
STORES = ("sqlite", "etcd")
FLOORS = (GRPCIO, OWN)  # one bare fake flintlockd on each implementation of gRPC
BILLET, OTHER = "billet", "other"
REST = "rest"  # of a create's time: the client, gRPC, and all that comes before the auction and after it
WARM_UP = 20  # creates at least, before each run
ONE_IN_FLIGHT_SHARE = 3  # runs with one in flight make a third of the creates: they take the longest


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
    agents_per_process: int
    burst: int  # 0 = no burst
    busy_loops: int
    silent_hosts: int
    against: str  # endpoint of another Flintlock, "" = none

    def fleets(self) -> list[Fleet]:
        """Every cluster that is to be measured, the small ones first. A burst comes to an untouched one each time."""
        return [
            Fleet(hosts, placed, store)
            for hosts in self.hosts
            for placed in self.placed
            if placed <= hosts * PER_HOST_MAX
            for store in self.stores
        ] * (self.repeats if self.burst else 1)

    def loads(self) -> list[Load]:
        """What one fleet gets, one load after the other."""
        if self.burst:
            return [Load(self.burst, self.burst, 0)]
        return [self._load(in_flight) for in_flight in self.in_flight] * self.repeats

    def _load(self, in_flight: int) -> Load:
        share = ONE_IN_FLIGHT_SHARE if in_flight == 1 else 1
        return Load(in_flight, max(self.creates // share, 1), max(min(WARM_UP, self.creates), in_flight))


class Fleet(NamedTuple):
    """One cluster: so many hosts, with so many microVMs on them before the measurement."""

    hosts: int
    placed: int
    store: str


class Load(NamedTuple):
    """So many creates, so many at once."""

    in_flight: int
    creates: int
    warm_up: int  # creates before the clock starts


class Target(msgspec.Struct, frozen=True):
    """An endpoint that gets the load. `pids`: the processes whose CPU counts, by part."""

    name: str
    address: Address
    pids: dict[str, list[int]] = {}


class Plan(msgspec.Struct, frozen=True):
    """Everything that a client does on one fleet: each load goes to every target in turn.

    `name` is the beginning of its microVMs' names. `silent`: processes that stand still while Billet is measured.
    """

    name: str
    targets: list[Target]
    loads: list[Load]
    silent: list[int]


class Seen(msgspec.Struct, frozen=True):
    """What Billet says of a run afterwards: of its hosts, and of each auction."""

    vms: list[int]  # on each host
    ages_ms: list[list[float]]  # of the bids that each auction was decided on; 0 = the host has answered the call
    legs_ms: dict[str, list[float]]  # of each create


class Measured(msgspec.Struct, frozen=True):
    """What a client says after each run. CPU in seconds, by part, user and system.

    `failed`: creates that ended UNAVAILABLE, which is allowed only while hosts are silent.
    """

    target: str
    load: Load
    seconds: float
    latencies_ms: list[float]
    cpu_s: dict[str, float]
    failed: int
    seen: Seen | None = None  # only of Billet


class Figures(msgspec.Struct, frozen=True):
    """Medians over the repeats; p99 of all their creates together. CPU in milliseconds per create, by part."""

    creates_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float]


class Auctions(msgspec.Struct, frozen=True):
    """How Billet has placed the microVMs of a case, and on what it has decided."""

    least: int  # microVMs on a host at the end of the run whose CoV is the highest; these three are of that run
    most: int
    cov: float  # of the hosts' numbers of microVMs; 0 = all equal
    few_bids_share: float  # auctions that were decided on fewer than FEW bids
    age_p50_ms: float  # of the bids that auctions were decided on; 0 = the host has answered the call
    age_p99_ms: float
    legs_ms: dict[str, float]  # medians


class Beside(msgspec.Struct, frozen=True):
    """Another target as it was in the same minutes, and the medians of Billet's ratios to it."""

    figures: Figures
    rate_ratio: float  # of creates per second: below 1, Billet does less
    p50_ratio: float  # above 1, a create through Billet takes longer


class Case(msgspec.Struct, frozen=True):
    """One line of the tables: Billet, and the other targets by name."""

    hosts: int
    placed: int
    store: str
    in_flight: int
    creates: int  # of all repeats together
    failed: int  # UNAVAILABLE, because a host fell silent with an order
    billet: Figures
    auctions: Auctions
    beside: dict[str, Beside]


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
