"""`python -m chaos`: real processes on machines of their own, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from billet.core.errors import BilletError
from chaos.failover import SCENARIOS, measure
from chaos.namespaces import enter
from chaos.report import Report, printed
from chaos.rig import rig
from chaos.storm import rehearsal, storm

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.argument("scenario", type=click.Choice(["storm", "rehearsal", "failover", *SCENARIOS]), default="storm")
@click.option("--minutes", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Of the storm.")
@click.option("--seed", type=int, default=None, help="Of the storm's faults. [default: by chance]")
@click.option("--times", type=click.IntRange(1), default=20, show_default=True, help="Trials of each other scenario.")
@click.option("--report", type=click.Path(dir_okay=False), help="Write what was found to this Markdown file.")
@click.option(
    "--keep", type=click.Path(file_okay=False), help="Folder for the logs. [default: removed if all is well]"
)
def main(scenario: str, minutes: float, seed: int | None, times: int, report: str | None, keep: str | None) -> None:
    """Three servers, three etcd members and six hosts, each on a machine of its own, with everything going wrong.

    storm: faults by chance under a crowd of clients, with all promises checked after each round. rehearsal: the same
    for a minute, with three faults that are always the same. failover: how long each single failure is felt, all
    scenarios one after another; each can also be named alone.
    """
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    try:
        enter("chaos", sys.argv[1:])
        folder = Path(keep or tempfile.mkdtemp(prefix="billet-chaos-"))
        folder.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(_run(scenario, minutes * 60, seed, times, folder))
    except BilletError as error:
        sys.exit(f"chaos: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if report:
        Path(report).write_text(found.markdown())
    if found.violations:
        console.print(f"logs: {folder}")
    sys.exit(1 if found.violations else 0)


async def _run(scenario: str, for_s: float, seed: int, times: int, folder: Path) -> Report:
    found = Report()
    say = console.print
    if scenario in ("storm", "rehearsal"):
        say(f"{scenario}, --seed {seed}")
        async with rig(folder, say) as running:
            found.storm = await (storm(running, for_s, seed) if scenario == "storm" else rehearsal(running, seed))
            found.checked(running)
    else:
        names = list(SCENARIOS) if scenario == "failover" else [scenario]
        async with rig(folder, say, vcpu=50_000, memory_mib=1 << 30, boot_mean_s=0.002) as running:
            for name in names:
                found.distributions.append(await measure(running, name, SCENARIOS[name], times, seed))
            found.checked(running)
    say(printed(found))
    return found


if __name__ == "__main__":
    main()
