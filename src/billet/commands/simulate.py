"""`billet simulate`: a stream of creates and deletes, placed by Billet's own core and by how others place."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from billet.commands.bursts import bursts_options, play_bursts
from billet.commands.options import Amount, console, output_option, tell, write
from billet.core.errors import ConfigError
from billet.core.scoring import Weights
from billet.show.simulate import columns, compared, rows
from billet.whatif.report import LOWER, page, pictures
from billet.whatif.rules import OTHERS, POLICY_NAMES, Rule, late, own
from billet.whatif.simulation import SimulationResult, run
from billet.whatif.workload import Workload, read

CONSTRAINTS_NOTE = "only Billet's policies look at wishes; the other rules may seem better because they grant none"
SAMPLES = 160  # moments in a chart
Results = dict[str, list[SimulationResult]]  # rule title -> one for each workload


@click.command()
@click.argument("workloads", nargs=-1, metavar="WORKLOAD...", type=click.Path(path_type=Path))
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(POLICY_NAMES), default=("spread",), show_default=True,
    help="Billet's policy. May be given again.",
)  # fmt: skip
@click.option(
    "--against", "others", multiple=True, type=click.Choice([*OTHERS, "all", "none"]), default=("all",),
    show_default=True, help="Another rule to compare with. May be given again.",
)  # fmt: skip
@click.option(
    "--at-once", type=click.IntRange(1), default=1, show_default=True,
    help="So many creates wait for each other and are placed together, largest first.",
)  # fmt: skip
@click.option(
    "--shape-weight", type=Amount(0, 2), default=Weights().shape, show_default=True,
    help="As on `billet server`.",
)  # fmt: skip
@bursts_options
@click.option(
    "--reports-every", type=click.IntRange(0), default=0, show_default=True, metavar="REQUESTS",
    help="Each host reports once in so many requests, and rules that go by reports see it as it was then. Billet's"
    " bids are worked out on what was reported; 0 = always as it is.",
)  # fmt: skip
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report with charts here.")
@output_option
def simulate(
    workloads: tuple[Path, ...], policies: tuple[str, ...], others: tuple[str, ...], at_once: int,
    shape_weight: float, reports_every: int, html: Path | None, output: str, **of_bursts: Any,
) -> None:  # fmt: skip
    """Place a workload as Billet would, and as others do, and compare.

    A WORKLOAD is a JSON or CSV file with hosts, creates, deletes and marks, where the balance is measured
    (docs/scheduling.md has the format). Billet's rows come from the functions that bid and award on a live cluster,
    and grant what microVMs wish by their labels; the other rules look at no wishes. Several workloads: the table has
    the means over all of them.

    With --burst instead of a WORKLOAD: how long the microVMs of a burst wait until they are CREATED, on hosts that
    boot them one after another and pull the images that they do not have.
    """
    if of_bursts["burst"]:
        without = {"a WORKLOAD": workloads, "--at-once": at_once > 1, "--reports-every": reports_every}
        for what, given in without.items():
            if given:
                raise ConfigError(f"--burst goes without {what}")
        play_bursts(policies, others, shape_weight, output, html, **of_bursts)
        return
    if not workloads:
        raise ConfigError("give a WORKLOAD, or --burst N")
    streams = [read(path) for path in workloads]
    if len({stream.name for stream in streams}) < len(streams):  # a/mix.json and b/mix.json
        streams = [replace(stream, name=str(path)) for stream, path in zip(streams, workloads, strict=True)]
    marks = _common_marks(streams)
    rules = [own(Weights(policy=policy, shape=shape_weight)) for policy in policies]
    rules += [rule for name, rule in OTHERS.items() if name in others or "all" in others]
    rules = [late(rule, reports_every) for rule in rules]
    results = _play(streams, rules, at_once, SAMPLES if html else 0)
    body = rows(results, marks)
    notes = [CONSTRAINTS_NOTE] if any(stream.constraints for stream in streams) else []
    if output == "json":
        click.echo(json.dumps(_plain(streams, results), indent=2))
    else:
        screen = console()
        screen.print(compared(columns(marks), body, screen.width))
        for note in notes:
            tell(screen, f"Note: {note}.")
    if html:
        charts = [pictures([of_rule[n] for of_rule in results.values()]).values() for n in range(len(streams))]
        names = [stream.name for stream in streams]
        said = f"Workloads: {', '.join(names)}. Means over all of them. {LOWER}"
        write(html, page(list(zip(names, charts, strict=True)), columns(marks), body, said, notes=notes))


def _common_marks(streams: Sequence[Workload]) -> list[str]:
    marks = list(streams[0].marks())
    for stream in streams[1:]:
        if set(stream.marks()) != set(marks):
            raise ConfigError(
                f"{stream.name} has the marks {', '.join(stream.marks())}, and {streams[0].name} has"
                f" {', '.join(marks)}: only workloads with the same marks can be shown in one table"
            )
    return marks


def _play(streams: Sequence[Workload], rules: Sequence[Rule], at_once: int, samples: int) -> Results:
    """Every rule on every workload, with a bar on a terminal, and the speed of each rule on stderr."""
    events = sum(len(stream.events) for stream in streams)
    results: Results = {}
    screen = Console(stderr=True, highlight=False)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        for rule in rules:
            task = progress.add_task(rule.title, total=events)
            begun_s = time.perf_counter()
            results[rule.title] = [
                run(stream, rule, at_once, samples, partial(progress.advance, task)) for stream in streams
            ]
            took_s = time.perf_counter() - begun_s
            screen.print(f"{rule.title}: {events} events, {events / took_s:,.0f} a second", style="dim")
    return results


def _plain(streams: Sequence[Workload], results: Mapping[str, Sequence[SimulationResult]]) -> dict[str, object]:
    return {
        stream.name: {
            rule: {
                "marks": {mark: balance._asdict() for mark, balance in of_rule[n].marks.items()},
                "refused": of_rule[n].refused._asdict(),
            }
            for rule, of_rule in results.items()
        }
        for n, stream in enumerate(streams)
    }
