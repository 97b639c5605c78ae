"""`billet demo`: runs a whole cluster on this machine."""

from __future__ import annotations

import click

from billet.commands.options import FiniteFloat


@click.command()
@click.option(
    "--hosts", type=click.IntRange(1, 100), default=5, show_default=True, help="Number of hosts, of different sizes."
)
@click.option(
    "--servers",
    type=click.IntRange(1, 7),
    default=1,
    show_default=True,
    help="Number of Billet servers. More than one needs etcd.",
)
@click.option(
    "--store",
    default="",
    metavar="sqlite|etcd|URL",
    help="The servers' store. etcd = start an etcd here.  [default: sqlite with one server, else etcd]",
)
@click.option(
    "--create",
    type=click.IntRange(0, 10_000),
    default=None,
    help="Number of microVMs to create.  [default: 60; 0 with --json --keep]",
)
@click.option(
    "--rate",
    "rate_per_s",
    type=FiniteFloat(0.1, 1000),
    default=10.0,
    show_default=True,
    help="Creates per second, on average.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of creates sent together, as when a cluster grows. The average rate stays the same.",
)
@click.option("--boot-mean-s", type=FiniteFloat(0), default=0.3, show_default=True, help="Mean seconds of one boot.")
@click.option(
    "--pull-mean-s",
    type=FiniteFloat(0),
    default=0.5,
    show_default=True,
    help="Mean seconds of an image's first pull on a host.",
)
@click.option(
    "--sigma",
    type=FiniteFloat(0),
    default=0.2,
    show_default=True,
    help="Variation of these times; 0.2 = about 20 %, 0 = none.",
)
@click.option(
    "--seed",
    type=int,
    default=1,
    show_default=True,
    help="Seed of the names, sizes and boot times. The same seed repeats a run.",
)
@click.option("--keep", is_flag=True, help="Keep the cluster running until Ctrl-C.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print only two JSON lines: the addresses when ready, and the results at the end.",
)
def demo(
    hosts: int, servers: int, store: str, create: int | None, rate_per_s: float, at_once: int,
    boot_mean_s: float, pull_mean_s: float, sigma: float, seed: int, keep: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run a whole cluster on this machine and compare it with a static list of hosts.

    Starts servers, agents and fake flintlockds as real processes, creates microVMs through plain Flintlock gRPC and
    explains one auction. Then creates the same microVMs on equal hosts, each host chosen by crc32(name) % N, as
    clients of Flintlock do today. Finally compares the bids' predictions with the actual results; to judge them, use
    --create 400 --at-once 20. Leaves nothing behind.
    """
    from billet.demo.cluster import BootTimes
    from billet.demo.walkthrough import DemoSettings, run_demo

    if create is None:
        create = 0 if keep and as_json else 60
    boots = BootTimes(boot_mean_s, pull_mean_s, sigma, seed)
    store = store or ("sqlite" if servers == 1 else "etcd")
    run_demo(DemoSettings(hosts, servers, store, create, rate_per_s, at_once, boots, keep, as_json))
