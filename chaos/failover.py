"""Failover scenarios: inject one fault many times, and measure the gap in successful creates.

Each trial: a crowd creates through chosen servers, something happens, the crowd goes on until creates have flowed
again for a while; then the fault is healed, the fleet comes to rest, every promise is checked, the fleet is emptied.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from billet.core.errors import BilletError
from chaos.cluster import ETCD, HOSTS, SERVERS
from chaos.faults import Fault, Heads, Kill, Stop, kill_everything, vanish
from chaos.history import Kind, Op
from chaos.load import Crowd, empty
from chaos.rig import Rig

WARM_S = 1.0  # of load before the fault
WATCHED_S = 2.0  # of load after it, at the least
FLOWING = 64  # creates begun after the fault that must have been answered before a trial ends
PATIENCE_S = 60.0
SILENCE_S = 8.0  # how long a machine that vanishes stays away while the others work


@dataclass(slots=True)
class Trial:
    """Measurements of one trial."""

    gap_s: float  # the longest time without a successful create, from the fault on
    calm_gap_s: float  # the same before the fault: what this machine does by itself
    slowest_s: float  # the slowest successful create that was under way at the fault or begun after it
    calm_slowest_s: float
    creates: int
    errors: list[str]
    rest_s: float = 0.0  # from healing until the fleet was one again


@dataclass(slots=True)
class Distribution:
    """A scenario's trials."""

    name: str
    promise: str  # what the project promises, in words
    trials: list[Trial] = field(default_factory=list)
    violations: int = 0

    def of(self, attribute: str) -> tuple[float, float]:
        """Median and maximum of one of a trial's numbers."""
        values: list[float] = [getattr(trial, attribute) for trial in self.trials]
        return median(values), max(values)

    @property
    def errors(self) -> list[str]:
        """All errors that clients were told."""
        return [error for trial in self.trials for error in trial.errors]


def one_survivor(heads: Heads) -> Sequence[str]:
    """The servers that do not lead, of which one is used: the next after the leader."""
    return [SERVERS[(SERVERS.index(heads.server) + 1) % len(SERVERS)]]


def all_servers(heads: Heads) -> Sequence[str]:
    """A random server."""
    return SERVERS


@dataclass(frozen=True, slots=True)
class Scenario:
    """A failure to be measured: its faults come one after another, and `through` says which servers clients use."""

    promise: str
    faults: Callable[[Rig, Heads], Sequence[Fault]]
    through: Callable[[Heads], Sequence[str]] = one_survivor
    at_once: int = 64
    lasts_s: float = 0.0  # each is healed so long after its injection, the load still on; 0 = when the load has ended


async def measure(rig: Rig, name: str, scenario: Scenario, times: int, seed: int) -> Distribution:
    """The trials of one scenario."""
    found, chance = Distribution(name, scenario.promise), random.Random(f"{seed}/{name}")
    for n in range(1, times + 1):
        trial = await _trial(rig, scenario, chance, f"{name}-{n}", found)
        found.trials.append(trial)
        rig.say(
            f"{name} {n}/{times}: gap {trial.gap_s * 1e3:.0f} ms (before: {trial.calm_gap_s * 1e3:.0f}), slowest "
            f"{trial.slowest_s * 1e3:.0f} ms (before: {trial.calm_slowest_s * 1e3:.0f}), {trial.creates} creates, "
            f"{len(trial.errors)} errors, at rest {trial.rest_s:.1f} s after healing, {found.violations} violations"
        )
        for error in sorted(set(trial.errors))[:3]:
            rig.say(f"    {trial.errors.count(error)} x {error}")
    return found


async def _trial(rig: Rig, scenario: Scenario, chance: random.Random, prefix: str, found: Distribution) -> Trial:
    rig.fresh()
    heads = await rig.watch.heads()
    through = scenario.through(heads)
    crowd = Crowd(rig.clients, through, scenario.at_once, chance.randrange(1 << 30), only_creates=True, vcpus=(1,))
    begun_s = time.monotonic()
    working = asyncio.create_task(crowd.run(prefix))
    await _flowing(rig, begun_s, WARM_S)
    struck_s = time.monotonic()
    faults = scenario.faults(rig, heads)
    for fault in faults:
        await fault.inject()
        if scenario.lasts_s:
            await asyncio.sleep(scenario.lasts_s)
            await fault.heal()
            await rig.watch.until_etcd_is_whole()
    await _flowing(rig, time.monotonic(), WATCHED_S)
    crowd.stop.set()
    await working
    healed_s = time.monotonic()
    for fault in faults:
        await fault.heal()
    found.violations += await rig.verdict()
    creates = rig.history.of(Kind.CREATE)
    trial = _summed_up(creates, begun_s, struck_s)
    trial.rest_s = time.monotonic() - healed_s
    await empty(rig.clients, await rig.watch.until_led(), [op.uid for op in creates if op.ok])
    found.violations += await rig.verdict()
    return trial


async def _flowing(rig: Rig, since_s: float, at_least_s: float) -> None:
    """Wait until some creates that were begun since then are answered."""
    while True:
        await asyncio.sleep(0.1)
        now_s = time.monotonic()
        answered = sum(op.ok and op.begun_s > since_s for op in rig.history.of(Kind.CREATE))
        if answered >= FLOWING and now_s > since_s + at_least_s:
            return
        if now_s > since_s + PATIENCE_S:
            last = next(
                (f"{op.code}: {op.text}" for op in reversed(rig.history.ops) if op.code not in ("", "OK")),
                "no answers",
            )
            raise BilletError(f"{answered} creates in {PATIENCE_S:g} s: {last}")


def _summed_up(creates: Sequence[Op], begun_s: float, struck_s: float) -> Trial:
    good = [op for op in creates if op.ok]
    done_s = sorted(op.ended_s for op in good)
    before = [begun_s, *(at_s for at_s in done_s if at_s <= struck_s)]
    after = [before[-1], *(at_s for at_s in done_s if at_s > struck_s)]
    return Trial(
        gap_s=_longest(after),
        calm_gap_s=_longest(before[1:]),
        slowest_s=max((op.ended_s - op.begun_s for op in good if op.ended_s > struck_s), default=0.0),
        calm_slowest_s=max((op.ended_s - op.begun_s for op in good if op.ended_s <= struck_s), default=0.0),
        creates=len(good),
        errors=[f"{op.code}: {op.text}" for op in creates if not op.ok],
    )


def _longest(times_s: Sequence[float]) -> float:
    return max((after - before for before, after in pairwise(times_s)), default=0.0)


SCENARIOS = {
    "leader-killed": Scenario(
        "0 errors; the longest gap p50 at most 0.5 s, never over 1.5 s",
        lambda rig, heads: [Kill("kill -9 the leader", rig.cluster, [heads.server])],
    ),
    "leader-vanishes": Scenario(
        "at most 4 s",
        lambda rig, heads: [vanish(rig.cluster, heads.server)],
    ),
    "leader-stopped": Scenario(
        "at most 200 ms",
        lambda rig, heads: [Stop("SIGTERM to the leader", rig.cluster, heads.server)],
    ),
    "both-leaders-killed": Scenario(
        "at most 6 s",
        lambda rig, heads: [Kill("kill -9 both leaders", rig.cluster, [heads.server, heads.member])],
    ),
    "members-in-turn": Scenario(
        "nothing acknowledged is lost",
        lambda rig, heads: [Kill(f"kill -9 {member}", rig.cluster, [member]) for member in ETCD],
        lasts_s=3.0,
    ),
    "all-at-once": Scenario(
        "nothing acknowledged is lost",
        lambda rig, heads: [kill_everything(rig.cluster)],
        through=all_servers,
        lasts_s=1.0,
    ),
    "host-vanishes": Scenario(
        "the slowest create on the others takes at most 1 s more; then the fleet comes to rest by itself",
        lambda rig, heads: [vanish(rig.cluster, HOSTS[0])],
        lasts_s=SILENCE_S,
    ),
    "server-vanishes": Scenario(
        "the slowest create through the others takes at most 1 s more; then the fleet comes to rest by itself",
        lambda rig, heads: [vanish(rig.cluster, SERVERS[SERVERS.index(heads.server) - 1])],
        lasts_s=SILENCE_S,
    ),
}
