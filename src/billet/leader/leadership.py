"""The parts of one term as the leader: built when the term begins, dropped when it ends."""

from __future__ import annotations

from dataclasses import dataclass

from billet.core.columns import Columns
from billet.core.errors import Code
from billet.core.scoring import Weights
from billet.leader.accuracy import AccuracyTracker, taken_up
from billet.leader.admission import Admission
from billet.leader.archive import Archive
from billet.leader.auctioneer import Auctioneer
from billet.leader.chronicle import Chronicle
from billet.leader.create_slots import CreateSlots
from billet.leader.health import HealthTracker
from billet.leader.ledger import Ledger
from billet.leader.reconciler import Reconciler
from billet.leader.rules import Rules
from billet.ports import Clock, Gate, Hosts

KEEP_LOST_S = 24 * 3600.0  # how long a LOST microVM is listed


@dataclass(frozen=True, slots=True)
class LeaderSettings:
    """What an operator can set for the leader; config.py says what each setting trades."""

    rules: Rules
    resolve_after_s: float  # how long a reservation without a trace on its host is kept
    fence_after_s: float = 0.0  # how long a host may be away before it is fenced; 0 = an operator decides
    approve: bool = False  # a new host waits for an operator (--join approve)


@dataclass(frozen=True, slots=True)
class Leadership:
    """The parts of one term. `hosts` reaches the agents; `admission` hears them first, then `health`, `accuracy`,
    `chronicle` and the reconciler. `slots` bounds the creates in work."""

    ledger: Ledger
    auctioneer: Auctioneer
    reconciler: Reconciler
    hosts: Hosts
    rules: Rules
    accuracy: AccuracyTracker
    health: HealthTracker
    admission: Admission
    slots: CreateSlots
    chronicle: Chronicle


@dataclass(frozen=True, slots=True)
class LinkTerm:
    """What the link to the agents needs to know of the term that it serves."""

    number: int
    weights: Weights
    gate: Gate
    fleet: Columns  # is told what hosts say of themselves
    arrive_s: float  # how long calls wait for a host that has not connected to this server yet


def open_leadership(
    ledger: Ledger, hosts: Hosts, clock: Clock, settings: LeaderSettings, archive: Archive
) -> Leadership:
    """Build the parts of the term that `ledger` belongs to, and restore what the archive knows of the hosts."""
    rules = settings.rules

    async def delete(host_id: str, uid: str) -> bool:
        return (await hosts.delete(host_id, uid, rules.call_timeout_s)).code == Code.OK

    ledger.gone = lambda placement: archive.add_end(placement, clock.now_s())
    reconciler = Reconciler(ledger, clock, settings.resolve_after_s, KEEP_LOST_S, delete, settings.fence_after_s)
    chronicle = Chronicle(ledger, clock, archive, reconciler)
    accuracy = AccuracyTracker(ledger.state, clock, chronicle, archive.add_outcome)
    each = taken_up(len(ledger.state.hosts))
    for host_id in ledger.state.hosts:
        accuracy.restore(host_id, archive.outcomes(host_id, each))
    health = chronicle.health = HealthTracker(ledger.state, clock, rules.suspect_share, accuracy)
    auctioneer = Auctioneer(ledger, hosts, reconciler.ready, rules, clock, chronicle.recorded, accuracy, health)
    admission = Admission(ledger, reconciler, health, hosts, settings.approve, clock)
    slots = CreateSlots(rules.creates, "create")
    return Leadership(ledger, auctioneer, reconciler, hosts, rules, accuracy, health, admission, slots, chronicle)
