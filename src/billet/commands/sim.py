"""`billet sim`: simulates whole clusters with injected faults in virtual time, and checks every promise."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.sim.seed import SeedResult

MAX_SHOWN = 5  # violations printed per seed
LEGEND = """\
Columns: seconds of virtual time, process, event. s0.2 is server 0 after its
second start, agent-h1.1 the agent of host h1, c3 a client. Ids are shortened to
6 characters: 000004 is an auction and its create's token, 001003 a uid.
"""


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=200, show_default=True, help="Number of seeds to run.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="First seed.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=None,
    help="Number of processes to run in parallel.  [default: number of CPUs]",
)
@click.option("--seed", type=click.IntRange(0), default=None, help="Run only this seed.")
@click.option("--trace", is_flag=True, help="With --seed: print a trace of the run.")
def sim(seeds: int, first_seed: int, jobs: int | None, seed: int | None, trace: bool) -> None:
    """Simulate clusters with faults and check that Billet keeps its promises.

    Servers, agents and the link between them are the real code. Time, network, store, machines and flintlockds are
    simulated from a seed, with faults: frames are lost, duplicated and delayed, links are cut, processes are killed
    at any await, clocks jump, and commits get no reply. Checkers verify the promises in docs/architecture.md. Exit
    code 1 if a promise is broken.

    The same seed always gives the same run and the same trace: `billet sim --seed N --trace` prints it.
    """
    from billet.sim.seed import run_seed

    if seed is not None:
        result = run_seed(seed)
        if trace:
            click.echo("\n".join([LEGEND, *result.lines]))
        _print_result(result)
        _exit_if_broken(1, bool(result.violations))
    elif trace:
        raise click.UsageError("--trace prints the trace of one seed; name it with --seed")
    else:
        _many(range(first_seed, first_seed + seeds), jobs or os.cpu_count() or 1)


def _many(seeds: range, jobs: int) -> None:
    from billet.sim.seed import run_seeds

    failed, answers, lasted_s, begun_s = 0, 0, 0.0, time.monotonic()
    for done, result in enumerate(run_seeds(seeds, jobs), 1):
        answers, lasted_s = answers + result.answers, lasted_s + result.lasted_s
        if result.violations:
            failed += 1
            _print_result(result)
        _progress(done, len(seeds), failed)
    took_s = time.monotonic() - begun_s
    click.echo(
        f"{counted(len(seeds), 'cluster')}, one per seed: {_hours(lasted_s)} of virtual time and "
        f"{counted(answers, 'client call')} answered (replies and errors).\n"
        f"Took {took_s:.1f} s in {counted(jobs, 'worker')}, {took_s / len(seeds) * 1e3:.0f} ms per seed."
    )
    _exit_if_broken(failed, failed > 0)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def _progress(done: int, seeds: int, failed: int) -> None:
    """On a terminal, one line that is overwritten; otherwise one line per tenth of the seeds."""
    terminal = sys.stderr.isatty()
    if done == seeds or done % (10 if terminal else max(1, seeds // 10)) == 0:
        end = terminal and done < seeds
        broke = f"{failed} broke a promise" if failed else "all promises kept"
        click.echo(f"{done}/{seeds} seeds, {broke}" + ("\r" if end else ""), err=True, nl=not end)


def _print_result(result: SeedResult) -> None:
    """Print whether the seed kept all promises, or its first violations."""
    if not result.violations:
        click.echo(f"seed {result.seed}: all promises kept; trace {result.trace}")
        return
    broken = counted(len(result.violations), "time")
    click.secho(f"seed {result.seed}: a promise was broken {broken}; trace {result.trace}", fg="red")
    for violation in result.violations[:MAX_SHOWN]:
        promise = f"promise {violation.promise}" if violation.promise else "unexpected"
        click.echo(f"  at {violation.at_s:.6f} s, {promise}: {violation.text}")
    if len(result.violations) > MAX_SHOWN:
        click.echo(f"  and {len(result.violations) - MAX_SHOWN} more")
    click.echo(f"  to see the trace: billet sim --seed {result.seed} --trace")


def _exit_if_broken(failed: int, broken: bool) -> None:
    if broken:
        click.secho(f"{counted(failed, 'seed')} broke a promise", fg="red")
        raise SystemExit(1)
