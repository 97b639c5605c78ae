"""`billet simulate`: places a workload with Billet's own core and with other rules, and compares the results."""

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
from billet.commands.options import FiniteFloat, console, output_option, print_sentence
from billet.commands.report import write_report
from billet.core.errors import ConfigError
from billet.core.scoring import Weights
from billet.show.simulate import columns, comparison_table, rows
from billet.whatif.report import LOWER, page, pictures
from billet.whatif.rules import OTHERS, POLICY_NAMES, Rule, late, own
from billet.whatif.simulation import SimulationResult, run
from billet.whatif.workload import Workload, read

CONSTRAINTS_NOTE = (
    "only Billet's policies honour constraints and preferences; the other rules ignore them, which can make them look"
    " better"
)
SAMPLES = 160  # points in a chart
Results = dict[str, list[SimulationResult]]  # rule title -> one for each workload


@click.command()
@click.argument("workloads", nargs=-1, metavar="WORKLOAD...", type=click.Path(path_type=Path))
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(POLICY_NAMES), default=("spread",), show_default=True,
    help="Policy of Billet to simulate. Repeatable.",
)  # fmt: skip
@click.option(
    "--against", "others", multiple=True, type=click.Choice([*OTHERS, "all", "none"]), default=("all",),
    show_default=True, help="Rule of other schedulers to compare with. Repeatable.",
)  # fmt: skip
@click.option(
    "--at-once", type=click.IntRange(1), default=1, show_default=True,
    help="Number of creates placed as one batch, largest first. 1 = each on its own.",
)  # fmt: skip
@click.option(
    "--shape-weight", type=FiniteFloat(0, 2), default=Weights().shape, show_default=True,
    help="See `billet server --help`.",
)  # fmt: skip
@bursts_options
@click.option(
    "--reports-every", type=click.IntRange(0), default=0, show_default=True, metavar="REQUESTS",
    help="Number of requests between two reports of a host. Billet's bids and the rules that use reports see the host"
    " as last reported. 0 = always up to date.",
)  # fmt: skip
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a report with charts to this file."
)
@output_option
def simulate(
    workloads: tuple[Path, ...], policies: tuple[str, ...], others: tuple[str, ...], at_once: int,
    shape_weight: float, reports_every: int, html: Path | None, output: str, **of_bursts: Any,
) -> None:  # fmt: skip
    """Compare Billet's policies with other rules on a workload.

    A WORKLOAD is a JSON or CSV file with hosts, creates, deletes and marks; a mark is a point at which the balance is
    measured (docs/scheduling.md has the format). Billet's rows come from the functions that bid and award on a live
    cluster and honour the constraints and preferences in labels; the other rules ignore them. With several workloads
    the table shows the means over all of them.

    With --burst instead of a WORKLOAD, the table shows how long the microVMs of a burst wait until CREATED, on hosts
    that boot one microVM after another and pull the images that they lack.
    """
    if of_bursts["burst"]:
        conflicts = {"a WORKLOAD": workloads, "--at-once": at_once > 1, "--reports-every": reports_every}
        for name, given in conflicts.items():
            if given:
                raise ConfigError(f"--burst cannot be combined with {name}")
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
        click.echo(json.dumps(_as_json(streams, results), indent=2))
    else:
        screen = console()
        screen.print(comparison_table(columns(marks), body, screen.width))
        for note in notes:
            print_sentence(screen, f"Note: {note}.")
    if html:
        charts = [pictures([of_rule[n] for of_rule in results.values()]).values() for n in range(len(streams))]
        names = [stream.name for stream in streams]
        caption = f"Workloads: {', '.join(names)}. Means over all of them. {LOWER}"
        write_report(html, page(list(zip(names, charts, strict=True)), columns(marks), body, caption, notes=notes))


def _common_marks(streams: Sequence[Workload]) -> list[str]:
    marks = list(streams[0].marks())
    for stream in streams[1:]:
        if set(stream.marks()) != set(marks):
            raise ConfigError(
                f"{stream.name} has the marks {', '.join(stream.marks())}, but {streams[0].name} has"
                f" {', '.join(marks)}; only workloads with the same marks fit into one table"
            )
    return marks


def _play(streams: Sequence[Workload], rules: Sequence[Rule], at_once: int, samples: int) -> Results:
    """Run every rule on every workload. Shows progress on a terminal, and prints each rule's speed to stderr."""
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
            screen.print(f"{rule.title}: {events} events, {events / took_s:,.0f} per second", style="dim")
    return results


def _as_json(streams: Sequence[Workload], results: Mapping[str, Sequence[SimulationResult]]) -> dict[str, object]:
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
