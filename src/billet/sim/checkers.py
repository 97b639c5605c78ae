"""The judges: one for each of the seven promises, and one for what nobody planned.

Each is a function of the evidence alone. They keep books of their own, as simple as can be, and share with the parts
that they judge no more than the values that these write down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from billet.core.errors import Code, says_not_found
from billet.core.model import ZERO, Placement, PlacementState, Resources
from billet.core.questions.record import faithful
from billet.core.state import PutPlacement
from billet.sim.checker_state import Books, Violation, takes_room, total
from billet.sim.expected_prices import expected_prices, winners, wrong_award
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
    Unexpected,
)
from billet.sim.quota_checker import quotas_kept
from billet.wire import auction_records

# Promise 1: a stale bid can waste a chance, it can never overcommit.


def never_overcommitted(evidence: Sequence[Event]) -> Iterator[Violation]:
    """No host takes on more than it has, by its own content; nor does the store ever promise more.

    What was made past Billet counts from when the host's agent was shown it; before, nobody could know.
    """
    books = Books()
    for event in evidence:
        if isinstance(event, Accepted) and event.token:
            here = [vm for vm in books.vms.values() if vm.host == event.host]
            known = [vm for vm in here if vm.token or (vm.shown_s is not None and vm.shown_s < event.told_s)]
            taken = total([event.demand, *(vm.demand for vm in known)])
            if not books.allocatable[event.host].covers(taken):
                yield Violation(1, event.at_s, f"{event.host} took on {event.uid} and has {taken} by then")
        before = set(books.placements)
        books.take(event)
        if isinstance(event, Committed):
            yield from _over_promised(books, before, event)


def _over_promised(books: Books, before: Collection[str], event: Committed) -> Iterator[Violation]:
    for change in event.changes:
        if not isinstance(change, PutPlacement) or change.placement.state is not PlacementState.RESERVED:
            continue
        host_id = change.placement.host
        ours = (p for p in books.placements.values() if p.host == host_id and takes_room(p) and not p.adopted)
        taken = total(p.demand for p in ours)
        if not books.allocatable[host_id].covers(taken):
            yield Violation(1, event.at_s, f"the store promised {taken} of {host_id}")
        if change.placement.id not in before:
            yield from _not_clean(books, host_id, event.at_s)
            yield from _not_apart(books, change.placement, event.at_s)


def _not_clean(books: Books, host_id: str, at_s: float) -> Iterator[Violation]:
    """What a fence released may have been made again elsewhere: its host deletes it before it gets another."""
    for placement in books.placements.values():
        vm = books.vms.get(placement.uid)
        if placement.state is PlacementState.FENCED and vm and vm.host == host_id:
            yield Violation(1, at_s, f"{host_id} got a microVM and still has {placement.uid}, which was fenced")


def _not_apart(books: Books, new: Placement, at_s: float) -> Iterator[Violation]:
    """What wishes to be apart gets no host that has, by the store, another of its group."""
    group = new.labels.get("billet.io/apart")
    for other in books.placements.values() if group else ():
        peers = other.namespace == new.namespace and other.labels.get("billet.io/apart") == group
        if peers and other.id != new.id and other.host == new.host and takes_room(other):
            yield Violation(1, at_s, f"{new.id} and {other.id} of group {group} are both on {new.host}")


# Promise 2: take room early, give it back late.


def room_early_and_late(evidence: Sequence[Event]) -> Iterator[Violation]:
    """The ledger never shows more room than the store, and the store holds it as long as the host has the microVM."""
    books = Books()
    for event in evidence:
        if isinstance(event, LedgerSeen) and event.term == books.term:
            for host_id in books.allocatable:
                counted, ledger = books.counted(host_id), event.taken.get(host_id, ZERO)
                if not ledger.covers(counted):
                    text = f"the ledger counts {ledger} on {host_id}, the store {counted}"
                    yield Violation(2, event.at_s, text)
        if isinstance(event, Accepted) and event.token:
            placement = books.placements.get(event.token)
            released = placement and placement.state is PlacementState.FENCED  # on its way when its host was fenced
            if not released and (placement is None or placement.host != event.host or not takes_room(placement)):
                yield Violation(2, event.at_s, f"{event.host} took on {event.token}, for which no room is held")
        before = dict(books.placements) if isinstance(event, Committed) else {}
        books.take(event)
        for placement in before.values():
            yield from _given_back(books, placement, event.at_s)


def _given_back(books: Books, old: Placement, at_s: float) -> Iterator[Violation]:
    new = books.placements.get(old.id)
    if new and new.state is PlacementState.FENCED:
        return  # declared gone; the host deletes it before it gets another
    if takes_room(old) and (new is None or not takes_room(new)):
        for uid, vm in books.vms.items():
            if vm.host == old.host and (uid == old.uid or (vm.token and vm.token == old.id)):
                yield Violation(2, at_s, f"the room of {uid} was given back, and {vm.host} still has it")


# Promise 3: one term, one writer.


def one_writer(evidence: Sequence[Event]) -> Iterator[Violation]:
    """No commit of an old term takes effect, no leader outlives its lease, no host obeys an old leader."""
    books = Books()
    leading: dict[str, int] = {}  # server -> term
    stopped: set[str] = set()
    obeying = _Obeying()
    for event in evidence:
        match event:
            case Committed(at_s, term, _) if term != books.term:
                yield Violation(3, at_s, f"term {term} wrote, and term {books.term} is current")
            case Leads(_, term, server, leads):
                leading[server] = term if leads else 0
            case Stopped(_, server, stands):
                (stopped.add if stands else stopped.discard)(server)
            case Deposed(at_s, term, expired=True):
                for server, led in leading.items():
                    if led == term and server not in stopped:
                        yield Violation(3, at_s, f"{server} still leads, and its term {term} is over")
        yield from obeying.take(event)
        books.take(event)


class _Obeying:
    """Which orders an agent may carry out."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}  # agent -> newest term that it was told of
        self._may: dict[str, set[str]] = {}  # agent -> tokens of orders that were of the newest term when they came
        self._at: dict[str, str] = {}  # host -> agent

    def take(self, event: Event) -> Iterator[Violation]:
        match event:
            case Ordered(_, agent, host_id, term, token):
                self._at[host_id] = agent
                newest = self._newest[agent] = max(term, self._newest.get(agent, 0))
                if term == newest:
                    self._may.setdefault(agent, set()).add(token)
            case Accepted(at_s, host_id, uid, _, token, _, _) if token:
                agent = self._at.get(host_id, "")
                ordered = any(
                    token in tokens for name, tokens in self._may.items() if name.startswith(f"agent-{host_id}.")
                )
                if not ordered:
                    yield Violation(3, at_s, f"{agent} had {uid} made by an order of an old term")


# Promise 4: nothing acknowledged is ever lost, nothing is ever booted twice.


def nothing_lost_nothing_twice(evidence: Sequence[Event]) -> Iterator[Violation]:
    """Each request boots once; what is acknowledged is written by then; what a Delete ended is gone at the end.

    That a Delete ends for good is promised for microVMs that Billet knew by then. One that was made past it a moment
    ago is its flintlockd's alone to remember.
    """
    books = Books()
    booted: dict[str, str] = {}  # name -> host; no client asks for the same name twice without a request id
    written: set[str] = set()  # uids that the store has known
    deleted: dict[str, float] = {}
    for event in evidence:
        books.take(event)
        match event:
            case Accepted(at_s, host_id, _, name, _, _, _):
                if name in booted:
                    yield Violation(4, at_s, f"{name} was booted on {booted[name]} and again on {host_id}")
                booted[name] = host_id
            case Committed(_, _, changes):
                written.update(c.placement.uid for c in changes if isinstance(c, PutPlacement))
            case Answered(at_s, _, _, "create", name, uid, Code.OK, _) if uid not in written:
                yield Violation(4, at_s, f"{name} was acknowledged as {uid}, which the store has never heard of")
            case Answered(at_s, _, _, "delete", _, uid, Code.OK, _) if uid in written:
                deleted[uid] = at_s
            case Quiescent(at_s):
                for uid in deleted.keys() & books.vms.keys():
                    yield Violation(
                        4, at_s, f"the Delete of {uid} was acknowledged, and {books.vms[uid].host} has it"
                    )


# Promise 5: "not found" means gone.


def not_found_means_gone(evidence: Sequence[Event]) -> Iterator[Violation]:
    """Nobody was told that a microVM is not there while it was, all the time from the question to the answer.

    What was fenced is declared gone, and so is all that is on a fenced host. A host that was never written down is
    not part of the fleet so far.
    """
    books = Books()
    came: dict[str, float] = {}
    for event in evidence:
        books.take(event)
        if isinstance(event, Accepted):
            came[event.uid] = event.at_s
        if isinstance(event, Answered) and says_not_found(event.text):
            if event.kind not in ("get", "delete"):
                yield Violation(5, event.at_s, f"a {event.kind} was answered: {event.text}")
                continue
            vm = books.vms.get(event.uid)
            if vm is None or came[event.uid] > event.asked_s or event.uid in books.released:
                continue
            if books.joined_s.get(vm.host, event.at_s) < event.asked_s and not books.fenced(vm.host, event.asked_s):
                yield Violation(5, event.at_s, f"{event.client} was told that {event.uid} is gone: {event.text}")


# Promise 6: hosts are the source of truth for what runs.


def hosts_are_the_truth(evidence: Sequence[Event]) -> Iterator[Violation]:
    """After a quiet time the store says what the hosts show, adopted ones included, and everything works again."""
    books = Books()
    for event in evidence:
        books.take(event)
        match event:
            case Quiescent(at_s, found):
                yield from (Violation(6, at_s, text) for text in found)
            case Answered(at_s, _, "probe", kind, name, uid, code, text):
                well = code == Code.OK or (kind == "create" and code == Code.RESOURCE_EXHAUSTED)
                if not well and uid not in books.released:
                    yield Violation(6, at_s, f"all is well again, and the {kind} of {name} fails: {code} {text}")


def differences(placements: Mapping[str, Placement], vms: Mapping[str, tuple[str, Resources, bool]]) -> list[str]:
    """In what the store differs from the hosts; `vms` are host, demand and whether it is being deleted, by uid."""
    found = []
    seen = {}
    for placement in placements.values():
        if placement.state in (PlacementState.RESERVED, PlacementState.FENCED):
            found.append(f"{placement.id} is still {placement.state.name} on {placement.host}")
        elif placement.state not in (PlacementState.LOST, PlacementState.GONE):
            seen[placement.uid] = placement
        elif placement.uid in vms:
            found.append(
                f"{placement.uid} is {placement.state.name} to the store, and {vms[placement.uid][0]} has it"
            )
    for uid, (host_id, demand, deleting) in vms.items():
        known = seen.pop(uid, None)
        if known is None:
            found.append(f"{host_id} has {uid}, and the store does not know it")
        elif (known.host, known.demand) != (host_id, demand):
            found.append(f"{host_id} has {uid} with {demand}, the store has it on {known.host} with {known.demand}")
        elif deleting != (known.state is PlacementState.RELEASING):
            found.append(
                f"{uid} on {host_id} is {'being deleted' if deleting else 'alive'}; the store: {known.state}"
            )
    found += [f"the store has {uid} as {p.state.name} on {p.host}, which does not" for uid, p in seen.items()]
    return found


# Promise 7: no decision reads a clock, rolls a die or does IO.


def decisions_replay(evidence: Sequence[Event]) -> Iterator[Violation]:
    """Each recorded auction replays to its award, which is the lowest price; ties favour no name."""
    tied = False
    for event in evidence:
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


# And what nobody planned.


def nothing_unexpected(evidence: Sequence[Event]) -> Iterator[Violation]:
    """No part failed otherwise than it may."""
    for event in evidence:
        if isinstance(event, Unexpected):
            yield Violation(0, event.at_s, event.text)


CHECKERS: tuple[Callable[[Sequence[Event]], Iterator[Violation]], ...] = (
    never_overcommitted,
    room_early_and_late,
    one_writer,
    nothing_lost_nothing_twice,
    not_found_means_gone,
    hosts_are_the_truth,
    decisions_replay,
    quotas_kept,
    nothing_unexpected,
)


def judge(evidence: Sequence[Event]) -> list[Violation]:
    """All violations of all promises, in order of the promises."""
    return [violation for checker in CHECKERS for violation in checker(evidence)]
