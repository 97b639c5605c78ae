"""What the demo shows: the hosts filling up, and the two ways beside each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from billet.core.accuracy import Errors
from billet.demo.cluster import FakeHost, ServerAddress
from billet.demo.load import HostLoad, LoadRun
from billet.show.marks import bar, duration, gib, table

BAR_WIDTH = 24
SPEC = (
    '{"namespace": "demo", "vcpu": 1, "memory_in_mb": 1024, "kernel": {"image": "example.org/kernel:1", '
    '"filename": "boot/vmlinux"}, "root_volume": {"id": "root", "source": {"container_source": "example.org/os:1"}}, '
    '"interfaces": [{"device_id": "eth1", "type": "TAP"}]}'
)
FLINTLOCK_CALL = "billet create and billet delete take a flintlockd as --server, too"
ENDED = """\
All of it is gone again.
To look around in a running one: billet demo --keep, or make demo ARGS="--keep".
To kill the leader of three servers: billet demo --keep --servers 3.
With real flintlockds: README.md.
"""
NOTE = (
    "All the fakes boot at one speed, however full they are, so that equal counts boot soonest. Billet gives a "
    "larger host more microVMs, and none more than it has. A real host that is promised twice gets slower, or kills "
    "guests for memory; that is not in these times.\n"
)


def filling(title: str, run: LoadRun) -> RenderableType:
    """The hosts of a run under way."""
    made = table("HOST", ">vCPU", ">GiB", "HOW FULL", ">MICROVMS", ">CREATED", title=title)
    for load in run.loads:
        made.add_row(*_host_row(load))
    total = len(run.shapes)
    progress = Table.grid(padding=(0, 1))
    progress.add_row(" created", ProgressBar(total, len(run.took_s), width=40), f"{len(run.took_s)}/{total}")
    if run.refused:
        progress.add_row(" refused", f"{len(run.refused)}, for example: {next(iter(run.refused.values()))}")
    return Group(made, progress, "")


def _host_row(load: HostLoad) -> tuple[RenderableType, ...]:
    size = load.size
    return (
        Text(size.id, style="bold"),
        f"{load.vcpu}/{size.vcpu}",
        f"{gib(load.memory_mib)}/{gib(size.memory_mib)}",
        bar(load.share, BAR_WIDTH),
        str(load.vms),
        str(load.created),
    )


def side_by_side(billet: LoadRun, static: LoadRun) -> RenderableType:
    """The hosts as each way has filled them."""
    made = table("HOST", ">vCPU", ">GiB", "BILLET", ">VMs", "STATIC LIST", ">VMs")
    for ours, theirs in zip(billet.loads, static.loads, strict=True):
        size = ours.size
        made.add_row(
            Text(size.id, style="bold"),
            str(size.vcpu),
            gib(size.memory_mib),
            bar(ours.share, 14),
            str(ours.vms),
            bar(theirs.share, 14),
            str(theirs.vms),
        )
    return made


def comparison(billet: LoadRun, static: LoadRun) -> RenderableType:
    """The figures of both ways, and how many times one is the other."""
    made = table("", ">BILLET", ">STATIC LIST", "")
    made.add_row(
        "spread of load over the hosts", f"{billet.spread:.2f}", f"{static.spread:.2f}",
        _times(billet.spread, static.spread, "more even"),
    )  # fmt: skip
    made.add_row(
        "fullest host", f"{billet.fullest:.0%}", f"{static.fullest:.0%}",
        _times(billet.fullest, static.fullest, "emptier"),
    )  # fmt: skip
    made.add_row("hosts promised more than they have", str(len(billet.overcommitted)), str(len(static.overcommitted)))
    made.add_row("microVMs on such hosts", _crowded(billet), _crowded(static))
    if billet.refused or static.refused:
        made.add_row("creates refused", str(len(billet.refused)), str(len(static.refused)))
    for label, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        ours, theirs = billet.percentile_s(share), static.percentile_s(share)
        made.add_row(f"time to CREATED, {label}", duration(ours), duration(theirs), _times(ours, theirs, "faster"))
    return made


def accuracy(found: Errors) -> RenderableType:
    """How well the bids that won have foretold what came."""
    made = table("", ">", "")
    made.add_row("utilisation, foretold against reported", f"{found.worst:.2%}", f"at most, of {found.outcomes}")
    if found.error is not None and found.within is not None:
        low, high = 0.9 - found.chance, min(1.0, 0.9 + found.chance)
        made.add_row("time to CREATED, median error", f"{found.error:.1%}", f"of {found.boots} that were foretold")
        made.add_row("within the bound for 90 %", f"{found.within:.1%}", f"by chance alone {low:.1%} to {high:.1%}")
    return made


def alone(sigma: float) -> str:
    """What so few boots, of which some wait for no other, cannot say. Half of all draws are 0.67 sigma off."""
    return (
        f"Boots vary by {sigma:.0%} here, and so one that waits for no other cannot be foretold to better than "
        f"{0.67 * sigma:.0%}, and some dozens do not say how good a bound is. To judge bids: "
        "--create 400 --at-once 20.\n"
    )


def _crowded(run: LoadRun) -> str:
    return str(sum(load.vms for load in run.overcommitted))


def _times(ours: float, theirs: float, better: str) -> Text:
    """How the two compare, said from Billet's side and in green or red."""
    worse = {"more even": "less even", "emptier": "fuller", "faster": "slower"}[better]
    if not ours or not theirs or abs(ours - theirs) < 0.05 * max(ours, theirs):
        return Text("about the same" if ours and theirs else "", style="dim")
    if ours < theirs:
        return Text(f"{theirs / ours:.1f} times {better}", style="green")
    return Text(f"{ours / theirs:.1f} times {worse}", style="red")


def to_try(servers: Sequence[ServerAddress], leads: ServerAddress, uid: str, hosts: Sequence[FakeHost]) -> str:
    """The commands for a person who wants to look around, each to be copied as it is."""
    meet = next((server for server in servers if server is not leads), leads)
    made = [f"explain {uid}", f"explain {uid} --why-not {hosts[0].size.id}", f"delete {uid}"] if uid else []
    return f"""\
Still running until Ctrl-C. In another terminal:

  export PATH="{Path(sys.executable).parent}:$PATH" BILLET_SERVER={meet.grpc}
  billet hosts
  billet vms
{"".join(f"  billet {command}{chr(10)}" for command in made)}\
  echo '{SPEC}' | billet create --wait --name mine -f -
  curl -s http://{meet.http}/v1alpha1/microvm/demo
{_servers(servers, leads)}
The fakes, for direct calls
({FLINTLOCK_CALL}):
{"".join(f"  {host.size.id:<9} {host.flintlock}{chr(10)}" for host in hosts)}"""


def _servers(servers: Sequence[ServerAddress], leads: ServerAddress) -> str:
    """Where each server is; with several, how to see another one take over."""
    if len(servers) == 1:
        return ""
    rows = (
        f"  {server.id:<9} {server.grpc:<21} {server.http:<21} {'leads' if server is leads else 'follows'}\n"
        for server in servers
    )
    return f"""
Any server takes any request, and passes it on to the one that leads:

  {"SERVER":<9} {"gRPC":<21} {"HTTP":<21}
{"".join(rows)}
Kill the leader; another one takes over, and nothing is lost:

  kill -9 {leads.process.pid}
  billet hosts
"""
