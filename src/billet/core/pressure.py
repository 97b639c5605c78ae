"""A host's pressure: from the stalls that its kernel measures, and from promised room that is not really free."""

from __future__ import annotations

from typing import NamedTuple

HALF_LIFE_S = 10.0  # age at which a measured stall counts half
TOLERATED = 0.1  # share of the room counted as free that may be missing without pressure


class Stalls(NamedTuple):
    """Shares of time, 0 to 1, in which a task waited for CPU, memory or IO; None if the kernel cannot tell."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


NO_STALLS = Stalls()


def smoothed(before: float, newest: float, span_s: float) -> float:
    """The exponentially weighted mean after `span_s` in which `newest` was measured, with half-life HALF_LIFE_S."""
    kept: float = 0.5 ** (span_s / HALF_LIFE_S)
    return newest + (before - newest) * kept


def squeeze(promised_mib: int, truly_free_mib: int | None) -> float | None:
    """The share of the room counted as free that is not really free: 0 = none, 1 = all of it; None = unknown.

    squeeze = 1 - truly free / (0.9 x counted as free), limited to 0 to 1. Guests rarely use all of their memory, so a
    healthy host has more free than its ledger counts.
    """
    if truly_free_mib is None:
        return None
    wanted_mib = (1.0 - TOLERATED) * promised_mib
    return min(1.0, max(0.0, 1.0 - truly_free_mib / wanted_mib)) if wanted_mib > 0 else 0.0


def backed_mib(free_mib: int, capacity_mib: int, allocatable_mib: int) -> int:
    """The part of the room counted as free that the machine should really have.

    An allocation ratio above 1 promises more than the machine has, because not all of it is used at once. The
    difference is no pressure.
    """
    return free_mib * capacity_mib // allocatable_mib if allocatable_mib > capacity_mib else free_mib


def felt(stalls: Stalls, memory: tuple[int, int | None], volumes: tuple[int, int | None]) -> float | None:
    """The pressure in a bid: the highest of all known parts, None if none is known.

    `memory` and `volumes` are MiB: free by the ledger's count, and truly free.
    """
    known = [part for part in (*stalls, squeeze(*memory), squeeze(*volumes)) if part is not None]
    return max(known, default=None)
