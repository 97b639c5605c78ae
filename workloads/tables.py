"""Place the fixed workloads with every rule, and print the tables of docs/lab as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from billet.core.scoring import Weights
from billet.whatif.measures import Balance, RefusedDemand
from billet.whatif.rules import OTHERS, Rule, own
from billet.whatif.simulation import mean_balance, mean_refused, run
from billet.whatif.workload import Workload, read
from workloads import bursts
from workloads.generator import WorkloadId, text
from workloads.scarce import rows

CHOSEN_ON = tuple(WorkloadId("mix", 100, seed) for seed in (1, 2, 3))  # the formula's numbers were chosen on these
SPREAD, PACK, KUBE = own(Weights()), own(Weights(policy="pack")), OTHERS["kube"]


class Row(NamedTuple):
    """What one rule did with several workloads: means over them."""

    filled: Balance
    churned: Balance
    refused: RefusedDemand


class Group(NamedTuple):
    """Workloads whose means make one row of a table."""

    title: str
    shape: str
    hosts: int
    seeds: range

    def workloads(self) -> list[WorkloadId]:
        """Its members."""
        return [WorkloadId(self.shape, self.hosts, seed) for seed in self.seeds]


FIRST, LATER, ALL = range(1, 4), range(4, 11), range(1, 11)
GROUPS = (
    Group("mix, 100 hosts, seeds 1-3", "mix", 100, FIRST),
    Group("mix, 100 hosts, seeds 4-10", "mix", 100, LATER),
    Group("small, 100 hosts, seeds 1-3", "small", 100, FIRST),
    Group("small, 100 hosts, seeds 4-10", "small", 100, LATER),
    Group("mix, 10 hosts, seeds 1-10", "mix", 10, ALL),
    Group("small, 10 hosts, seeds 1-10", "small", 10, ALL),
    Group("mix, 1000 hosts, seed 1", "mix", 1000, range(1, 2)),
)


@cache
def workload(wanted: WorkloadId) -> Workload:
    """Generate a workload, and read it as `billet simulate` reads a file."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / f"{wanted.name}.json"
        path.write_text(text(wanted))
        return read(path)


def measure(rule: Rule, workloads: Iterable[WorkloadId], at_once: int = 1) -> Row:
    """Place the workloads with one rule. `at_once` creates are placed as one batch, largest first."""
    results = [run(workload(wanted), rule, at_once) for wanted in workloads]
    filled, churned = (mean_balance([result.marks[mark] for result in results]) for mark in ("filled", "churned"))
    return Row(filled, churned, mean_refused([result.refused for result in results]))


def central() -> Iterator[str]:
    """The central table: every rule, on the workloads that the formula's numbers were chosen on."""
    yield from _head(
        "rule", "CoV, filled", "CoV, churned", "fullest host over the bound",
        "stranded vCPU, memory (filled)", "refused", "refused vCPU", "refused 16-vCPU",
    )  # fmt: skip
    for rule in (SPREAD, PACK, *OTHERS.values()):
        filled, churned, refused = measure(rule, CHOSEN_ON)
        used = f" ({filled.used:.0f} hosts used)" if filled.used < 99.5 else ""
        yield _line(
            f"{rule.title}{used}",
            f"{filled.cov:.3f}",
            f"{churned.cov:.3f}",
            f"{filled.fullest:.2f}, {churned.fullest:.2f}",
            f"{_percent(filled.stranded_vcpu)}, {_percent(filled.stranded_memory)}",
            *(_percent(share) for share in refused),
        )


def pairs() -> Iterator[str]:
    """Billet beside kube-scheduler's default on all workloads; each cell is *billet / kube*."""
    yield from _head("workload", *_PAIR_COLUMNS)
    for group in GROUPS:
        yield _pair(group.title, group, 1)


def batches() -> Iterator[str]:
    """The same with creates placed 32 or 128 at once, on 100 hosts."""
    yield from _head("workload", "at once", *_PAIR_COLUMNS)
    for at_once in (32, 128):
        for group in GROUPS[:4]:
            yield _pair(f"{group.title} | {at_once}", group, at_once)


def scarce() -> Iterator[str]:
    """GPU hosts among others; each cell is *without / with* the part of the score that keeps them."""
    yield from _head(
        "microVMs", "hosts with a GPU", "ordinary first", "ask for one", "find no room", "ordinary refused", "CoV"
    )
    for case, before, now in rows():
        yield _line(
            case.shape,
            f"{-(-case.hosts // case.every)} of {case.hosts}",
            "mixed" if case.ordinary is None else f"{case.ordinary:.0%}",
            f"{case.gpu:.0%}",
            f"{100 * before.asking:.1f} / {100 * now.asking:.1f} %",
            f"{100 * before.ordinary:.1f} / {100 * now.ordinary:.1f} %",
            f"{before.balance.cov:.3f} / {now.balance.cov:.3f}",
        )


TABLES = {"central": central, "pairs": pairs, "batches": batches, "scarce": scarce, "bursts": bursts.table}
_PAIR_COLUMNS = ("CoV, filled", "CoV, churned", "refused", "refused vCPU", "refused 16-vCPU")


def _pair(title: str, group: Group, at_once: int) -> str:
    billet, kube = (measure(rule, group.workloads(), at_once) for rule in (SPREAD, KUBE))
    shares = zip(billet.refused, kube.refused, strict=True)
    return _line(
        title,
        f"{billet.filled.cov:.3f} / {kube.filled.cov:.3f}",
        f"{billet.churned.cov:.3f} / {kube.churned.cov:.3f}",
        *(f"{_percent(ours).removesuffix(' %')} / {_percent(theirs)}" for ours, theirs in shares),
    )


def _head(*columns: str) -> Sequence[str]:
    return _line(*columns), "|" + "---|" * len(columns)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
