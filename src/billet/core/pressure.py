"""How a host feels: pressure from what its kernel measures, and from room that is promised and not there."""

from __future__ import annotations

from typing import NamedTuple

HALF_LIFE_S = 10.0  # of a stall in the smoothed share: what was measured so long ago counts half
TOLERATED = 0.1  # of the room that the ledger counts as free may be missing before it is felt


class Stalls(NamedTuple):
    """The shares of time, 0 to 1, in which some task waited for CPU, memory, IO; None where the kernel cannot say."""

    cpu: float | None = None
    memory: float | None = None
    io: float | None = None


NO_STALLS = Stalls()


def smoothed(before: float, newest: float, span_s: float) -> float:
    """An exponentially weighted mean after a span in which `newest` was measured; half of it is HALF_LIFE_S old."""
    kept: float = 0.5 ** (span_s / HALF_LIFE_S)
    return newest + (before - newest) * kept


def squeeze(promised_mib: int, truly_free_mib: int | None) -> float | None:
    """How much of the free room that the ledger counts is not there: 0 = none, 1 = all of it; None = not known.

    squeeze = 1 - truly free / (0.9 x counted as free), within 0 and 1. Guests seldom touch all of their memory, so
    that a sound host has more free than its ledger counts.
    """
    if truly_free_mib is None:
        return None
    wanted_mib = (1.0 - TOLERATED) * promised_mib
    return min(1.0, max(0.0, 1.0 - truly_free_mib / wanted_mib)) if wanted_mib > 0 else 0.0


def backed_mib(free_mib: int, capacity_mib: int, allocatable_mib: int) -> int:
    """How much of the free room that the ledger counts the machine is meant to have.

    An allocation ratio above 1 promises more than there is, in the hope that not all of it is used at once. That an
    empty host has not all of that is no pressure.
    """
    return free_mib * capacity_mib // allocatable_mib if allocatable_mib > capacity_mib else free_mib


def felt(stalls: Stalls, memory: tuple[int, int | None], volumes: tuple[int, int | None]) -> float | None:
    """The pressure that a bid carries: the worst of all that is known, None when nothing is.

    `memory` and `volumes` are MiB: free by the ledger's count, and truly free.
    """
    known = [part for part in (*stalls, squeeze(*memory), squeeze(*volumes)) if part is not None]
    return max(known, default=None)
