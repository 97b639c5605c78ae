"""What a run has shown, for a person: on the screen, and as a page of the documents."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from chaos.checkers import CHECKERS
from chaos.failover import Distribution
from chaos.rig import Rig
from chaos.storm import Storm


@dataclass
class Report:
    """Everything that was found."""

    storm: Storm | None = None
    distributions: list[Distribution] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)  # violations by checker
    checks: int = 0

    def checked(self, rig: Rig) -> None:
        """Take over what the checkers of a rig have found."""
        self.broken.update({name: len(found) for name, found in rig.violations.items()})
        self.checks += rig.checks

    @property
    def violations(self) -> int:
        """All of them."""
        return self.broken.total()

    def markdown(self) -> str:
        """The page."""
        lines = ["# Chaos on real processes", ""]
        lines += _storm(self.storm) if self.storm else []
        lines += _distributions(self.distributions) if self.distributions else []
        lines += ["## Promises checked", "", "| promise | checked | violations |", "|---|---|---|"]
        for checker in CHECKERS:
            said = (checker.__doc__ or "").strip().replace("\n    ", " ")
            lines.append(f"| {said} | {self.checks} times | {self.broken[checker.__name__]} |")
        return "\n".join([*lines, "", f"**{self.violations} violations**", ""])


def printed(report: Report) -> str:
    """The last lines on the screen."""
    lines = []
    for found in report.distributions:
        gap, slowest, rest = (spread(found, attribute) for attribute in ("gap_s", "slowest_s", "rest_s"))
        lines.append(
            f"{found.name}, {len(found.trials)} trials (p50 / max): longest gap {gap}, slowest create {slowest}, "
            f"at rest again after {rest}, {len(found.errors)} errors. Promised: {found.promise}"
        )
    if report.storm:
        storm, worst = report.storm, max(report.storm.gaps, key=lambda gap: gap.lasted_s)
        lines.append(f"{storm.outcomes.total()} calls, {len(storm.events)} faults in {len(storm.gaps)} rounds")
        during = "; ".join(worst.during) or "no fault"
        lines.append(f"longest time without a create {worst.lasted_s:.1f} s, during: {during}")
    style = "bold red" if report.violations else "bold green"
    return "\n".join([*lines, f"[{style}]{report.violations} violations[/], {report.checks} times all checked"])


def spread(found: Distribution, attribute: str) -> str:
    """Median and maximum of one of the trials' numbers, in seconds."""
    middle_s, most_s = found.of(attribute)
    return f"{middle_s:.2f} / {most_s:.2f} s"


def _distributions(distributions: list[Distribution]) -> list[str]:
    lines = [
        "## How long each failure is felt", "",
        "Median and maximum of all trials.", "",
        "| failure | trials | longest gap without a create | slowest create | errors | at rest again | promised |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for found in distributions:
        gap, slowest, rest = (spread(found, attribute) for attribute in ("gap_s", "slowest_s", "rest_s"))
        cells = (found.name, len(found.trials), gap, slowest, len(found.errors), rest, found.promise)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _storm(storm: Storm) -> list[str]:
    lines = [
        f"## A storm of {storm.took_s / 60:.1f} minutes, seed {storm.seed}", "",
        f"{len(storm.events)} faults in {len(storm.gaps)} rounds; {storm.outcomes.total()} calls.", "",
        "| call | " + " | ".join(codes := sorted({code for _, code in storm.outcomes})) + " |",
        "|---" * (len(codes) + 1) + "|",
    ]  # fmt: skip
    for kind in sorted({kind for kind, _ in storm.outcomes}):
        lines.append(f"| {kind} | " + " | ".join(str(storm.outcomes[kind, code]) for code in codes) + " |")
    lines += ["", "| round | longest time without a create | while | at rest again after |", "|---|---|---|---|"]
    for n, (gap, rest_s) in enumerate(zip(storm.gaps, storm.rests_s, strict=True), 1):
        lines.append(f"| {n} | {gap.lasted_s:.1f} s | {'; '.join(gap.during) or '-'} | {rest_s:.1f} s |")
    lines += ["", "<details><summary>Every fault</summary>", "", "| from | until | fault |", "|---|---|---|"]
    lines += [f"| {event.at_s:.1f} s | {event.until_s:.1f} s | {event.name} |" for event in storm.events]
    return [*lines, "", "</details>", ""]
