"""`billet simulate --burst`: compares how long microVMs wait until CREATED under Billet and under other rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from billet.commands.options import FiniteFloat, console
from billet.commands.report import write_report
from billet.core.scoring import Weights
from billet.show.simulate import BURST_HEADINGS, BurstRow, bursts_rows, bursts_table
from billet.whatif import bursts
from billet.whatif.bursts import Boot, BurstRule, Bursts, BurstSettings, by_billet, by_oracle, by_rule, waits
from billet.whatif.report import page, waited
from billet.whatif.rules import OTHERS

Function = TypeVar("Function", bound=Callable[..., Any])
COMPARED = ("static", "round-robin", "least-loaded")  # unless --against names others
ORACLE = "oracle: knows all times"


def bursts_options(function: Function) -> Function:
    """Decorator: the options of --burst."""
    fresh = BurstSettings()
    for option in (
        click.option("--seeds", type=click.IntRange(1), default=20, show_default=True, help="--burst: runs."),
        click.option(
            "--sigma", type=FiniteFloat(0, 3), default=fresh.sigma, show_default=True,
            help="--burst: variation of boot and pull times; 0.3 = about 30 %, 0 = none.",
        ),
        click.option(
            "--pull-s", type=FiniteFloat(0), default=fresh.pull_s, show_default=True,
            help="--burst: mean seconds to pull each of a microVM's two images.",
        ),
        click.option(
            "--boot-s", type=FiniteFloat(0.001), default=fresh.boot_s, show_default=True,
            help="--burst: mean seconds of one boot.",
        ),
        click.option(
            "--rate", type=FiniteFloat(0, min_open=True), default=fresh.rate_per_s, show_default=True,
            help="--burst: creates per second.",
        ),
        click.option("--with-images", type=click.IntRange(0), help="--burst: hosts with the images. [default: half]"),
        click.option(
            "--hosts", type=click.IntRange(1), default=fresh.hosts, show_default=True, help="--burst: hosts."
        ),
        click.option(
            "--burst", type=click.IntRange(1), multiple=True, metavar="N",
            help="Instead of a WORKLOAD: measure a burst of N creates. Repeatable.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def play_bursts(
    policies: Sequence[str], others: Sequence[str], shape_weight: float, output: str, html: Path | None,
    burst: Sequence[int], hosts: int, with_images: int | None, rate: float, boot_s: float, pull_s: float,
    sigma: float, seeds: int,
) -> None:  # fmt: skip
    """Simulate the bursts, print the results, and write the HTML report if one is requested."""
    named = COMPARED if "all" in others else tuple(name for name in others if name in OTHERS)
    rows, charts = [], []
    with_images = hosts // 2 if with_images is None else with_images
    for creates in dict.fromkeys(burst):
        setting = BurstSettings(hosts, with_images, creates, rate, boot_s, pull_s, sigma)
        played = _played(setting, [Weights(policy=policy, shape=shape_weight) for policy in policies], named, seeds)
        rows += [_row(rule, creates, runs) for rule, runs in played.items()]
        took_s = [(rule, [boot.took_s for run in runs for boot in run.boots]) for rule, runs in played.items()]
        charts.append((f"Burst of {creates} creates", [waited(took_s)]))
    if output == "json":
        click.echo(json.dumps([_as_json(row) for row in rows], indent=2))
    else:
        console().print(bursts_table(rows))
    if html:
        caption = (
            f"Bursts of creates, {seeds} of each size, on {hosts} hosts, {with_images} of them with the images;"
            f" boots of {boot_s:g} s and two pulls of {pull_s:g} s, which vary by {sigma:.0%}. Lower is better."
        )
        write_report(html, page(charts, BURST_HEADINGS, bursts_rows(rows), caption, "billet simulate --burst"))


class BurstRun(NamedTuple):
    """One run of one rule: its boots, and the CoV of the hosts' load at its end."""

    boots: list[Boot]
    cov: float


def _played(
    setting: BurstSettings, policies: Sequence[Weights], others: Sequence[str], seeds: int
) -> dict[str, list[BurstRun]]:
    """The runs of each rule, by its title, one per seed."""
    rules: dict[str, Callable[[], BurstRule]] = {}
    for weights in policies:
        rules[f"billet {weights.policy}"] = partial(by_billet, weights)
    for name in others:
        rules[OTHERS[name].title] = partial(by_rule, OTHERS[name])
    rules[ORACLE] = lambda: by_oracle
    return {
        title: [_run(Bursts(setting, seed), chooser()) for seed in range(seeds)] for title, chooser in rules.items()
    }


def _run(simulation: Bursts, choose: BurstRule) -> BurstRun:
    return BurstRun(simulation.play(choose), simulation.cov())


def _row(rule: str, creates: int, runs: Sequence[BurstRun]) -> BurstRow:
    boots, cov = [run.boots for run in runs], sum(run.cov for run in runs) / len(runs)
    return BurstRow(
        rule, creates, waits(boots, creates), cov, bursts.accuracy([boot for run in boots for boot in run])
    )


def _as_json(row: BurstRow) -> dict[str, Any]:
    accuracy = row.accuracy._asdict() if row.accuracy else None
    return {"rule": row.rule, "creates": row.creates, **row.waits._asdict(), "cov": row.cov, "accuracy": accuracy}
