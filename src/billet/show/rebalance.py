"""The plan of a rebalance: each move, and what they gain and cost together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from billet.core.model import Resources
from billet.core.questions.rebalance import Move, Place, Resident, evenness
from billet.show.marks import duration, gib, table
from billet.whatif.measures import balance


class Sums(NamedTuple):
    """Before and after all moves. `stranded_...` as docs/scheduling.md has it, shares of the ready hosts' room."""

    cov_before: float
    cov_after: float
    stranded_vcpu_before: float
    stranded_vcpu_after: float
    stranded_memory_before: float
    stranded_memory_after: float
    recreations: int
    boot_s: float  # of all together, by the hosts' own mean boot times; where one has none, it counts 0
    evictable: int
    residents: int

    @property
    def why(self) -> str:
        """Why there may be nothing to move."""
        return f"{self.evictable} of {self.residents} microVMs may be moved (label billet.io/evict=allow)."

    def gain(self) -> str:
        """In a sentence."""
        vcpu = f"{self.stranded_vcpu_before:.1%} -> {self.stranded_vcpu_after:.1%} vCPU"
        memory = f"{self.stranded_memory_before:.1%} -> {self.stranded_memory_after:.1%} memory"
        return f"Gain: CoV {self.cov_before:.3f} -> {self.cov_after:.3f}; stranded {vcpu}, {memory}."

    def cost(self) -> str:
        """In a sentence."""
        many = f"{self.recreations} microVM{'' if self.recreations == 1 else 's'}"
        boots = f"some {duration(self.boot_s)} of boots" if self.boot_s else "boots of unknown length"
        return f"Cost: {many} deleted and made again, {boots}. {self.why}"


def sums(places: Mapping[str, Place], residents: Sequence[Resident], moves: Sequence[Move]) -> Sums:
    """What a plan comes to."""
    taken = {host_id: place.view.taken for host_id, place in places.items()}
    for move in moves:
        taken[move.source] = taken[move.source].minus(move.demand)
        taken[move.target] = taken[move.target].plus(move.demand)
    before, after = _stranded(places, None), _stranded(places, taken)
    return Sums(
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
    made = balance(rooms, used)
    return made.stranded_vcpu, made.stranded_memory


def moves_table(places: Mapping[str, Place], moves: Sequence[Move]) -> Table:
    """One line for each move, in their order."""
    made = table(">#", "~MICROVM", "UID", "FROM", "TO", ">vCPU", ">GiB", ">COV\nAFTER", ">BOOT")
    for n, move in enumerate(moves, 1):
        boot_s = places[move.target].facts.boot_s
        made.add_row(
            str(n), Text(move.name), move.uid, move.source, move.target, str(move.demand.vcpu),
            gib(move.demand.memory_mib), f"{move.cov:.3f}", duration(boot_s) if boot_s else "-",
        )  # fmt: skip
    return made
