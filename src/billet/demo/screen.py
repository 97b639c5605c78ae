"""Renders the demo: the hosts while they fill up, and the comparison of Billet with the static list."""

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
FLINTLOCK_CALL = "billet create and billet delete also accept a flintlockd as --server"
ENDED = """\
The demo has removed everything it started.
To keep the cluster running: billet demo --keep, or make demo ARGS="--keep".
To try a failover: add --servers 3, then kill the leader.
For real flintlockds: see README.md.
"""
NOTE = (
    "All fake hosts boot at the same speed, however full they are, so equal numbers of microVMs boot soonest. Billet "
    "gives larger hosts more microVMs, and overcommits none. A real overcommitted host gets slower or kills guests "
    "for lack of memory; these times do not show that.\n"
)


def filling(title: str, run: LoadRun) -> RenderableType:
    """The hosts of a run in progress."""
    hosts = table("HOST", ">vCPU", ">GiB", "HOW FULL", ">MICROVMS", ">CREATED", title=title)
    for load in run.loads:
        hosts.add_row(*_host_row(load))
    total = len(run.shapes)
    progress = Table.grid(padding=(0, 1))
    progress.add_row(" created", ProgressBar(total, len(run.took_s), width=40), f"{len(run.took_s)}/{total}")
    if run.refused:
        progress.add_row(" refused", f"{len(run.refused)}, for example: {next(iter(run.refused.values()))}")
    return Group(hosts, progress, "")


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
    """The final load of each host under Billet and under the static list."""
    hosts = table("HOST", ">vCPU", ">GiB", "BILLET", ">VMs", "STATIC LIST", ">VMs")
    for ours, theirs in zip(billet.loads, static.loads, strict=True):
        size = ours.size
        hosts.add_row(
            Text(size.id, style="bold"),
            str(size.vcpu),
            gib(size.memory_mib),
            bar(ours.share, 14),
            str(ours.vms),
            bar(theirs.share, 14),
            str(theirs.vms),
        )
    return hosts


def comparison(billet: LoadRun, static: LoadRun) -> RenderableType:
    """The results of both runs, and the factor between them."""
    results = table("", ">BILLET", ">STATIC LIST", "")
    results.add_row(
        "unevenness of load (CoV)", f"{billet.cov:.2f}", f"{static.cov:.2f}",
        _times(billet.cov, static.cov, "more even"),
    )  # fmt: skip
    results.add_row(
        "fullest host", f"{billet.fullest:.0%}", f"{static.fullest:.0%}",
        _times(billet.fullest, static.fullest, "emptier"),
    )  # fmt: skip
    results.add_row("overcommitted hosts", str(len(billet.overcommitted)), str(len(static.overcommitted)))
    results.add_row("microVMs on overcommitted hosts", _on_overcommitted(billet), _on_overcommitted(static))
    if billet.refused or static.refused:
        results.add_row("creates refused", str(len(billet.refused)), str(len(static.refused)))
    for label, share in (("p50", 0.5), ("p99", 0.99), ("longest", 1.0)):
        ours, theirs = billet.percentile_s(share), static.percentile_s(share)
        results.add_row(f"time to CREATED, {label}", duration(ours), duration(theirs), _times(ours, theirs, "faster"))
    return results


def accuracy_table(found: Errors) -> RenderableType:
    """Predicted vs actual results of the winning bids."""
    results = table("", ">", "")
    results.show_header = False
    results.add_row(
        "utilisation, predicted vs reported", f"{found.worst:.2%}", f"largest of {found.outcomes} differences"
    )
    if found.error is not None and found.within is not None:
        results.add_row("time to CREATED, median error", f"{found.error:.1%}", f"of {found.boots} predictions")
        results.add_row(
            "within the 90 % bound", f"{found.within:.1%}", f"90% is ideal; ±{found.chance:.1%} is chance"
        )
    return results


def accuracy_note(sigma: float) -> str:
    """Why few boots are not enough to judge predictions. Half of all draws are off by 0.67 sigma or more."""
    return (
        f"A host predicts nothing before its first boot. Boot times vary by {sigma:.0%} here, so a single boot "
        f"cannot be predicted to better than {0.67 * sigma:.0%}, and a few dozen boots are too few to judge the "
        "bound. To judge predictions, use --create 400 --at-once 20.\n"
    )


def _on_overcommitted(run: LoadRun) -> str:
    return str(sum(load.vms for load in run.overcommitted))


def _times(ours: float, theirs: float, better: str) -> Text:
    """Billet compared with the static list: green if better, red if worse."""
    worse = {"more even": "less even", "emptier": "fuller", "faster": "slower"}[better]
    if not ours or not theirs or abs(ours - theirs) < 0.05 * max(ours, theirs):
        return Text("about the same" if ours and theirs else "", style="dim")
    if ours < theirs:
        return Text(f"{theirs / ours:.1f} times {better}", style="green")
    return Text(f"{ours / theirs:.1f} times {worse}", style="red")


def commands_to_try(
    servers: Sequence[ServerAddress], leader: ServerAddress, uid: str, hosts: Sequence[FakeHost]
) -> str:
    """Commands to try on the running cluster, ready to copy."""
    server = next((server for server in servers if server is not leader), leader)
    for_uid = [f"explain {uid}", f"explain {uid} --why-not {hosts[0].size.id}", f"delete {uid}"] if uid else []
    return f"""\
The cluster keeps running until Ctrl-C. In another terminal:

  export PATH="{Path(sys.executable).parent}:$PATH" BILLET_SERVER={server.grpc}
  billet hosts
  billet vms
{"".join(f"  billet {command}{chr(10)}" for command in for_uid)}\
  echo '{SPEC}' | billet create --wait --name mine -f -
  curl -s http://{server.http}/v1alpha1/microvm/demo
{_servers(servers, leader)}
The fake flintlockds, for direct calls
({FLINTLOCK_CALL}):
{"".join(f"  {host.size.id:<9} {host.flintlock}{chr(10)}" for host in hosts)}"""


def _servers(servers: Sequence[ServerAddress], leader: ServerAddress) -> str:
    """With several servers: their addresses, and how to try a failover."""
    if len(servers) == 1:
        return ""
    rows = (
        f"  {server.id:<9} {server.grpc:<21} {server.http:<21} {'leads' if server is leader else 'follows'}\n"
        for server in servers
    )
    return f"""
Every server accepts every request and forwards it to the leader:

  {"SERVER":<9} {"gRPC":<21} {"HTTP":<21}
{"".join(rows)}
Kill the leader; another server takes over, and nothing is lost:

  kill -9 {leader.process.pid}
  billet hosts
"""
