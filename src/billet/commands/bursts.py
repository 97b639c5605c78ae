"""`billet simulate --burst`: how long microVMs wait until they are CREATED, under Billet and under other rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from billet.commands.options import Amount, console, write
from billet.core.scoring import Weights
from billet.show.simulate import BURST_HEADS, Burst, bursts_rows, bursts_table
from billet.whatif.bursts import (
    Boot,
    BurstRule,
    Bursts,
    BurstSettings,
    accuracy,
    by_billet,
    by_oracle,
    by_rule,
    waits,
)
from billet.whatif.report import page, waited
from billet.whatif.rules import OTHERS

Function = TypeVar("Function", bound=Callable[..., Any])
COMPARED = ("static", "round-robin", "least-loaded")  # unless --against says otherwise
FLOOR = "knows every time beforehand"


def bursts_options(function: Function) -> Function:
    """The options of a burst."""
    fresh = BurstSettings()
    for option in (
        click.option("--seeds", type=click.IntRange(1), default=20, show_default=True, help="Bursts: so many times."),
        click.option(
            "--sigma", type=Amount(0, 3), default=fresh.sigma, show_default=True,
            help="Bursts: how much these times vary; 0.3 = by about 30 %, 0 = not at all.",
        ),
        click.option(
            "--pull-s", type=Amount(0), default=fresh.pull_s, show_default=True,
            help="Bursts: mean seconds to pull each of a microVM's two images.",
        ),
        click.option(
            "--boot-s", type=Amount(0.001), default=fresh.boot_s, show_default=True,
            help="Bursts: mean seconds of a boot.",
        ),
        click.option(
            "--rate", type=Amount(0, min_open=True), default=fresh.rate_per_s, show_default=True,
            help="Bursts: creates a second.",
        ),
        click.option("--with-images", type=click.IntRange(0), help="Bursts: hosts that have the images. [half]"),
        click.option(
            "--hosts", type=click.IntRange(1), default=fresh.hosts, show_default=True, help="Bursts: alike hosts."
        ),
        click.option(
            "--burst", type=click.IntRange(1), multiple=True, metavar="N",
            help="Instead of a WORKLOAD: so many creates at once. May be given again.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def play_bursts(
    policies: Sequence[str], others: Sequence[str], shape_weight: float, output: str, html: Path | None,
    burst: Sequence[int], hosts: int, with_images: int | None, rate: float, boot_s: float, pull_s: float,
    sigma: float, seeds: int,
) -> None:  # fmt: skip
    """Play them, print what came out, and draw it where an HTML report is wanted."""
    named = COMPARED if "all" in others else tuple(name for name in others if name in OTHERS)
    rows, charts = [], []
    for creates in dict.fromkeys(burst):
        here = hosts // 2 if with_images is None else with_images
        setting = BurstSettings(hosts, here, creates, rate, boot_s, pull_s, sigma)
        played = _played(setting, [Weights(policy=policy, shape=shape_weight) for policy in policies], named, seeds)
        rows += [_row(rule, creates, runs) for rule, runs in played.items()]
        took_s = [(rule, [boot.took_s for run in runs for boot in run.boots]) for rule, runs in played.items()]
        charts.append((f"{creates} creates at once", [waited(took_s)]))
    if output == "json":
        click.echo(json.dumps([_plain(row) for row in rows], indent=2))
    else:
        console().print(bursts_table(rows))
    if html:
        said = (
            f"Bursts of creates at once, {seeds} of each size, on {hosts} hosts, {here} of them with the images;"
            f" boots of {boot_s:g} s and two pulls of {pull_s:g} s that vary by {sigma:.0%}. Lower is better."
        )
        write(html, page(charts, BURST_HEADS, bursts_rows(rows), said, "billet simulate --burst"))


class BurstRun(NamedTuple):
    """One run of one rule: its boots, and how uneven it left the hosts."""

    boots: list[Boot]
    cov: float


def _played(
    setting: BurstSettings, policies: Sequence[Weights], others: Sequence[str], seeds: int
) -> dict[str, list[BurstRun]]:
    """The runs of each rule, by its title."""
    rules: dict[str, Callable[[], BurstRule]] = {}
    for weights in policies:
        rules[f"billet {weights.policy}"] = partial(by_billet, weights)
    for name in others:
        rules[OTHERS[name].title] = partial(by_rule, OTHERS[name])
    rules[FLOOR] = lambda: by_oracle
    return {
        title: [_run(Bursts(setting, seed), chooser()) for seed in range(seeds)] for title, chooser in rules.items()
    }


def _run(bursts: Bursts, choose: BurstRule) -> BurstRun:
    return BurstRun(bursts.play(choose), bursts.cov())


def _row(rule: str, creates: int, runs: Sequence[BurstRun]) -> Burst:
    boots, cov = [run.boots for run in runs], sum(run.cov for run in runs) / len(runs)
    return Burst(rule, creates, waits(boots, creates), cov, accuracy([boot for run in boots for boot in run]))


def _plain(row: Burst) -> dict[str, Any]:
    told = row.accuracy._asdict() if row.accuracy else None
    return {"rule": row.rule, "creates": row.creates, **row.waits._asdict(), "cov": row.cov, "accuracy": told}
