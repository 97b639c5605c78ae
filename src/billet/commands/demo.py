"""`billet demo`."""

from __future__ import annotations

import click

from billet.commands.options import Amount


@click.command()
@click.option(
    "--hosts", type=click.IntRange(1, 100), default=5, show_default=True, help="How many hosts, of different sizes."
)
@click.option(
    "--servers",
    type=click.IntRange(1, 7),
    default=1,
    show_default=True,
    help="How many Billet servers; more than one needs etcd.",
)
@click.option(
    "--store",
    default="",
    metavar="sqlite|etcd|URL",
    help="Default: sqlite with one server, etcd with more. etcd starts one here.",
)
@click.option(
    "--create",
    type=click.IntRange(0, 10_000),
    default=None,
    help="How many microVMs. [default: 60, or none with --json --keep]",
)
@click.option(
    "--rate",
    "rate_per_s",
    type=Amount(0.1, 1000),
    default=10.0,
    show_default=True,
    help="Creates a second.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="They come so many at once, as when a cluster grows, at the same rate on average.",
)
@click.option("--boot-mean-s", type=Amount(0), default=0.3, show_default=True, help="Mean time of one boot.")
@click.option(
    "--pull-mean-s",
    type=Amount(0),
    default=0.5,
    show_default=True,
    help="Mean time of an image's first pull on a host.",
)
@click.option(
    "--sigma",
    type=Amount(0),
    default=0.2,
    show_default=True,
    help="How much these times vary; 0.2 = by about 20 %, 0 = not at all.",
)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="For names, shapes and boot times: the same again."
)
@click.option("--keep", is_flag=True, help="Leave it running until Ctrl-C, to look around.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="No pictures: one JSON line with the addresses when ready, one with the figures at the end.",
)
def demo(
    hosts: int, servers: int, store: str, create: int | None, rate_per_s: float, at_once: int,
    boot_mean_s: float, pull_mean_s: float, sigma: float, seed: int, keep: bool, as_json: bool,
) -> None:  # fmt: skip
    """A whole cluster on this machine, and what a static list of hosts would have done.

    Starts servers, agents and fake flintlockds as real processes, creates microVMs through plain Flintlock gRPC,
    explains one auction, then runs the same microVMs on the same hosts with the host chosen by crc32(name) % N, as
    clients of Flintlock do today. Ends with what the bids foretold, and what came; --create 400 --at-once 20 are
    enough to judge that by. Leaves nothing behind.
    """
    from billet.demo.cluster import BootTimes
    from billet.demo.walkthrough import Settings, tell

    if create is None:
        create = 0 if keep and as_json else 60
    boots = BootTimes(boot_mean_s, pull_mean_s, sigma, seed)
    store = store or ("sqlite" if servers == 1 else "etcd")
    tell(Settings(hosts, servers, store, create, rate_per_s, at_once, boots, keep, as_json))
