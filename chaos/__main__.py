"""`python -m chaos`: run chaos scenarios on real processes, and check every promise."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from billet.core.errors import BilletError
from chaos.failover import SCENARIOS, measure
from chaos.namespaces import enter
from chaos.report import Report, markdown, printed, read, write
from chaos.rig import rig
from chaos.storm import REHEARSALS, rehearsal, storm

PAGE = Path("docs/chaos-report.md")

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.argument("scenario", type=click.Choice(["storm", *REHEARSALS, "failover", *SCENARIOS]), default="storm")
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Duration of the storm.")
@click.option("--seed", type=int, default=None, help="Seed of the storm's faults. [default: random]")
@click.option("--times", type=click.IntRange(1), default=20, show_default=True, help="Trials of each other scenario.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), help="Add the results to this file.")
@click.option("--report", is_flag=True, help=f"Write {PAGE}, of this run, or of all runs in --results.")
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder for the logs.")
def main(
    scenario: str, minutes: float, seed: int | None, times: int, results: Path | None, report: bool, keep: Path | None
) -> None:
    """Inject faults into three servers, three etcd members and six hosts, each in a network namespace of its own.

    storm: random faults under load, with all promises checked after each round. rehearsal: a storm of one minute with
    three fixed faults. intruders: the same, with agents that are not what they say. broken: with flintlockds that
    answer and do not work. failover: measures how long each single failure is felt; runs all its scenarios one after
    another, each of which can also be named alone.
    """
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    try:
        enter("chaos", sys.argv[1:])
        found = _in_folder(keep, lambda folder: _found(_run(scenario, minutes * 60, seed, times, folder), results))
    except BilletError as error:
        sys.exit(f"chaos: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(printed(found))
    if report:
        PAGE.write_text(markdown(read(results) if results else found))
    sys.exit(1 if found.violations else 0)


def _in_folder(keep: Path | None, work: Callable[[Path], Coroutine[Any, Any, Report]]) -> Report:
    """Work in a folder, which is kept if the user wants it, or if violations were found."""
    folder = keep or Path(tempfile.mkdtemp(prefix="billet-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = asyncio.run(work(folder))
    if keep or found.violations:
        console.print(f"logs: {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return found


async def _found(pieces: AsyncIterator[Report], results: Path | None) -> Report:
    """Collect all results in one report, and save each as soon as it is there."""
    found = Report()
    async for piece in pieces:
        found.join(piece)
        if results:
            everything = read(results)
            everything.join(piece)
            write(results, everything)
    return found


async def _run(scenario: str, for_s: float, seed: int, times: int, folder: Path) -> AsyncIterator[Report]:
    """Yield the results of each scenario."""
    say = console.print
    if scenario == "storm" or scenario in REHEARSALS:
        say(f"{scenario}, --seed {seed}")
        async with rig(folder, say) as running:
            if scenario == "storm":
                found = await storm(running, for_s, seed)
            else:
                found = await rehearsal(running, seed, REHEARSALS[scenario])
            yield Report(storms=[found]).checked(running)
        return
    names = list(SCENARIOS) if scenario == "failover" else [scenario]
    async with rig(folder, say, vcpu=50_000, memory_mib=1 << 30, boot_mean_s=0.002) as running:
        for name in names:
            trials = await measure(running, name, SCENARIOS[name], times, seed)
            yield Report(distributions=[trials]).checked(running)


if __name__ == "__main__":
    main()
