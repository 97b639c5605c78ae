"""Workloads in which few hosts have a GPU: how many microVMs that require one find no room (docs/lab)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import msgspec

from billet.core.scoring import Weights
from billet.whatif.measures import Balance
from billet.whatif.recorded_workload import watched
from billet.whatif.rules import own
from billet.whatif.simulation import mean_balance, run
from billet.whatif.workload import Create, Workload, read
from workloads.generator import Generator, WorkloadId

Labels = dict[str, str]
GPU: Labels = {"gpu": "yes"}
ASKS: Labels = {"billet.io/require.gpu": "yes"}


class Case(NamedTuple):
    """One host of `every` has a GPU. `ordinary`: demand of the others, as a share of the fleet, before the first asks
    for one; None = they come mixed, all through the workload. `gpu`: demand of those that ask, as a share of the room
    of their hosts (mixed: when the fleet is 70 % full)."""

    shape: str
    hosts: int
    every: int
    ordinary: float | None
    gpu: float


CASES = (
    *(Case("mix", 40, every, ordinary, gpu)
      for every in (20, 10, 5, 4, 3) for ordinary, gpu in ((0.5, 0.9), (0.7, 0.45), (0.7, 0.8), (0.85, 0.5))),
    Case("small", 40, 10, 0.7, 0.8), Case("mix", 10, 10, 0.7, 0.8), Case("mix", 100, 20, 0.7, 0.8),
    Case("mix", 40, 10, None, 0.4), Case("mix", 40, 10, None, 0.8), Case("small", 40, 4, None, 0.5),
)  # fmt: skip


class Outcome(NamedTuple):
    """The balance when the ordinary ones are placed (mixed: at 70 %), and the refused shares of either kind."""

    balance: Balance
    asking: float
    ordinary: float


def workload(case: Case, seed: int) -> Workload:
    """A standard workload whose hosts have these labels, and some of whose creates ask for one."""
    tree = Generator(WorkloadId(case.shape, case.hosts, seed)).generate()
    for host in tree["hosts"][:: case.every]:
        host["labels"] = GPU
    tree["events"] = list(_mixed(tree, case, seed) if case.ordinary is None else _after(tree, case))
    with TemporaryDirectory() as directory:
        path = Path(directory) / "workload.json"
        path.write_bytes(msgspec.json.encode(tree))
        return read(path)


def _after(tree: dict[str, Any], case: Case) -> Iterator[dict[str, Any]]:
    """Creates up to the share of the fleet, then those that ask for a GPU up to the share of their hosts."""
    creates = (event for event in tree["events"] if event["op"] == "create")
    assert case.ordinary is not None
    yield from _up_to(creates, tree["hosts"], case.ordinary)
    yield {"op": "mark", "name": "filled"}
    with_gpu = [host for host in tree["hosts"] if host.get("labels") == GPU]
    yield from (event | {"labels": ASKS} for event in _up_to(creates, with_gpu, case.gpu))


def _up_to(creates: Iterator[dict[str, Any]], hosts: list[dict[str, Any]], share: float) -> Iterator[dict[str, Any]]:
    room = [sum(host[kind] for host in hosts) for kind in ("vcpu", "mem_mib")]
    wanted = [0, 0]
    for event in creates:
        wanted = [wanted[0] + event["vcpu"], wanted[1] + event["mem_mib"]]
        if max(wanted[0] / room[0], wanted[1] / room[1]) > share:
            return
        yield event


def _mixed(tree: dict[str, Any], case: Case, seed: int) -> Iterator[dict[str, Any]]:
    """The standard events; so many creates ask, evenly, that they want this share of their hosts at 70 %."""
    asking, part = 0.0, case.gpu / case.every / 0.7
    for event in tree["events"]:
        if event["op"] == "create":
            asking += part
        if asking >= 1.0:
            asking -= 1.0
            event |= {"labels": ASKS}
        yield event


def play(case: Case, weights: Weights, seeds: range) -> Outcome:
    """Means over the seeds."""
    balances: list[Balance] = []
    asked, refused = [0, 0], [0, 0]
    for seed in seeds:
        chosen: dict[str, str | None] = {}
        played = workload(case, seed)
        balances.append(run(played, watched(own(weights), "", chosen)).marks["filled"])
        for event in played.events:
            if isinstance(event, Create):
                asked[bool(event.wanted)] += 1
                refused[bool(event.wanted)] += chosen[event.vm] is None
    return Outcome(mean_balance(balances), refused[1] / asked[1], refused[0] / asked[0])


def rows(seeds: range = range(1, 4)) -> Iterator[tuple[Case, Outcome, Outcome]]:
    """Each case without and with the rule."""
    for case in CASES:
        yield case, play(case, Weights(scarcity=0.0), seeds), play(case, Weights(), seeds)
