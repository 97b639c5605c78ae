"""Play one workload with one rule, and measure the balance at its marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.auction import clearing_order
from billet.core.model import ZERO
from billet.core.scoring import utilisation
from billet.whatif.measures import Balance, RefusedDemand, Tally, balance
from billet.whatif.rules import Rule
from billet.whatif.simulated_fleet import SimulatedFleet
from billet.whatif.workload import Create, Delete, Event, Existing, Mark, Workload


class Sample(NamedTuple):
    """The fleet after `event` events: balance, dominant shares of the hosts (sorted), refusals so far."""

    event: int
    balance: Balance
    shares: list[float]
    refusals: int


NOTHING = RefusedDemand(0.0, 0.0, None)


@dataclass(slots=True)
class SimulationResult:
    """Balance at the marks, samples for charts, and refused demand of one workload under one rule."""

    rule: str
    marks: dict[str, Balance] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    refused: RefusedDemand = NOTHING


def run(
    workload: Workload, rule: Rule, at_once: int = 1, samples: int = 0, step: Callable[[int], None] = lambda n: None
) -> SimulationResult:
    """Play the workload. `at_once`: creates per batch, which is placed by priority, then largest first.

    A batch is placed early at a mark, at the end, and at the delete of one of its microVMs. `samples`: number of
    evenly spaced moments to keep for charts. `step` is called with the number of events done since its last call.
    """
    state = _Run(workload, rule, at_once)
    every = max(1, len(workload.events) // samples) if samples else 0
    for n, event in enumerate(workload.events, 1):
        state.take(event)
        if every and n % every == 0:
            state.sample(n)
        if n % 500 == 0:
            step(500)
    state.clear()
    step(len(workload.events) % 500)
    state.result.refused = state.count.shares()
    return state.result


class _Run:
    def __init__(self, workload: Workload, rule: Rule, at_once: int) -> None:
        self.result = SimulationResult(rule.title)
        self.count = Tally()
        self._fleet = SimulatedFleet(workload.hosts, workload.traits)
        self._chooser = rule.start(self._fleet)
        self._at_once = at_once
        self._waiting: dict[str, Create] = {}

    def take(self, event: Event) -> None:
        match event:
            case Create(vm):
                self._waiting[vm] = event
                if len(self._waiting) >= self._at_once:
                    self.clear()
            case Delete(vm):
                if vm in self._waiting:
                    self.clear()
                self._fleet.remove(vm)
            case Existing(vm, demand, host_id):
                self._fleet.place(vm, demand, host_id)
            case Mark(name):
                self.clear()
                self.result.marks[name] = self._balance()

    def clear(self) -> None:
        """Place the batch, by priority and then largest first."""
        creates = list(self._waiting.values())
        self._waiting.clear()
        batch = [(create.demand, _priority(create)) for create in creates]
        for n in clearing_order(batch, self._fleet.state.whole):
            vm, demand, wanted = creates[n]
            host_id = self._chooser.choose(vm, demand, wanted)
            self.count.add(demand, host_id is None)
            if host_id is not None:
                self._fleet.place(vm, demand, host_id, wanted)

    def sample(self, n: int) -> None:
        fleet = self._fleet
        shares = sorted(utilisation(fleet.capacities[n], fleet.taken(n), ZERO) for n in range(len(fleet.ids)))
        self.result.samples.append(Sample(n, self._balance(), shares, self.count.refusals))

    def _balance(self) -> Balance:
        fleet = self._fleet
        return balance(fleet.capacities, [fleet.taken(n) for n in range(len(fleet.ids))])


def _priority(create: Create) -> int:
    return create.wanted.constraints.priority if create.wanted else 0


def mean_balance(balances: list[Balance]) -> Balance:
    """The mean over several workloads, field by field."""
    return Balance(*(sum(column) / len(balances) for column in zip(*balances, strict=True)))


def mean_refused(all_: list[RefusedDemand]) -> RefusedDemand:
    """The mean over several workloads, field by field; `large` over those with large microVMs."""
    large = [refused.large for refused in all_ if refused.large is not None]
    return RefusedDemand(
        sum(refused.vms for refused in all_) / len(all_),
        sum(refused.vcpus for refused in all_) / len(all_),
        sum(large) / len(large) if large else None,
    )
