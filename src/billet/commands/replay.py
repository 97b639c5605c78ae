"""`billet replay`: repeats the recorded auctions with another policy or on another fleet."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from billet.commands.options import client_options, console, output_option, print_sentence
from billet.commands.report import write_report
from billet.core.errors import BilletError, ConfigError
from billet.core.model import Resources
from billet.core.policies import POLICIES

if TYPE_CHECKING:
    from billet.client import Address
    from billet.whatif.recorded_workload import Past, Shadow
    from billet.whatif.simulation import SimulationResult

SHAPE = re.compile(r"(\d+)[x\u00d7](\d+)c(\d+)g(?:(\d+)d)?", re.IGNORECASE)
SAMPLES = 160  # points in a chart
SLOTS = 1000  # microVM slots of an added host: the default of an agent's --max-vms
MAX_ADDED = 100_000  # hosts per --with: larger than any fleet, and fits in memory


class RecordSource(NamedTuple):
    """Encoded auction records and ends of microVMs, and where they come from."""

    records: list[bytes]
    ends: list[bytes]
    origin: str  # continues "12 auctions"


class ReplayRow(NamedTuple):
    """One line of the result; `elsewhere` counts the microVMs that it places on other hosts than they were on."""

    result: SimulationResult
    elsewhere: int


@click.command()
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(list(POLICIES)),
    help="Policy to replay the auctions with. Repeatable.  [default: the policy that was in force]",
)  # fmt: skip
@click.option("--without", multiple=True, metavar="HOST", help="Replay without this host. Repeatable.")
@click.option(
    "--with", "more", multiple=True, metavar="NxSHAPE",
    help="Replay with N more hosts: 3x16c32g = three hosts of 16 vCPU and 32 GiB memory; 3x16c32g500d = with 500 GiB"
    " disk each (default: as much as the largest host). Repeatable.",
)  # fmt: skip
@click.option(
    "--data-dir", "folders", multiple=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Read the records from a server's --data-dir instead of asking a server. Repeatable: give each server's.",
)  # fmt: skip
@click.option(
    "--shadow", "beside", is_flag=True,
    help="Show how often the policy of `billet server --shadow` chose another host, and replay with it.",
)  # fmt: skip
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a report with charts to this file."
)
@client_options
@output_option
def replay(
    address: Address, output: str, policies: tuple[str, ...], without: tuple[str, ...], more: tuple[str, ...],
    folders: tuple[Path, ...], beside: bool, html: Path | None,
) -> None:  # fmt: skip
    """Replay recorded auctions with another policy or on another fleet.

    The first row shows what happened. Each other row places the same creates again, every microVM for as long as it
    ran, with the simulator of `billet simulate`. The assumptions are listed below the table.

    \b
    billet replay --policy pack
    billet replay --shadow
    billet replay --without host-3
    billet replay --with 3x16c32g --html report.html
    """
    from billet.whatif.recorded_workload import assumed

    added = [shape for text in more for shape in shapes(text)]
    source = _from_files(folders) if folders else _from_server(address)
    known, shadow_policies = _past(source)
    if beside:
        if not shadow_policies:
            raise BilletError("no shadow policy was set during these auctions; see `billet server --shadow`")
        policies = (*policies, *(shadow.policy for shadow in shadow_policies))
    missing = [host_id for host_id in without if host_id not in known.hosts]
    if missing:
        raise BilletError(
            f"no host {missing[0]!r} is on record; the recorded hosts are {', '.join(sorted(known.hosts))}"
        )
    rows = _play(known, policies, without, _added(known, added), SAMPLES if html else 0)
    summary = [_summary(known, source), *(map(_shadow_text, shadow_policies) if beside else ())]
    _print(" ".join(summary), assumed(known, without), rows, output, html)


def shapes(text: str) -> list[Resources]:
    """Parse "3x16c32g" into hosts; disk_mib is 0 if the text has no disk. Raises ConfigError."""
    match = SHAPE.fullmatch(text.replace(" ", ""))
    if not match:
        raise ConfigError(f"--with {text!r}: write NxSHAPE, for example 3x16c32g or 3x16c32g500d")
    count, vcpu, memory_gib, disk_gib = (int(part or 0) for part in match.groups())
    if not (count and vcpu and memory_gib):
        raise ConfigError(f"--with {text!r}: no number may be 0")
    if count > MAX_ADDED:
        raise ConfigError(f"--with {text!r}: the maximum is {MAX_ADDED} hosts")
    return [Resources(vcpu, memory_gib * 1024, disk_gib * 1024, SLOTS)] * count


def _added(known: Past, shapes: Sequence[Resources]) -> dict[str, Resources]:
    disk_mib = max(room.disk_mib for room in known.hosts.values())
    return {
        f"new-{n}": shape if shape.disk_mib else shape._replace(disk_mib=disk_mib)
        for n, shape in enumerate(shapes, 1)
    }


def _from_files(folders: Sequence[Path]) -> RecordSource:
    from billet.store.auction_log import read_file

    records: list[bytes] = []
    ends: list[bytes] = []
    for folder in folders:
        auctions, gone = read_file(folder / "auctions.db")
        records += auctions
        ends += gone
    return RecordSource(records, ends, f"in {', '.join(map(str, folders))}")


def _from_server(address: Address) -> RecordSource:
    """Ask the server page by page, so that no reply is large. Records added meanwhile are in the last page."""
    from billet.client import Client
    from billet.wire.pb import fleet_pb2 as pb

    by_gone: dict[bool, list[bytes]] = {False: [], True: []}
    server = ""
    with Client(address) as client:
        for gone, rows in by_gone.items():
            after = 0
            while True:
                reply = client.fleet("Records", pb.RecordsRequest(after=after, gone=gone), pb.RecordsReply)
                if after and reply.server != server:  # another server leads now, and its pages are others
                    rows.clear()
                    after = 0
                    server = reply.server
                    continue
                rows += reply.record
                after, server = reply.next, reply.server
                if not after:
                    break
    return RecordSource(by_gone[False], by_gone[True], f"on record at {server}")


def _past(source: RecordSource) -> tuple[Past, list[Shadow]]:
    from billet.whatif.recorded_workload import past, shadows
    from billet.wire.auction_records import decode, decode_gone

    records = [decode(data) for data in source.records]
    known = past(records, map(decode_gone, source.ends))
    if not known.hosts:
        raise BilletError(f"no auctions on record {source.origin}; see `billet server --record-auctions`")
    return known, shadows(records)


def _play(
    known: Past, policies: Sequence[str], without: Sequence[str], more: dict[str, Resources], samples: int
) -> list[ReplayRow]:
    from billet.whatif.recorded_workload import as_it_happened, elsewhere, watched, workload
    from billet.whatif.rules import own
    from billet.whatif.simulation import run

    rows = [ReplayRow(run(workload(known), as_it_happened(known), samples=samples), 0)]
    changed = workload(known, without, more)
    if not changed.hosts:
        raise ConfigError("--without leaves no host; name fewer hosts")
    changes = "".join([*(f", without {host_id}" for host_id in without), f", with {len(more)} more" if more else ""])
    for policy in dict.fromkeys(policies or [known.weights.policy]):
        chosen: dict[str, str | None] = {}
        rule = own(known.weights._replace(policy=policy))
        result = run(changed, watched(rule, rule.title + changes, chosen), samples=samples)
        rows.append(ReplayRow(result, elsewhere(known, chosen)))
    return rows


def _print(summary: str, notes: Sequence[str], played: Sequence[ReplayRow], output: str, html: Path | None) -> None:
    from billet.show.simulate import columns, comparison_table, rows
    from billet.whatif.report import LOWER, page, pictures

    headings = [*columns(["peak", "end"]), "elsewhere"]
    body = rows({row.result.rule: [row.result] for row in played}, ["peak", "end"])
    body = [[*cells, str(row.elsewhere)] for cells, row in zip(body, played, strict=True)]
    if output == "json":
        click.echo(
            json.dumps({"records": summary, "assumed": notes, "rows": [_as_json(row) for row in played]}, indent=2)
        )
    else:
        screen = console()
        print_sentence(screen, summary)
        screen.print(comparison_table(headings, body, screen.width))
        print_sentence(screen, "Assumptions:")
        for note in notes:
            print_sentence(screen, f"- {note}")
    if html:
        sections = [("The recorded auctions", pictures([row.result for row in played]).values())]
        write_report(html, page(sections, headings, body, f"{summary} {LOWER}", "billet replay", notes))


def _summary(known: Past, source: RecordSource) -> str:
    """One sentence about the records: how many, from where, and of which time."""
    begin, end = (datetime.fromtimestamp(at_s).strftime("%Y-%m-%d %H:%M:%S") for at_s in (known.from_s, known.to_s))
    retries = f" (not counting {known.again} refused attempts that were retried)" if known.again else ""
    return (
        f"{known.records} auctions {source.origin}, {begin} to {end}: {len(known.placed)} microVMs placed,"
        f" {known.refused} refused{retries}, {known.ended} ended, {len(known.hosts)} hosts."
    )


def _shadow_text(shadow: Shadow) -> str:
    share = f"{shadow.others} of {shadow.awards} awards ({shadow.others / shadow.awards:.0%})"
    return f"The shadow policy {shadow.policy} chose another host in {share}."


def _as_json(row: ReplayRow) -> dict[str, object]:
    return {
        "rule": row.result.rule,
        "elsewhere": row.elsewhere,
        "marks": {mark: balance._asdict() for mark, balance in row.result.marks.items()},
        "refused": row.result.refused._asdict(),
    }
