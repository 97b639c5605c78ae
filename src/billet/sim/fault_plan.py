"""The fault plan: which faults occur in a run, and how often. Drawn for each seed, from mild to severe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

LONG = 0.2  # share of the runs with a long busy part


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Probabilities (0 to 1), rates (times per second of the busy part of a run) and durations (s) of all faults.

    Delays are means. A rate of 0 means that the fault does not occur in this run.
    """

    # The network. Frames of the link may be lost, doubled or late (see network.py).
    delay_s: float
    frame_lost: float
    frame_twice: float
    frame_late: float
    resets: float
    cuts: float
    cut_s: float
    # Programs and machines.
    fuse: float  # that a program dies at one of its next steps
    server_kills: float
    server_stops: float
    agent_kills: float
    daemon_kills: float
    machine_kills: float
    down_s: float
    forgets: float  # that a machine forgets a Delete when it loses power
    fences: float  # by the operator
    stops: float
    stop_s: float
    clock_jumps: float
    # The store.
    store_delay_s: float
    store_unanswered: float
    store_impatient: bool  # a lost answer leaves the outcome unknown at once, without a retry
    store_refuses: float
    store_cuts: float
    # flintlockd.
    daemon_delay_s: float
    daemon_slow: float
    daemon_lost_request: float
    daemon_lost_reply: float
    daemon_hangs: float
    hang_s: float
    boot_s: float
    delete_s: float
    # People.
    gives_up: float
    direct: float  # share of the creates that bypass Billet
    # Agents that are not what they say (rogues.py).
    impostors: float  # a second machine has the name of a host
    lying_terms: float
    # Faults that outlast the time-outs of the code, in runs whose busy part is long enough.
    long: bool = False
    daemon_outages: float = 0.0  # flintlockd is down, or hangs, for `outage_s`
    machine_outages: float = 0.0
    outage_s: float = 0.0
    claim_hangs: float = 0.0  # that flintlockd hangs as long just as a reservation of its host is written
    # Races. The probability that a reservation, as it is written, is met by one of the `RACES` (fault_injector.py).
    races: float = 0.0
    redials: float = 0.0  # an agent dials again while its old connection still stands on the server
    agent_stops: float = 0.0
    late_cuts: float = 0.0  # a server is cut off from the store after answers that were almost too late
    resends: float = 0.0  # that a client with a request id cancels, and sends the request again at once
    day_jumps: float = 0.0
    # More agents that are not what they say, and copies of what everybody can read.
    second_agents: float = 0.0  # beside a flintlockd that has an agent
    thieves: float = 0.0  # a machine shows the microVMs of another host
    copied_tokens: float = 0.0  # share of the creates that bypass Billet and have the token of another microVM
    untimely: float = 0.0  # that a create is sent again just as its reservation ends, or flintlockd goes on
    # What a real flintlockd answers to a create when something beneath it fails.
    create_fails: float = 0.0  # nothing is created
    create_locked: float = 0.0  # the same, for a moment
    create_unclear: float = 0.0  # it may be there, and boots later
    far: float = 0.0  # share of the hosts that are behind a slow line
    delete_lost: float = 0.0  # that a Delete during the microVM's own boot is forgotten
    list_races: float = 0.0  # that a List meets a removal
    # Broken hosts (broken_hosts.py).
    black_holes: float = 0.0  # containerd's disk is full for about `broken_s`
    stalls: float = 0.0  # containerd was restarted: its flintlockd hears of nothing for about `broken_s`
    broken_s: float = 0.0


class Maybe(Protocol):
    """Draws a value between two bounds in a share of the runs, and 0 in the others."""

    def __call__(self, low: float, high: float, often: float = 0.4) -> float:
        """Draw one value."""


def draw(chance: Random, more: Random) -> FaultPlan:
    """Draw the fault plan of one seed. `more` is a stream of its own for the faults that were added later."""
    between, maybe = _ranges(chance)
    plan = FaultPlan(
        delay_s=between(0.0005, 0.05),
        frame_lost=maybe(0.001, 0.1, 0.25),
        frame_twice=maybe(0.01, 0.5),
        frame_late=maybe(0.01, 0.5),
        resets=maybe(0.02, 0.5),
        cuts=maybe(0.02, 0.3),
        cut_s=between(0.5, 12.0),
        fuse=maybe(0.1, 0.9, 0.3),
        server_kills=maybe(0.02, 0.3),
        server_stops=maybe(0.02, 0.3),
        agent_kills=maybe(0.02, 0.3),
        daemon_kills=maybe(0.02, 0.3),
        machine_kills=maybe(0.03, 0.5),
        down_s=between(0.3, 12.0),
        forgets=maybe(0.3, 1.0, 0.6),
        fences=maybe(0.1, 1.0),
        stops=maybe(0.02, 0.3),
        stop_s=between(0.2, 10.0),
        clock_jumps=maybe(0.02, 0.3, 0.3),
        store_delay_s=between(0.001, 0.1),
        store_unanswered=maybe(0.005, 0.2),
        store_impatient=chance.random() < 0.3,
        store_refuses=maybe(0.005, 0.2, 0.25),
        store_cuts=maybe(0.02, 0.2, 0.25),
        daemon_delay_s=between(0.002, 0.2),
        daemon_slow=maybe(0.01, 0.4),
        daemon_lost_request=maybe(0.01, 0.3),
        daemon_lost_reply=maybe(0.01, 0.4),
        daemon_hangs=maybe(0.05, 0.6),
        hang_s=between(1.0, 10.0),
        boot_s=between(0.05, 3.0),
        delete_s=between(0.05, 3.0),
        gives_up=maybe(0.02, 0.3),
        direct=maybe(0.05, 0.6),
        impostors=maybe(0.03, 0.3),
        lying_terms=maybe(0.03, 0.3),
    )
    return _with_later_faults(plan, more)


def _with_later_faults(plan: FaultPlan, more: Random) -> FaultPlan:
    between, maybe = _ranges(more)
    long = more.random() < LONG
    return replace(
        plan,
        long=long,
        daemon_outages=maybe(0.005, 0.05, 0.8) if long else 0.0,
        machine_outages=maybe(0.005, 0.03, 0.5) if long else 0.0,
        outage_s=between(30.0, 120.0),
        claim_hangs=maybe(0.1, 0.8, 0.8) if long else 0.0,
        races=maybe(0.05, 0.5, 0.3),
        redials=maybe(0.05, 0.5, 0.3),
        agent_stops=maybe(0.02, 0.5, 0.3),
        late_cuts=maybe(0.03, 0.2, 0.15),
        resends=maybe(0.05, 0.5, 0.3),
        day_jumps=maybe(0.02, 0.1, 0.2),
        second_agents=maybe(0.05, 0.3, 0.3),
        thieves=maybe(0.05, 0.3, 0.3),
        copied_tokens=maybe(0.1, 0.9, 0.4),
        untimely=maybe(0.3, 1.0, 0.5),
        create_fails=maybe(0.02, 0.5, 0.3),
        create_locked=maybe(0.05, 0.5, 0.2),
        create_unclear=maybe(0.02, 0.3, 0.3),
        far=maybe(0.2, 0.6, 0.3),
        delete_lost=maybe(0.1, 0.9, 0.4),
        list_races=maybe(0.02, 0.25, 0.3),
        black_holes=maybe(0.02, 0.2, 0.3),
        stalls=maybe(0.02, 0.2, 0.2),
        broken_s=between(3.0, 60.0),
    )


def _ranges(chance: Random) -> tuple[Callable[[float, float], float], Maybe]:
    """Two ways to draw a value: between two bounds; and that or, in the other runs, 0."""

    def between(low: float, high: float) -> float:
        return math.exp(chance.uniform(math.log(low), math.log(high)))

    def maybe(low: float, high: float, often: float = 0.4) -> float:
        value = between(low, high)
        return value if chance.random() < often else 0.0

    return between, maybe
