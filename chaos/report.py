"""Reports of chaos runs: on the screen, and as a page of the docs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec

from chaos.checkers import CHECKERS
from chaos.failover import Distribution
from chaos.rig import Rig
from chaos.storm import Event, Storm

HEAD = """# Chaos on real processes

`make chaos` runs a cluster of real processes, injects faults and checks every promise. This page is the output of
`make chaos ARGS="... --results FILE --report"`; do not edit it. Three servers, three etcd members and six hosts
(each a fake flintlockd and its agent) each have a machine of their own: a network namespace with a link to one
switch, and a disk in memory. Some faults are agents that are not what they say: on three spare machines, or beside
a host's flintlockd. Plain Flintlock clients call the servers. After each round all faults are healed, and
the fleet has to come to rest by itself: placements are what the hosts show, nothing is RESERVED, all agents are
back. Only after a fault of identity an operator acts: the list of faults says what they ran. Then every promise is
checked on the clients' calls, on what hosts and servers showed twice a second, and on what hosts and ledger say at
the end.
"""
CUT = (
    "[Operations](operations.md#how-long-it-takes) describes each failure. A machine that vanishes has its link cut"
    " in both directions, silently: no reset, no lost carrier. In all-at-once no server runs for a while, and each"
    " refused connection counts as an error."
)


@dataclass
class Report:
    """Everything that was found, in one run or in several."""

    storms: list[Storm] = field(default_factory=list)
    distributions: list[Distribution] = field(default_factory=list)
    broken: dict[str, int] = field(default_factory=dict)  # violations by checker
    checks: int = 0

    def checked(self, rig: Rig) -> Self:
        """Take over what the checkers of a rig have found since the last time."""
        for name, found in rig.violations.items():
            self.broken[name] = self.broken.get(name, 0) + len(found)
        self.checks += rig.checks
        rig.violations.clear()
        rig.checks = 0
        return self

    def join(self, other: Report) -> None:
        """Take over what another run has found; trials of one failure stand together."""
        self.storms += other.storms
        mine = {found.name: found for found in self.distributions}
        for found in other.distributions:
            if found.name in mine:
                mine[found.name].trials += found.trials
            else:
                self.distributions.append(found)
        for name, count in other.broken.items():
            self.broken[name] = self.broken.get(name, 0) + count
        self.checks += other.checks

    @property
    def violations(self) -> int:
        """All of them."""
        return sum(self.broken.values())


def read(file: Path) -> Report:
    """What earlier runs have left; nothing, when there were none."""
    return msgspec.json.decode(file.read_bytes(), type=Report) if file.exists() else Report()


def write(file: Path, report: Report) -> None:
    """Leave it for later runs."""
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))


def printed(report: Report) -> str:
    """The last lines on the screen."""
    lines = []
    for found in report.distributions:
        gap, slowest, rest = (spread(found, attribute) for attribute in ("gap_s", "slowest_s", "rest_s"))
        lines.append(
            f"{found.name}, {len(found.trials)} trials (p50 / max): longest gap {gap}, slowest create {slowest}, "
            f"at rest again after {rest}, {len(found.errors)} errors. Promised: {found.promise}"
        )
    for storm in report.storms:
        worst = max(storm.gaps, key=lambda gap: gap.lasted_s)
        during = "; ".join(worst.during) or "no fault"
        lines.append(f"{storm.calls} calls, {len(storm.events)} faults in {len(storm.gaps)} rounds")
        remedies = [remedy for event in storm.events for remedy in event.remedies]
        intruders = sum(event.intruder for event in storm.events)
        lines.append(f"{intruders} of the faults were intruders; the operator ran: {_counted(remedies) or 'nothing'}")
        lines.append(f"longest time without a create {worst.lasted_s:.1f} s, during: {during}")
    style = "bold red" if report.violations else "bold green"
    return "\n".join(
        [*lines, f"[{style}]{report.violations} violations[/], all promises checked {report.checks} times"]
    )


def _counted(remedies: list[str]) -> str:
    """How often each kind of command was run."""
    counts = Counter(remedy.rpartition(" ")[0] for remedy in remedies)
    return ", ".join(f"{remedy} ({count} times)" for remedy, count in sorted(counts.items()))


def spread(found: Distribution, attribute: str) -> str:
    """Median and maximum of one of the trials' numbers, in seconds."""
    middle_s, most_s = found.of(attribute)
    return f"{middle_s:.2f} / {most_s:.2f} s"


def markdown(report: Report) -> str:
    """The page."""
    lines = [HEAD, "## Promises checked", "", "| promise | checked | violations |", "|---|---|---|"]
    for checker in CHECKERS:
        said = " ".join((checker.__doc__ or "").split())
        lines.append(f"| {said} | {report.checks} times | {report.broken.get(checker.__name__, 0)} |")
    lines += ["", f"**{report.violations} violations**", ""]
    lines += _distributions(report.distributions) if report.distributions else []
    for storm in report.storms:
        lines += _storm(storm)
    return "\n".join(lines)


def _cell(text: str) -> str:
    """As it may stand in a table: a partition's name has a bar between its sides."""
    return text.replace("|", "\\|")


def _told(event: Event) -> str:
    """A fault, and what the operator ran after it."""
    return "; then ".join([event.name, *(f"`{remedy}`" for remedy in event.remedies)])


def _distributions(distributions: list[Distribution]) -> list[str]:
    lines = [
        "## How long each failure is felt", "",
        f"Median / maximum of all trials, 64 creates under way. {CUT}", "",
        "| failure | trials | longest gap without a create | slowest create | errors | at rest again after |"
        " promised |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for found in distributions:
        gap, slowest, rest = (spread(found, attribute) for attribute in ("gap_s", "slowest_s", "rest_s"))
        cells = (found.name, len(found.trials), gap, slowest, len(found.errors), rest, found.promise)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _storm(storm: Storm) -> list[str]:
    codes = sorted({code for counts in storm.outcomes.values() for code in counts})
    lines = [
        f"## A storm of {storm.took_s / 60:.1f} minutes, seed {storm.seed}", "",
        f"{len(storm.events)} faults in {len(storm.gaps)} rounds, {storm.calls} calls. The answers (UNKNOWN is"
        ' "not found"):', "",
        f"| call | {' | '.join(codes)} |", "|---" * (len(codes) + 1) + "|",
    ]  # fmt: skip
    for kind, counts in sorted(storm.outcomes.items()):
        lines.append(f"| {kind} | {' | '.join(str(counts.get(code, 0)) for code in codes)} |")
    lines += [
        "",
        "| round | longest time without a create | faults during that time | at rest again after |",
        "|---|---|---|---|",
    ]
    for n, (gap, rest_s) in enumerate(zip(storm.gaps, storm.rests_s, strict=True), 1):
        lines.append(f"| {n} | {gap.lasted_s:.1f} s | {_cell('; '.join(gap.during)) or '-'} | {rest_s:.1f} s |")
    lines += ["", "<details><summary>Every fault</summary>", "", "| from | until | fault |", "|---|---|---|"]
    lines += [f"| {event.at_s:.1f} s | {event.until_s:.1f} s | {_cell(_told(event))} |" for event in storm.events]
    return [*lines, "", "</details>", ""]
