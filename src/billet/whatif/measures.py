"""Measures of balance and of refused demand. Shares are of one host unless noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from billet.core.model import ZERO, Resources
from billet.core.questions.rebalance import cov
from billet.core.scoring import utilisation

TYPICAL = Resources(2, 8192)  # free room that cannot take this microVM is stranded
LARGE_VCPU = 16  # a microVM with at least this is large


class Balance(NamedTuple):
    """Balance of a fleet at one moment.

    `load`: dominant share of the whole fleet, as if it were one host. `cov`: coefficient of variation of the hosts'
    dominant shares; `jain`: Jain's index of them (Jain, Chiu, Hawe: DEC-TR-301, 1984). `fullest`: the fullest host's
    share divided by `load`. `stranded_...`: free room that no microVM of 2 vCPU and 8 GiB can use, as a share of the
    fleet. `used`: number of hosts that are not empty.
    """

    load: float
    cov: float
    jain: float
    fullest: float
    stranded_vcpu: float
    stranded_memory: float
    used: int


class RefusedDemand(NamedTuple):
    """Demand that found no host: shares of all microVMs, of their vCPUs, and of the large ones (None: no large)."""

    vms: float
    vcpus: float
    large: float | None


def balance(capacities: Sequence[Resources], taken: Sequence[Resources]) -> Balance:
    """Measure a fleet. Both sequences have one item per host, in the same order."""
    shares = [utilisation(capacity, used, ZERO) for capacity, used in zip(capacities, taken, strict=True)]
    mean = sum(shares) / len(shares)
    squares = sum(share * share for share in shares) / len(shares)
    whole = Resources(*(sum(column) for column in zip(*capacities, strict=True)))
    load = utilisation(whole, Resources(*(sum(column) for column in zip(*taken, strict=True))), ZERO)
    stranded_vcpu = stranded_mib = 0
    for capacity, used in zip(capacities, taken, strict=True):
        free = capacity.minus(used)
        fit = max(0, min(free.vcpu // TYPICAL.vcpu, free.memory_mib // TYPICAL.memory_mib, free.vms))
        stranded_vcpu += free.vcpu - fit * TYPICAL.vcpu
        stranded_mib += free.memory_mib - fit * TYPICAL.memory_mib
    return Balance(
        load=load,
        cov=cov(shares),
        jain=mean * mean / squares if squares else 1.0,
        fullest=max(shares) / load if load else 1.0,
        stranded_vcpu=stranded_vcpu / whole.vcpu,
        stranded_memory=stranded_mib / whole.memory_mib,
        used=sum(used.vms > 0 for used in taken),
    )


class Tally:
    """Counts creates, and refused creates."""

    def __init__(self) -> None:
        self.refusals = 0
        self._wanted = [0, 0, 0]
        self._refused = [0, 0, 0]

    def add(self, demand: Resources, refused: bool) -> None:
        """Count one decided create."""
        self.refusals += refused
        large = demand.vcpu >= LARGE_VCPU
        for n, amount in enumerate((1, demand.vcpu, large)):
            self._wanted[n] += amount
            self._refused[n] += amount if refused else 0

    def shares(self) -> RefusedDemand:
        """The refused shares."""
        vms, vcpus, large = (
            no / all_ if all_ else None for no, all_ in zip(self._refused, self._wanted, strict=True)
        )
        return RefusedDemand(vms or 0.0, vcpus or 0.0, large)
