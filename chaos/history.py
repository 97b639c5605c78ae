"""The history of client calls, and the final state of the fleet: plain values, for the checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """The calls that clients make."""

    CREATE = "create"
    DELETE = "delete"
    GET = "get"
    LIST = "list"


OK = "OK"


@dataclass(slots=True)
class Op:
    """One call of one client. Times are seconds of one monotonic clock."""

    kind: Kind
    server: str
    begun_s: float
    name: str = ""  # of the microVM to create; no two creates share one
    uid: str = ""  # of the microVM: asked for, or answered
    ended_s: float = 0.0  # 0 = no answer yet
    code: str = ""  # "OK" or gRPC's name of the code
    text: str = ""
    listed: frozenset[str] = frozenset()  # uids
    stale_s: float = 0.0  # how old the answer says that it is, for one that was given without a leader

    @property
    def ok(self) -> bool:
        """Whether it was answered, and well."""
        return self.code == OK

    @property
    def said_gone(self) -> bool:
        """Whether the answer has the words after which clients create a microVM again."""
        return not self.ok and ("not found" in self.text or self.code == "NOT_FOUND")


@dataclass(frozen=True, slots=True)
class Vm:
    """One microVM as its host shows it."""

    uid: str
    name: str
    vcpu: int
    memory_mib: int
    state: str


@dataclass(frozen=True, slots=True)
class Promise:
    """One placement as the servers tell it."""

    uid: str
    name: str
    host: str
    state: str


@dataclass(frozen=True, slots=True)
class Room:
    """What a host has and what the ledger counts as taken, in vCPU and MiB."""

    allocatable: tuple[int, int]
    taken: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one host showed at one moment."""

    at_s: float  # when it was asked
    host: str
    vms: Sequence[Vm]
    ended_s: float = 0.0  # when it answered


@dataclass(frozen=True, slots=True)
class Look:
    """All placements as the servers told them at one moment."""

    at_s: float
    promises: Sequence[Promise]


@dataclass(slots=True)
class World:
    """What is there once all faults are healed and all has come to rest."""

    hosts: Mapping[str, Sequence[Vm]]
    promises: Sequence[Promise]
    rooms: Mapping[str, Room]
    listed: frozenset[str]
    got: Mapping[str, Op]  # one Get for each uid that a client knows
    fallen: Sequence[str] = ()  # processes that ended though nobody ended them
    unnoticed: Sequence[str] = ()  # copied identities that the servers did not notice
    unrest: str = ""  # why it had not come to rest in time, "" when it had


@dataclass(slots=True)
class History:
    """All calls of a run, in the order of their beginnings, and what hosts and servers showed meanwhile."""

    ops: list[Op] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def of(self, kind: Kind) -> list[Op]:
        """The calls of one kind."""
        return [op for op in self.ops if op.kind is kind]
