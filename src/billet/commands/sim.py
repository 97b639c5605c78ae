"""`billet sim`: whole clusters in virtual time, with everything going wrong that can, and judges of every promise."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.sim.seed import SeedResult

SHOWN = 5  # violations of one seed
KEY = """\
Seconds of virtual time, who, and what. s0.2 is server 0 after its second start,
agent-h1.1 the agent of host h1, c3 a client. Of an id the last 6 characters are
shown: 000004 is an auction and its create's token, 001003 a microVM's uid.
"""


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="How many seeds to run.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="The first of them.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processors to use. [default: all]")
@click.option("--seed", type=click.IntRange(0), default=None, help="Run just this one.")
@click.option("--trace", is_flag=True, help="With --seed: tell its story, line by line.")
def sim(seeds: int, first_seed: int, jobs: int | None, seed: int | None, trace: bool) -> None:
    """Simulate clusters in which everything goes wrong, and see whether Billet keeps its promises.

    Auctioneer, reconciler, agents and their link are the real ones; time, network, store, machines and flintlockds
    are made up from a seed: frames are lost, doubled and late, links cut, programs killed wherever they await, clocks
    set, commits left without an answer. Judges that see everything check each of the promises in
    docs/architecture.md. Exit code 1 when a promise was broken.

    The same seed gives the same run, told by the same trace: `billet sim --seed N --trace` shows what led to it.
    """
    from billet.sim.seed import run_seed

    if seed is not None:
        result = run_seed(seed)
        if trace:
            click.echo("\n".join([KEY, *result.lines]))
        _show(result)
        _end(1, bool(result.violations))
    elif trace:
        raise click.UsageError("--trace tells the story of one seed: say which with --seed")
    else:
        _many(range(first_seed, first_seed + seeds), jobs or os.cpu_count() or 1)


def _many(seeds: range, jobs: int) -> None:
    from billet.sim.seed import run_seeds

    failed, answers, lasted_s, begun_s = 0, 0, 0.0, time.monotonic()
    for done, result in enumerate(run_seeds(seeds, jobs), 1):
        answers, lasted_s = answers + result.answers, lasted_s + result.lasted_s
        if result.violations:
            failed += 1
            _show(result)
        _progress(done, len(seeds), failed)
    took_s = time.monotonic() - begun_s
    click.echo(
        f"{counted(len(seeds), 'cluster')}, one for each seed, over {lasted_s / 3600:.1f} hours of virtual time; "
        f"{counted(answers, 'call')} of their clients answered, replies and errors together.\n"
        f"Took {took_s:.1f} s on {counted(jobs, 'processor')}, {took_s / len(seeds) * 1e3:.0f} ms for each seed."
    )
    _end(failed, failed > 0)


def _progress(done: int, seeds: int, failed: int) -> None:
    """One line that goes on, on a terminal; else a line for each tenth."""
    terminal = sys.stderr.isatty()
    if done == seeds or done % (10 if terminal else max(1, seeds // 10)) == 0:
        end = terminal and done < seeds
        broke = f"{failed} broke a promise" if failed else "all promises kept"
        click.echo(f"{done}/{seeds} seeds, {broke}" + ("\r" if end else ""), err=True, nl=not end)


def _show(result: SeedResult) -> None:
    """What a seed came to."""
    if not result.violations:
        click.echo(f"seed {result.seed}: all promises kept; trace {result.trace}")
        return
    broken = counted(len(result.violations), "time")
    click.secho(f"seed {result.seed}: a promise was broken {broken}; trace {result.trace}", fg="red")
    for violation in result.violations[:SHOWN]:
        promise = f"promise {violation.promise}" if violation.promise else "unexpected"
        click.echo(f"  at {violation.at_s:.6f} s, {promise}: {violation.text}")
    if len(result.violations) > SHOWN:
        click.echo(f"  and {len(result.violations) - SHOWN} more")
    click.echo(f"  the same again, with its story: billet sim --seed {result.seed} --trace")


def _end(failed: int, broken: bool) -> None:
    if broken:
        click.secho(f"{counted(failed, 'seed')} broke a promise", fg="red")
        raise SystemExit(1)
