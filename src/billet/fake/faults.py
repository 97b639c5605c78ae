"""Faults on command: which call fails, how, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from billet.core.errors import Code, InvalidRequest


class FaultKind(StrEnum):
    """Kinds of faults. "Accepted": the method has done its work, such as saving a microVM."""

    REFUSE = "refuse"  # answered at once with `code` and `text`; nothing is done
    REFUSE_AFTER_ACCEPT = "refuse_after_accept"  # done, but answered with `code` and `text`
    HANG = "hang"  # never answered, nothing is done; ends when the client gives up
    HANG_AFTER_ACCEPT = "hang_after_accept"  # done, but never answered
    CUT_BEFORE_ACCEPT = "cut_before_accept"  # nothing is done, the client's TCP connection is closed
    CUT_AFTER_ACCEPT = "cut_after_accept"  # done, the client's TCP connection is closed before any reply
    SLOW = "slow"  # waits `delay_s`, then goes on as usual
    DIE = "die"  # the process ends at once, nothing is done
    DIE_AFTER_ACCEPT = "die_after_accept"  # done, then the process ends before any reply
    # containerd, beneath flintlockd. The first three stand until cleared, or until the process ends.
    CONTAINERD_DOWN = "containerd_down"  # every call fails, boots and removals are retried
    CONTAINERD_FULL = "containerd_full"  # the same for all that writes; Get and List say OK
    CONTAINERD_RESTARTED = "containerd_restarted"  # nothing hears of creates and Deletes until the next resync
    LOCKED = "locked"  # two writers met at one record; nothing is done
    LIST_RACE = "list_race"  # a List met a removal
    COMMIT_FAILS = "commit_fails"  # a create fails at its last step, and is not there
    COMMIT_UNCLEAR = "commit_unclear"  # the same answer, but it is there, and boots at the next resync
    PUBLISH_FAILS = "publish_fails"  # a create is there, and boots at the next resync
    # Not calls: the next boots and removals. A boot that always fails: the snapshotter is full, the image is missing.
    FAIL_BOOT = "fail_boot"  # fails, and is retried
    FAIL_DELETE = "fail_delete"  # the same for a removal
    DEAD_VMM = "dead_vmm"  # ends CREATED, though nothing runs
    LOSE_DELETE = "lose_delete"  # a Delete during the microVM's own boot is forgotten


ALWAYS = -1
STANDING = frozenset({FaultKind.CONTAINERD_DOWN, FaultKind.CONTAINERD_FULL, FaultKind.CONTAINERD_RESTARTED})
OF_BOOTS = frozenset({FaultKind.FAIL_BOOT, FaultKind.FAIL_DELETE, FaultKind.DEAD_VMM, FaultKind.LOSE_DELETE})


@dataclass(slots=True, eq=False)
class Fault:
    """A fault. `count`: number of calls to hit, -1 = all until cleared. `method`: "*" = any."""

    kind: FaultKind
    method: str = "CreateMicroVM"
    count: int = 1
    delay_s: float = 0.0
    text: str = "fault on command"
    code: int = Code.UNAVAILABLE

    def __post_init__(self) -> None:
        """Set what the kind alone decides."""
        if self.kind is FaultKind.LIST_RACE:
            self.method = "ListMicroVMs"
        if self.kind in STANDING:
            self.count = ALWAYS

    @classmethod
    def read(cls, document: object) -> Fault:
        """Parse a fault from JSON. Raises InvalidRequest with the reason."""
        if not isinstance(document, dict):
            raise InvalidRequest("a fault is a JSON object")
        if unknown := document.keys() - cls.__dataclass_fields__.keys():
            raise InvalidRequest(f"a fault has no {', '.join(sorted(unknown))}")
        try:
            kind = FaultKind(str(document.get("kind")))
        except ValueError:
            raise InvalidRequest(f"kind is one of {', '.join(FaultKind)}") from None
        fault = cls(**{**document, "kind": kind})
        if fault.count == 0 or fault.count < ALWAYS:
            raise InvalidRequest("count is 1 or more, or -1 for all")
        return fault


@dataclass
class Faults:
    """The active faults, oldest first."""

    _orders: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        self._orders.append(fault)

    def clear(self, kind: str = "") -> None:
        """Remove all faults, or those of one kind. Calls that hang already stay so."""
        self._orders = [fault for fault in self._orders if kind and fault.kind != kind]

    def take(self, method: str) -> Fault | None:
        """The fault that hits this call, if any. Counts it down."""
        return self._take(lambda fault: fault.kind not in STANDING | OF_BOOTS and fault.method in ("*", method))

    def stands(self, kind: FaultKind) -> bool:
        """Whether a fault of this kind is active."""
        return any(fault.kind == kind for fault in self._orders)

    @property
    def standing(self) -> list[str]:
        """The kinds of the active faults."""
        return [str(fault.kind) for fault in self._orders]

    def strikes(self, kind: FaultKind) -> bool:
        """Whether a fault OF_BOOTS hits this boot or removal. Counts it down."""
        return self._take(lambda fault: fault.kind == kind) is not None

    def _take(self, hits: Callable[[Fault], bool]) -> Fault | None:
        fault = next((fault for fault in self._orders if hits(fault)), None)
        if fault is not None and fault.count != ALWAYS:
            fault.count -= 1
            if fault.count == 0:
                self._orders.remove(fault)
        return fault
