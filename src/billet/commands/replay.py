"""`billet replay`: the auctions on record, placed again by another policy or on another fleet."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from billet.commands.options import client_options, console, output_option, tell, write
from billet.core.errors import BilletError, ConfigError
from billet.core.model import Resources
from billet.core.policies import POLICIES

if TYPE_CHECKING:
    from billet.client import Address
    from billet.whatif.recorded_workload import Past, Shadow
    from billet.whatif.simulation import SimulationResult

SHAPE = re.compile(r"(\d+)[x\u00d7](\d+)c(\d+)g(?:(\d+)d)?", re.IGNORECASE)
SAMPLES = 160  # moments in a chart
SLOTS = 1000  # of a host that is thought up; an agent's own default of --max-vms
MOST_ADDED = 100_000  # hosts that may be thought up at once; more than a fleet has, and less than memory


class Source(NamedTuple):
    """Records and ends as bytes, and whose they are."""

    records: list[bytes]
    ends: list[bytes]
    whose: str


class Row(NamedTuple):
    """One line of the answer; `elsewhere` counts microVMs that it puts where they were not."""

    result: SimulationResult
    elsewhere: int


@click.command()
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(list(POLICIES)),
    help="Had this policy decided. May be given again. Default: the one that did.",
)  # fmt: skip
@click.option("--without", multiple=True, metavar="HOST", help="Had this host not been there. May be given again.")
@click.option(
    "--with", "more", multiple=True, metavar="NxSHAPE",
    help="Had N more hosts been there: 3x16c32g is three of 16 vCPU and 32 GiB memory; 3x16c32g500d has 500 GiB disk"
    " each, else as much as the largest host. May be given again.",
)  # fmt: skip
@click.option(
    "--data-dir", "folders", multiple=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Read the records in this server's --data-dir instead of asking a server. Give each server's.",
)  # fmt: skip
@click.option(
    "--shadow", "beside", is_flag=True,
    help="How often the policy of billet server --shadow decided otherwise, and what it would have come to.",
)  # fmt: skip
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report with charts here.")
@client_options
@output_option
def replay(
    address: Address, output: str, policies: tuple[str, ...], without: tuple[str, ...], more: tuple[str, ...],
    folders: tuple[Path, ...], beside: bool, html: Path | None,
) -> None:  # fmt: skip
    """Ask what would have happened to the auctions on record: by another policy, or on another fleet.

    The first row is what happened. The others place the same creates anew, each microVM for as long as it lived,
    with the engine of `billet simulate`; what had to be assumed is said below the table.

    \b
    billet replay --policy pack
    billet replay --shadow
    billet replay --without host-3
    billet replay --with 3x16c32g --html report.html
    """
    from billet.whatif.recorded_workload import assumed

    added = [shape for text in more for shape in shapes(text)]
    source = _from_files(folders) if folders else _from_server(address)
    known, shades = _past(source)
    if beside:
        if not shades:
            raise BilletError("no policy ran in the shadow of these auctions; see --shadow of billet server")
        policies = (*policies, *(shade.policy for shade in shades))
    missing = [host_id for host_id in without if host_id not in known.hosts]
    if missing:
        raise BilletError(f"no host {missing[0]!r} is on record; there are {', '.join(sorted(known.hosts))}")
    rows = _play(known, policies, without, _added(known, added), SAMPLES if html else 0)
    said = [_said(known, source), *(map(_shade, shades) if beside else ())]
    _print(" ".join(said), assumed(known, without), rows, output, html)


def shapes(text: str) -> list[Resources]:
    """The hosts that 3x16c32g stands for; disk_mib is 0 where the text does not say. Raises ConfigError."""
    match = SHAPE.fullmatch(text.replace(" ", ""))
    if not match:
        raise ConfigError(f"--with {text!r}: write NxSHAPE, for example 3x16c32g or 3x16c32g500d")
    count, vcpu, memory_gib, disk_gib = (int(part or 0) for part in match.groups())
    if not (count and vcpu and memory_gib):
        raise ConfigError(f"--with {text!r}: no number may be 0")
    if count > MOST_ADDED:
        raise ConfigError(f"--with {text!r}: the most is {MOST_ADDED} hosts")
    return [Resources(vcpu, memory_gib * 1024, disk_gib * 1024, SLOTS)] * count


def _added(known: Past, shapes: Sequence[Resources]) -> dict[str, Resources]:
    disk_mib = max(room.disk_mib for room in known.hosts.values())
    return {
        f"new-{n}": shape if shape.disk_mib else shape._replace(disk_mib=disk_mib)
        for n, shape in enumerate(shapes, 1)
    }


def _from_files(folders: Sequence[Path]) -> Source:
    from billet.store.auction_log import read_file

    records: list[bytes] = []
    ends: list[bytes] = []
    for folder in folders:
        auctions, gone = read_file(folder / "auctions.db")
        records += auctions
        ends += gone
    return Source(records, ends, f"in {', '.join(map(str, folders))}")


def _from_server(address: Address) -> Source:
    """Page by page, so that no answer is large. What comes meanwhile is in the last page."""
    from billet.client import Client
    from billet.wire.pb import fleet_pb2 as pb

    got: dict[bool, list[bytes]] = {False: [], True: []}
    whose = ""
    with Client(address) as client:
        for gone, rows in got.items():
            after = 0
            while True:
                reply = client.fleet("Records", pb.RecordsRequest(after=after, gone=gone), pb.RecordsReply)
                rows += reply.record
                after, whose = reply.next, reply.server
                if not after:
                    break
    return Source(got[False], got[True], f"that {whose}, which leads now, held itself")


def _past(source: Source) -> tuple[Past, list[Shadow]]:
    from billet.whatif.recorded_workload import past, shadows
    from billet.wire.auction_records import decode, decode_gone

    records = [decode(data) for data in source.records]
    known = past(records, map(decode_gone, source.ends))
    if not known.hosts:
        raise BilletError(f"there are no auctions on record {source.whose}; see --record-auctions of billet server")
    return known, shadows(records)


def _play(
    known: Past, policies: Sequence[str], without: Sequence[str], more: dict[str, Resources], samples: int
) -> list[Row]:
    from billet.whatif.recorded_workload import as_it_happened, elsewhere, watched, workload
    from billet.whatif.rules import own
    from billet.whatif.simulation import run

    rows = [Row(run(workload(known), as_it_happened(known), samples=samples), 0)]
    otherwise = workload(known, without, more)
    if not otherwise.hosts:
        raise ConfigError("--without leaves no host")
    changes = "".join([*(f", without {host_id}" for host_id in without), f", with {len(more)} more" if more else ""])
    for policy in dict.fromkeys(policies or [known.weights.policy]):
        chosen: dict[str, str | None] = {}
        rule = own(known.weights._replace(policy=policy))
        result = run(otherwise, watched(rule, rule.title + changes, chosen), samples=samples)
        rows.append(Row(result, elsewhere(known, chosen)))
    return rows


def _print(said: str, notes: Sequence[str], played: Sequence[Row], output: str, html: Path | None) -> None:
    from billet.show.simulate import columns, compared, rows
    from billet.whatif.report import LOWER, page, pictures

    heads = [*columns(["peak", "end"]), "elsewhere"]
    body = rows({row.result.rule: [row.result] for row in played}, ["peak", "end"])
    body = [[*cells, str(row.elsewhere)] for cells, row in zip(body, played, strict=True)]
    if output == "json":
        click.echo(json.dumps({"records": said, "assumed": notes, "rows": [_plain(row) for row in played]}, indent=2))
    else:
        screen = console()
        tell(screen, said)
        screen.print(compared(heads, body, screen.width))
        tell(screen, "Assumed:")
        for note in notes:
            tell(screen, f"- {note}")
    if html:
        sections = [("The auctions on record", pictures([row.result for row in played]).values())]
        write(html, page(sections, heads, body, f"{said} {LOWER}", "billet replay", notes))


def _said(known: Past, source: Source) -> str:
    """What the records are."""
    begin, end = (datetime.fromtimestamp(at_s).strftime("%Y-%m-%d %H:%M:%S") for at_s in (known.from_s, known.to_s))
    again = f" ({known.again} refused tries came again and do not count)" if known.again else ""
    return (
        f"{known.records} auctions {source.whose}, {begin} to {end}: {len(known.placed)} microVMs placed,"
        f" {known.refused} refused{again}, {known.ended} ended, {len(known.hosts)} hosts."
    )


def _shade(shade: Shadow) -> str:
    share = f"{shade.others} of {shade.awards} awards that were carried out ({shade.others / shade.awards:.0%})"
    return f"In the shadow, {shade.policy} would have taken another host in {share}."


def _plain(row: Row) -> dict[str, object]:
    return {
        "rule": row.result.rule,
        "elsewhere": row.elsewhere,
        "marks": {mark: balance._asdict() for mark, balance in row.result.marks.items()},
        "refused": row.result.refused._asdict(),
    }
