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
    FAIL_BOOT = "fail_boot"  # not a call: the next boot attempts fail and are retried


ALWAYS = -1


@dataclass(slots=True, eq=False)
class Fault:
    """A fault. `count`: number of calls to hit, -1 = all until cleared. `method`: "*" = any."""

    kind: FaultKind
    method: str = "CreateMicroVM"
    count: int = 1
    delay_s: float = 0.0
    text: str = "fault on command"
    code: int = Code.UNAVAILABLE

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

    def clear(self) -> None:
        """Remove all faults. Calls that hang already stay so."""
        self._orders.clear()

    def take(self, method: str) -> Fault | None:
        """The fault that hits this call, if any. Counts it down."""
        return self._take(lambda fault: fault.kind != FaultKind.FAIL_BOOT and fault.method in ("*", method))

    @property
    def standing(self) -> list[str]:
        """The kinds of the active faults."""
        return [str(fault.kind) for fault in self._orders]

    def boot_fails(self) -> bool:
        """Whether this boot attempt must fail. Counts the fault down."""
        return self._take(lambda fault: fault.kind == FaultKind.FAIL_BOOT) is not None

    def _take(self, hits: Callable[[Fault], bool]) -> Fault | None:
        fault = next((fault for fault in self._orders if hits(fault)), None)
        if fault is not None and fault.count != ALWAYS:
            fault.count -= 1
            if fault.count == 0:
                self._orders.remove(fault)
        return fault
