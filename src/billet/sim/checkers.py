"""The checkers: one for each of the seven promises, and one for unexpected failures.

Each is a function of the history alone. Checkers derive their own state from it, as simply as possible, and share
only recorded values with the code that they check.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from billet.core.errors import Code, says_not_found
from billet.core.model import ZERO, Placement, PlacementState, Reason, Resources
from billet.core.questions.record import faithful
from billet.core.state import PutPlacement
from billet.sim.checker_state import CheckerState, Violation, takes_room, total
from billet.sim.expected_prices import expected_prices, winners, wrong_award
from billet.sim.failure_checkers import FAILURE_CHECKERS
from billet.sim.history import (
    Accepted,
    Answered,
    Committed,
    Deposed,
    Event,
    Leads,
    LedgerSeen,
    Ordered,
    Quiescent,
    Recorded,
    Stopped,
    TermRaised,
    Unexpected,
)
from billet.sim.late_checker import late_is_not_absent
from billet.sim.once_checker import nothing_lost_nothing_twice
from billet.sim.order_checkers import ORDER_CHECKERS
from billet.sim.owner_checkers import OWNER_CHECKERS
from billet.sim.quota_checker import quotas_kept
from billet.sim.suspect_checker import broken_hosts_cost_little
from billet.wire import auction_records

# Promise 1: a stale bid can waste a chance, it can never overcommit.


def never_overcommitted(history: Sequence[Event]) -> Iterator[Violation]:
    """No host accepts more than it has room for, and the store never promises more.

    A microVM created on the host directly counts once the host's agent has seen it.
    """
    state = CheckerState()
    for event in history:
        if isinstance(event, Accepted) and event.token:
            here = [vm for vm in state.vms.values() if vm.host == event.host]
            known = [vm for vm in here if vm.token or (vm.shown_s is not None and vm.shown_s < event.called_s)]
            taken = total([event.demand, *(vm.demand for vm in known)])
            if not state.allocatable[event.host].covers(taken):
                yield Violation(1, event.at_s, f"{event.host} accepted {event.uid}, which makes {taken}")
        before = set(state.placements)
        state.update(event)
        if isinstance(event, Committed):
            yield from _over_promised(state, before, event)


def _over_promised(state: CheckerState, before: Collection[str], event: Committed) -> Iterator[Violation]:
    for change in event.changes:
        if not isinstance(change, PutPlacement) or change.placement.state is not PlacementState.RESERVED:
            continue
        host_id = change.placement.host
        ours = (p for p in state.placements.values() if p.host == host_id and takes_room(p) and not p.adopted)
        taken = total(p.demand for p in ours)
        if not state.allocatable[host_id].covers(taken):
            yield Violation(1, event.at_s, f"the store promised {taken} of {host_id}")
        if change.placement.id not in before:
            yield from _not_clean(state, host_id, event.at_s)
            yield from _not_apart(state, change.placement, event.at_s)


def _not_clean(state: CheckerState, host_id: str, at_s: float) -> Iterator[Violation]:
    """A fenced microVM may have been recreated elsewhere: its host must delete it before it gets another."""
    for placement in state.placements.values():
        vm = state.vms.get(placement.uid)
        if placement.state is PlacementState.FENCED and vm and vm.host == host_id:
            yield Violation(1, at_s, f"{host_id} got a microVM while it still had {placement.uid}, which is fenced")


def _not_apart(state: CheckerState, new: Placement, at_s: float) -> Iterator[Violation]:
    """A microVM with the label `apart` gets no host on which the store has another of its group."""
    group = new.labels.get("billet.io/apart")
    for other in state.placements.values() if group else ():
        peers = other.namespace == new.namespace and other.labels.get("billet.io/apart") == group
        if peers and other.id != new.id and other.host == new.host and takes_room(other):
            yield Violation(1, at_s, f"{new.id} and {other.id} of group {group} are both on {new.host}")


# Promise 2: take room early, give it back late.


def room_early_and_late(history: Sequence[Event]) -> Iterator[Violation]:
    """The ledger never counts less than the store, and the store holds room as long as the host has the microVM."""
    state = CheckerState()
    for event in history:
        if isinstance(event, LedgerSeen) and event.term == state.term:
            for host_id in state.allocatable:
                counted, ledger = state.counted(host_id), event.taken.get(host_id, ZERO)
                if not ledger.covers(counted):
                    text = f"the ledger counts {ledger} on {host_id}, the store {counted}"
                    yield Violation(2, event.at_s, text)
        if isinstance(event, Accepted) and event.token:
            placement = state.placements.get(event.token)
            released = (
                placement and placement.state is PlacementState.FENCED
            )  # the order was sent before the host was fenced
            if not released and (placement is None or placement.host != event.host or not takes_room(placement)):
                yield Violation(2, event.at_s, f"{event.host} accepted {event.token}, for which no room is held")
        before = dict(state.placements) if isinstance(event, Committed) else {}
        state.update(event)
        for placement in before.values():
            yield from _given_back(state, placement, event.at_s)


def _given_back(state: CheckerState, old: Placement, at_s: float) -> Iterator[Violation]:
    new = state.placements.get(old.id)
    if new and new.state is PlacementState.FENCED:
        return  # declared gone; _not_clean checks its host
    if takes_room(old) and (new is None or not takes_room(new)):
        for uid, vm in state.vms.items():
            if vm.host == old.host and (uid == old.uid or (vm.token and vm.token == old.id)):
                yield Violation(2, at_s, f"the room of {uid} was given back while {vm.host} still has it")


# Promise 3: one term, one writer.


def one_writer(history: Sequence[Event]) -> Iterator[Violation]:
    """No commit of an old term takes effect, no leader outlives its lease, no host obeys an old leader."""
    state = CheckerState()
    leading: dict[str, int] = {}  # server -> term
    stopped: set[str] = set()
    orders = _Orders()
    for event in history:
        match event:
            case Committed(at_s, term, _) if term != state.term:
                yield Violation(3, at_s, f"term {term} wrote while term {state.term} was current")
            case Leads(_, term, server, leads):
                leading[server] = term if leads else 0
            case Stopped(_, server, stands):
                (stopped.add if stands else stopped.discard)(server)
            case Deposed(at_s, term, expired=True):
                for server, led in leading.items():
                    if led == term and server not in stopped:
                        yield Violation(3, at_s, f"{server} still leads after its term {term} has ended")
        yield from orders.check(event)
        state.update(event)


class _Orders:
    """The orders that each agent may carry out."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}  # agent -> newest term that it knows
        self._allowed: dict[str, set[str]] = {}  # agent -> tokens of orders that had the newest term on arrival
        self._at: dict[str, str] = {}  # host -> agent

    def check(self, event: Event) -> Iterator[Violation]:
        match event:
            case Ordered(_, agent, host_id, term, token):
                self._at[host_id] = agent
                newest = self._newest[agent] = max(term, self._newest.get(agent, 0))
                if term == newest:
                    self._allowed.setdefault(agent, set()).add(token)
            case Accepted(at_s, host_id, uid, _, token, _, _) if token:
                agent = self._at.get(host_id, "")
                ordered = any(
                    token in tokens for name, tokens in self._allowed.items() if name.startswith(f"agent-{host_id}.")
                )
                if not ordered:
                    yield Violation(3, at_s, f"{agent} created {uid} by an order of an old term")


# Promise 5: "not found" means gone.


def not_found_means_gone(history: Sequence[Event]) -> Iterator[Violation]:
    """No call was told of the absence of a microVM that was on its host from the request to the answer.

    Fenced microVMs, and all on a fenced host, are declared gone. A host that the store does not have yet is not part
    of the fleet.
    """
    state = CheckerState()
    accepted_s: dict[str, float] = {}
    for event in history:
        state.update(event)
        if isinstance(event, Accepted):
            accepted_s[event.uid] = event.at_s
        if isinstance(event, Answered) and says_not_found(event.text):
            if event.kind not in ("get", "delete"):
                yield Violation(5, event.at_s, f"the answer to a {event.kind}: {event.text}")
                continue
            vm = state.vms.get(event.uid)
            if vm is None or accepted_s[event.uid] > event.asked_s or event.uid in state.released:
                continue
            if state.joined_s.get(vm.host, event.at_s) < event.asked_s and not state.fenced(vm.host, event.asked_s):
                yield Violation(
                    5, event.at_s, f"{event.client} was told that it does not exist: {event.uid}: {event.text}"
                )


# Promise 6: hosts are the source of truth for what runs.


def hosts_are_the_truth(history: Sequence[Event]) -> Iterator[Violation]:
    """After the faults the store comes to agree with the hosts, adopted microVMs included, and calls succeed."""
    state = CheckerState()
    for event in history:
        state.update(event)
        match event:
            case Quiescent(at_s, found):
                yield from (Violation(6, at_s, text) for text in found)
            case Answered(at_s, _, "probe", kind, name, uid, code, text):
                waits = (
                    Reason.SUSPECT.value in text
                )  # until the next try of a host that has failed; the others are full
                well = code == Code.OK or (kind == "create" and (waits or code == Code.RESOURCE_EXHAUSTED))
                if not well and uid not in state.released:
                    yield Violation(6, at_s, f"the {kind} of {name} fails after all faults have ended: {code} {text}")


def differences(placements: Mapping[str, Placement], vms: Mapping[str, tuple[str, Resources, bool]]) -> list[str]:
    """How the store differs from the hosts, one line each. `vms`: uid -> host, demand, whether being deleted."""
    found = []
    seen = {}
    for placement in placements.values():
        if placement.state in (PlacementState.RESERVED, PlacementState.FENCED):
            found.append(f"{placement.id} is still {placement.state.name} on {placement.host}")
        elif placement.state not in (PlacementState.LOST, PlacementState.GONE):
            seen[placement.uid] = placement
        elif placement.uid in vms:
            found.append(
                f"{placement.uid} is {placement.state.name} in the store, but {vms[placement.uid][0]} has it"
            )
    for uid, (host_id, demand, deleting) in vms.items():
        known = seen.pop(uid, None)
        if known is None:
            found.append(f"{host_id} has {uid}, which the store does not have")
        elif (known.host, known.demand) != (host_id, demand):
            found.append(f"{host_id} has {uid} with {demand}, the store has it on {known.host} with {known.demand}")
        elif deleting != (known.state is PlacementState.RELEASING):
            found.append(
                f"{uid} on {host_id} is {'being deleted' if deleting else 'alive'}; the store: {known.state}"
            )
    found += [f"the store has {uid} as {p.state.name} on {p.host}, which does not have it" for uid, p in seen.items()]
    return found


# Promise 7: no decision reads a clock, rolls a die or does IO.


def decisions_replay(history: Sequence[Event]) -> Iterator[Violation]:
    """Each recorded auction replays to its award, the award has the lowest price, and ties favour no host name."""
    tied = False
    for event in history:
        if not isinstance(event, Recorded):
            continue
        record, at_s, auction_id = event.record, event.at_s, event.record.auction.id
        if not faithful(auction_records.decode(auction_records.encode(record))):
            yield Violation(7, at_s, f"auction {auction_id} replays to another award")
        for attempt in record.attempts:
            prices = expected_prices(record, attempt)
            text = wrong_award(prices, attempt.award)
            if text:
                yield Violation(7, at_s, f"auction {auction_id}: {text}")
            lowest = [host for host, price in prices.items() if price <= min(prices.values())]
            if len(lowest) > 1 and not tied:
                tied = True
                favoured = set(lowest) - winners(record, attempt)
                if favoured:
                    yield Violation(7, at_s, f"of the tied {lowest}, {sorted(favoured)} never win")


# Unexpected failures.


def nothing_unexpected(history: Sequence[Event]) -> Iterator[Violation]:
    """No part failed with an error that is not Billet's own."""
    for event in history:
        if isinstance(event, Unexpected):
            yield Violation(0, event.at_s, event.text)


def terms_are_the_stores(history: Sequence[Event]) -> Iterator[Violation]:
    """One host's word never raises the term."""
    for event in history:
        if isinstance(event, TermRaised):
            yield Violation(3, event.at_s, f"{event.server} campaigns above term {event.above}, which a host made up")


CHECKERS: tuple[Callable[[Sequence[Event]], Iterator[Violation]], ...] = (
    never_overcommitted,
    room_early_and_late,
    one_writer,
    terms_are_the_stores,
    nothing_lost_nothing_twice,
    not_found_means_gone,
    hosts_are_the_truth,
    decisions_replay,
    quotas_kept,
    late_is_not_absent,
    broken_hosts_cost_little,
    nothing_unexpected,
    *ORDER_CHECKERS,
    *OWNER_CHECKERS,
    *FAILURE_CHECKERS,
)


def check(history: Sequence[Event]) -> list[Violation]:
    """All violations, in the order of the promises."""
    return [violation for checker in CHECKERS for violation in checker(history)]
