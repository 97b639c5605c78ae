"""`python -m workloads`: write the fixed workloads, or print the tables of docs/lab."""

from __future__ import annotations

from pathlib import Path

import click

from workloads.generator import standard, text
from workloads.tables import TABLES


@click.group()
def main() -> None:
    """Fixed placement workloads, and the tables of docs/lab."""


@main.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def write(directory: Path) -> None:
    """Write every workload as JSON into DIRECTORY (42 files, 10 MB), for `billet simulate`."""
    directory.mkdir(parents=True, exist_ok=True)
    for workload in standard():
        (directory / f"{workload.name}.json").write_text(text(workload))
        click.echo(workload.name)


@main.command()
@click.argument("name", type=click.Choice([*TABLES, "all"]), default="central")
def table(name: str) -> None:
    """Generate the workloads, place them with every rule, and print a table.

    \b
    central  every rule on mix, 100 hosts, seeds 1 to 3 (a few seconds); the default
    pairs    Billet beside kube-scheduler's default on all workloads (a minute)
    batches  the same, with 32 and 128 creates placed as one batch (a minute)
    scarce   hosts with a GPU, and microVMs that ask for one (a minute)
    bursts   seconds that microVMs wait in bursts and streams, and how even that leaves the hosts (ten minutes)
    """
    for chosen in TABLES if name == "all" else [name]:
        for line in TABLES[chosen]():
            click.echo(line)
        click.echo()


if __name__ == "__main__":
    main(prog_name="python -m workloads")
