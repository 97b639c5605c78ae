"""The storm: random overlapping faults under load, with all promises checked after each round."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chaos.broken import black_hole, careless, stalled
from chaos.cluster import SERVERS
from chaos.faults import Draw, Fault, cut_host, cut_leader, draw, kill_leader
from chaos.history import History, Kind
from chaos.intruders import Clone, Intruder, clone, lying_term, second_agent, twin
from chaos.load import Crowd
from chaos.rig import Rig

ROUND_S = 40.0
CALM_S = 4.0  # at the end of each round, healed, with the clients still at work
EVERY_S = 3.0  # mean time between two faults
LASTS_S = (0.5, 9.0)
AT_ONCE = 3
CLIENTS = 24
PAUSE_S = 0.05
REHEARSING, REHEARSED_S = 8, 3.0  # clients, and how long each fault lasts
REHEARSALS: dict[str, Sequence[Draw]] = {
    "rehearsal": (kill_leader, cut_leader, cut_host),
    "intruders": (twin, clone, second_agent, lying_term),
    "broken": (black_hole, stalled, careless),
}


@dataclass(slots=True)
class Event:
    """One fault as it happened; seconds since the run began."""

    at_s: float
    name: str
    until_s: float = 0.0
    intruder: bool = False  # an agent that was not what it said
    remedies: list[str] = field(default_factory=list)  # what the operator ran after it


@dataclass(slots=True)
class Gap:
    """A time without any successful create."""

    at_s: float
    lasted_s: float
    during: list[str]  # the faults that stood at its end


@dataclass(slots=True)
class Storm:
    """What a run came to."""

    seed: int
    events: list[Event] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)  # the longest of each round
    rests_s: list[float] = field(default_factory=list)  # from the clients' end to rest, of each round
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)  # how often, by kind of call and code
    violations: int = 0
    calls: int = 0
    begun_s: float = field(default_factory=time.monotonic)
    took_s: float = 0.0


async def storm(rig: Rig, for_s: float, seed: int) -> Storm:
    """Round after round of faults by chance, until the time is up."""
    chance, result = random.Random(seed), Storm(seed)
    until_s = result.begun_s + for_s
    while (left_s := until_s - time.monotonic()) > CALM_S or not result.gaps:
        crowd = Crowd(rig.clients, SERVERS, CLIENTS, chance.randrange(1 << 30), pause_s=PAUSE_S)
        await _round(rig, result, crowd, _by_chance(rig, chance, result, min(ROUND_S, left_s)))
    return result


async def rehearsal(rig: Rig, seed: int, shapes: Sequence[Draw]) -> Storm:
    """One round of a few faults that a test has the time for, one after another."""
    chance, result = random.Random(seed), Storm(seed)
    crowd = Crowd(rig.clients, SERVERS, REHEARSING, seed, pause_s=PAUSE_S)

    async def faults() -> None:
        for shape in shapes:
            fault = shape(chance, rig.cluster, await rig.watch.heads())
            await _one(rig, fault, REHEARSED_S, result)

    await _round(rig, result, crowd, faults())
    return result


async def _round(rig: Rig, result: Storm, crowd: Crowd, faults: Coroutine[Any, Any, None]) -> None:
    """Faults under a crowd, then a calm, then the verdict."""
    round_s, first_event, first_op = time.monotonic(), len(result.events), len(rig.history.ops)
    working = asyncio.create_task(crowd.run(f"r{len(result.gaps) + 1}"))
    await faults
    await asyncio.sleep(CALM_S)
    crowd.stop.set()
    await working
    result.gaps.append(_longest_gap(rig.history, round_s, result.begun_s, result.events[first_event:]))
    resting_s = time.monotonic()
    result.violations += await rig.verdict()
    result.rests_s.append(time.monotonic() - resting_s)
    ops = rig.history.ops[first_op:]
    for op in ops:
        codes = result.outcomes.setdefault(op.kind, {})
        codes[op.code] = codes.get(op.code, 0) + 1
    result.calls += len(ops)
    result.took_s = time.monotonic() - result.begun_s
    rig.say(_line(result, len(ops)))


def _line(result: Storm, ops: int) -> str:
    gap = result.gaps[-1]
    return (
        f"round {len(result.gaps)}: {ops} calls, longest time without a create {gap.lasted_s:.1f} s, "
        f"at rest after {result.rests_s[-1]:.1f} s, {result.violations} violations so far"
    )


async def _by_chance(rig: Rig, chance: random.Random, result: Storm, for_s: float) -> None:
    """Inject faults by chance for some time; all are healed when this returns."""
    standing: set[asyncio.Task[None]] = set()
    until_s = time.monotonic() + for_s
    while (left_s := until_s - time.monotonic()) > 0:
        await asyncio.sleep(min(chance.expovariate(1 / EVERY_S), left_s))
        standing = {task for task in standing if not task.done()}
        if len(standing) < AT_ONCE and time.monotonic() < until_s:
            fault = draw(chance, rig.cluster, await rig.watch.heads())
            lasts_s = min(chance.uniform(*LASTS_S), max(until_s - time.monotonic(), 0.5))
            injected = asyncio.Event()
            if isinstance(fault, Clone):
                await asyncio.gather(*standing)
            standing.add(asyncio.create_task(_one(rig, fault, lasts_s, result, injected)))
            if isinstance(fault, Clone):
                await injected.wait()
    await asyncio.gather(*standing)


async def _one(rig: Rig, fault: Fault, lasts_s: float, result: Storm, injected: asyncio.Event | None = None) -> None:
    """One fault from its beginning to its end. `injected` is set between the two."""
    event = Event(time.monotonic() - result.begun_s, fault.name, intruder=isinstance(fault, Intruder))
    result.events.append(event)
    rig.say(f"[yellow]{event.at_s:7.1f} s[/]  {fault.name}, for {lasts_s:.1f} s")
    try:
        await fault.inject()
        if injected:
            injected.set()
        await asyncio.sleep(lasts_s)
    finally:
        await fault.heal()
        event.until_s = time.monotonic() - result.begun_s
        if isinstance(fault, Intruder) and fault.remedies:
            event.remedies = fault.remedies
            rig.say(f"{event.until_s:7.1f} s  after {fault.name}, the operator: {', '.join(fault.remedies)}")


def _longest_gap(history: History, since_s: float, begun_s: float, events: list[Event]) -> Gap:
    done_s = [op.ended_s for op in history.of(Kind.CREATE) if op.ok and op.ended_s > since_s]
    pairs = pairwise(sorted([since_s, *done_s]))
    start_s, end_s = max(pairs, key=lambda pair: pair[1] - pair[0], default=(since_s, time.monotonic()))
    during = [e.name for e in events if e.at_s < end_s - begun_s and e.until_s > start_s - begun_s]
    return Gap(start_s - begun_s, end_s - start_s, during)
