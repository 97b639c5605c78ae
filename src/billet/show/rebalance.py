"""Renders the plan of `billet rebalance`: the moves, and their total gain and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from billet.core.model import Resources
from billet.core.questions.rebalance import Move, Place, Resident, evenness
from billet.show.marks import duration, gib, table
from billet.whatif.measures import balance


class PlanTotals(NamedTuple):
    """Totals before and after all moves. `stranded_...` (docs/scheduling.md) are shares of the READY hosts' room."""

    cov_before: float
    cov_after: float
    stranded_vcpu_before: float
    stranded_vcpu_after: float
    stranded_memory_before: float
    stranded_memory_after: float
    recreations: int
    boot_s: float  # sum of the target hosts' mean boot times; unknown ones count 0
    evictable: int
    residents: int

    @property
    def evictable_text(self) -> str:
        """How many microVMs may be moved, in a sentence."""
        return f"{self.evictable} of {self.residents} microVMs may be moved (label billet.io/evict=allow)."

    def gain(self) -> str:
        """The gain in a sentence."""
        vcpu = f"{self.stranded_vcpu_before:.1%} -> {self.stranded_vcpu_after:.1%} vCPU"
        memory = f"{self.stranded_memory_before:.1%} -> {self.stranded_memory_after:.1%} memory"
        return f"Gain: CoV {self.cov_before:.3f} -> {self.cov_after:.3f}; stranded {vcpu}, {memory}."

    def cost(self) -> str:
        """The cost in a sentence."""
        many = f"{self.recreations} microVM{'' if self.recreations == 1 else 's'}"
        boots = f"about {duration(self.boot_s)} of boot time" if self.boot_s else "unknown boot time"
        return f"Cost: {many} deleted and recreated, {boots}. {self.evictable_text}"


def plan_totals(places: Mapping[str, Place], residents: Sequence[Resident], moves: Sequence[Move]) -> PlanTotals:
    """Add up the gain and cost of a plan."""
    taken = {host_id: place.view.taken for host_id, place in places.items()}
    for move in moves:
        taken[move.source] = taken[move.source].minus(move.demand)
        taken[move.target] = taken[move.target].plus(move.demand)
    before, after = _stranded(places, None), _stranded(places, taken)
    return PlanTotals(
        cov_before=evenness(places),
        cov_after=moves[-1].cov if moves else evenness(places),
        stranded_vcpu_before=before[0],
        stranded_vcpu_after=after[0],
        stranded_memory_before=before[1],
        stranded_memory_after=after[1],
        recreations=len(moves),
        boot_s=sum(places[move.target].facts.boot_s for move in moves),
        evictable=sum(resident.evictable for resident in residents),
        residents=len(residents),
    )


def _stranded(places: Mapping[str, Place], taken: Mapping[str, Resources] | None) -> tuple[float, float]:
    if not places:
        return 0.0, 0.0
    rooms = [place.view.allocatable for place in places.values()]
    used = [taken[host_id] if taken else place.view.taken for host_id, place in places.items()]
    result = balance(rooms, used)
    return result.stranded_vcpu, result.stranded_memory


def moves_table(places: Mapping[str, Place], moves: Sequence[Move]) -> Table:
    """One row per move, in order."""
    rows = table(">#", "~MICROVM", "UID", "FROM", "TO", ">vCPU", ">GiB", ">COV\nAFTER", ">BOOT")
    for n, move in enumerate(moves, 1):
        boot_s = places[move.target].facts.boot_s
        rows.add_row(
            str(n), Text(move.name), move.uid, move.source, move.target, str(move.demand.vcpu),
            gib(move.demand.memory_mib), f"{move.cov:.3f}", duration(boot_s) if boot_s else "-",
        )  # fmt: skip
    return rows
