"""How well a fleet is balanced, and what was refused. Shares are of one host unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from billet.core.model import ZERO, Resources
from billet.core.questions.rebalance import cov
from billet.core.scoring import utilisation

TYPICAL = Resources(2, 8192)  # the microVM by which stranded room is measured
LARGE_VCPU = 16  # from here on a microVM counts as large


class Balance(NamedTuple):
    """One moment. `load` is the dominant share of the fleet as if it were one host. `cov` is the coefficient of
    variation of the hosts' dominant shares, `jain` Jain's index of them (Jain, Chiu, Hawe: DEC-TR-301, 1984).
    `fullest` is the fullest host's share over what it would be, were all hosts equally full. `stranded_...` is room,
    as a share of the fleet, that is free and that no microVM of 2 vCPU and 8 GiB can use. `used` counts the hosts
    that are not empty."""

    load: float
    cov: float
    jain: float
    fullest: float
    stranded_vcpu: float
    stranded_memory: float
    used: int


class RefusedDemand(NamedTuple):
    """What found no host, of all that were wanted: shares of the microVMs, of their vCPUs, of the large ones.
    None: no large one was wanted."""

    vms: float
    vcpus: float
    large: float | None


def balance(capacities: Sequence[Resources], taken: Sequence[Resources]) -> Balance:
    """Measure the fleet; the two sequences go side by side."""
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
    """Counts what is wanted and what is refused."""

    def __init__(self) -> None:
        self.refusals = 0
        self._wanted = [0, 0, 0]
        self._refused = [0, 0, 0]

    def add(self, demand: Resources, refused: bool) -> None:
        """One create that was decided."""
        self.refusals += refused
        large = demand.vcpu >= LARGE_VCPU
        for n, amount in enumerate((1, demand.vcpu, large)):
            self._wanted[n] += amount
            self._refused[n] += amount if refused else 0

    def shares(self) -> RefusedDemand:
        """As shares of what was wanted."""
        vms, vcpus, large = (
            no / all_ if all_ else None for no, all_ in zip(self._refused, self._wanted, strict=True)
        )
        return RefusedDemand(vms or 0.0, vcpus or 0.0, large)
