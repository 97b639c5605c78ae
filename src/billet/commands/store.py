"""`billet store`: back up, restore and check the servers' store."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from billet.at_rest import exposed, server_files
from billet.commands.options import console, open_secrets, output_option, store_options
from billet.core.errors import ConfigError, StoreCorrupt
from billet.core.plural import counted

if TYPE_CHECKING:
    from billet.core.model import Host, Placement
    from billet.core.questions.checkup import Finding
    from billet.store.engine import Engine

ROUND_TRIPS = 20


@click.group()
def store() -> None:
    """Back up, restore and check the servers' store: the hosts and the placements."""


@store.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite FILE if it exists.")
@store_options
def backup(file: Path, force: bool, **where: str) -> None:
    """Write a consistent snapshot of the store to FILE. Servers may keep running.

    The file contains JSON lines. It can be restored into the other engine too, for example to move from SQLite to
    etcd.
    """
    from billet.store import backup as files

    async def work() -> files.Backup:
        async with opened(where, create=False) as engine:
            return await files.take(engine, datetime.now(UTC).isoformat(timespec="seconds"))

    if file.exists() and not force:
        raise ConfigError(f"{file} exists already; name another file or overwrite it with --force")
    taken = asyncio.run(work())
    files.write(taken, file)
    click.echo(f"{file}: {counted(taken.header.records, 'record')} as of revision {taken.header.revision}")


@store.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace the content of a store that is not empty.")
@store_options
def restore(file: Path, force: bool, **where: str) -> None:
    """Restore the store from FILE. Stop all servers first; agents and microVMs may keep running.

    MicroVMs created since the backup are not lost: their hosts report them, and Billet adopts them.
    """
    from billet.store import backup as files

    wanted = files.read(file)

    async def work() -> int:
        async with opened(where) as engine:
            with click.progressbar(length=wanted.header.records, label="Restoring", file=sys.stderr) as bar:
                return (await files.restore(engine, wanted, force, bar.update)).number

    term = asyncio.run(work())
    header = wanted.header
    records = counted(header.records, "record")
    click.echo(f"Restored {records} as of {header.at}; terms continue from {term}. Now start the servers.")


@store.command()
@store_options
@output_option
def check(output: str, **where: str) -> None:
    """Check that the store is reachable, consistent and has free space. Exit code 1 if it finds a problem.

    Only reads, so servers may keep running.
    """
    report = asyncio.run(_check(where))
    if output == "json":
        click.echo(json.dumps(report, indent=2))
    else:
        from billet.show.store import check_table

        console().print(check_table(report))
    if any(finding["wrong"] for finding in report["findings"]):
        sys.exit(1)


async def _check(where: dict[str, str]) -> dict[str, Any]:
    from billet.core.questions.checkup import Finding, findings

    async with opened(where, create=False) as engine:
        vitals = await engine.vitals()
        revision, records = await engine.records()
        trips_ms = [await _round_trip_ms(engine) for _ in range(ROUND_TRIPS)]
        leader = await engine.leader()
    hosts, placements, unreadable = _decoded(records)
    found = [Finding(True, text) for text in vitals.troubles] + unreadable + findings(hosts, placements)
    found += [Finding(False, text) for text in exposed(server_files(where["store"], where["data_dir"]))]
    return {
        **{name: value for name, value in vitals._asdict().items() if name != "troubles"},
        "round_trip_ms": round(median(trips_ms), 3),
        "round_trips": ROUND_TRIPS,
        "leader": leader.id if leader else "",
        "revision": revision,
        "hosts": len(hosts),
        "placements": len(placements),
        "findings": [finding._asdict() for finding in found],
    }


def _decoded(records: dict[str, bytes]) -> tuple[list[Host], list[Placement], list[Finding]]:
    from billet.core.questions.checkup import Finding
    from billet.core.state import PutHost, PutPlacement
    from billet.store.records import decode

    changes, unreadable = [], []
    for key, record in records.items():
        try:
            changes.append(decode(key, record))
        except StoreCorrupt as error:
            unreadable.append(Finding(True, error.text))
    hosts = [change.host for change in changes if isinstance(change, PutHost)]
    return hosts, [change.placement for change in changes if isinstance(change, PutPlacement)], unreadable


async def _round_trip_ms(engine: Engine) -> float:
    """Milliseconds of one read, which a majority answers if the store has several members."""
    began_s = time.perf_counter()
    await engine.leader()
    return (time.perf_counter() - began_s) * 1e3


@asynccontextmanager
async def opened(where: dict[str, str], create: bool = True) -> AsyncIterator[Engine]:
    """Open the store that the options name, and close it afterwards."""
    from billet.store.open import open_store

    open_secrets(where)
    tls = where["etcd_tls_ca"], where["etcd_tls_cert"], where["etcd_tls_key"]
    login = where["etcd_user"], where["etcd_password"]
    engine = open_store(where["store"], where["data_dir"], *tls, *login, create=create)
    try:
        await engine.open()
        yield engine
    finally:
        await engine.close()
