"""The past as a workload: what a server kept of its auctions, to be placed again in another way.

Records have what was wanted, when, and what came of it; the ends beside them say how long each microVM lived. What
they do not have is assumed, and `assumed` says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.model import NO_CONSTRAINTS, ZERO, Auction, Reason, Resources
from billet.core.plural import counted
from billet.core.questions.record import AuctionRecord, Gone
from billet.core.quotas import OVER
from billet.core.scoring import DEFAULT_WEIGHTS, Weights
from billet.whatif.rules import Rule
from billet.whatif.simulated_fleet import Chooser
from billet.whatif.workload import Create, Delete, Event, Mark, There, Traits, Workload

BEFORE = "before "  # what a host had when it was first seen goes by this and its name
PLACED = frozenset({"created", "unknown"})  # of an unknown outcome the room is held


class Tried(NamedTuple):
    """A create that an auction decided; "" is the host of one that was refused."""

    auction: Auction
    host: str
    at_s: float

    @property
    def create(self) -> Create:
        """The same for the engine."""
        wanted = None if self.auction.constraints == NO_CONSTRAINTS else self.auction
        return Create(self.auction.id, self.auction.demand, wanted)


@dataclass(slots=True)
class Past:
    """What happened, in the order of time, and how much of it could not be told from the records."""

    hosts: dict[str, Resources] = field(default_factory=dict)  # what each could promise last
    events: list[tuple[float, Event]] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)  # microVM -> host
    weights: Weights = DEFAULT_WEIGHTS  # by which the last auction was decided
    records: int = 0
    from_s: float = 0.0
    to_s: float = 0.0
    refused: int = 0
    again: int = 0  # refused creates that came again: the last one counts
    ended: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by outcome
    choosy: int = 0  # asked for a provider, or for what not every provider can
    constrained: int = 0  # wished something by labels
    traits: dict[str, Traits] = field(default_factory=dict)  # of hosts, as far as it shows from what was wished
    bounded: int = 0  # refused for a quota
    views: int = 0  # what the ledger counted of a host, compared with what is rebuilt
    agreeing: int = 0


def past(records: Iterable[AuctionRecord], ends: Iterable[Gone]) -> Past:
    """Put the records together. They may be of several servers, and in any order."""
    ordered = sorted((record for record in records), key=_decided_s)
    made = Past(records=len(ordered))
    if not ordered:
        return made
    made.from_s, made.to_s, made.weights = _decided_s(ordered[0]), _decided_s(ordered[-1]), ordered[-1].weights
    made.choosy = sum(_asks_for_more(record.auction) for record in ordered)
    made.constrained = sum(record.auction.constraints != NO_CONSTRAINTS for record in ordered)
    made.traits = _traits(ordered)
    made.bounded = sum(record.outcome == "unplaced" and OVER in record.text for record in ordered)
    for record in ordered:
        for attempt in record.attempts:
            made.hosts.update((host_id, view.allocatable) for host_id, view in attempt.ledger.items())
    tried = _tried(ordered, made)
    made.placed = {one.auction.id: one.host for one in tried if one.host}
    made.refused = len(tried) - len(made.placed)
    creates = {one.auction.id: one for one in tried if one.host}
    ends = sorted((end for end in ends if end.host in made.hosts), key=lambda end: end.at_s)
    mine = [end for end in ends if end.id in creates and end.at_s >= creates[end.id].at_s]
    known = {record.auction.id for record in ordered}
    older = {end.id: end for end in ends if end.id not in known and end.at_s >= made.from_s}
    made.ended = len(mine) + len(older)
    made.events = [
        *((made.from_s, event) for event in _before(ordered, older.values())),
        *((one.at_s, one.create) for one in tried),
        *((end.at_s, Delete(end.id)) for end in (*mine, *older.values())),
    ]
    made.events.sort(key=lambda timed: timed[0])
    _compare(made, ordered)
    return made


def workload(past: Past, without: Collection[str] = (), more: Mapping[str, Resources] | None = None) -> Workload:
    """As events for the engine: without some hosts and what was on them before, with more of them, all empty."""
    hosts = {host_id: room for host_id, room in past.hosts.items() if host_id not in without} | dict(more or {})
    events = [event for _, event in past.events if not isinstance(event, There) or event.host in hosts]
    events.insert(_peak(past, events), Mark("peak"))
    return Workload("records", hosts, [*events, Mark("end")], past.traits)


def _peak(past: Past, events: Sequence[Event]) -> int:
    """After how many events the fleet was fullest, as it happened."""
    whole = [sum(amounts) for amounts in zip(*past.hosts.values(), strict=True)]
    used, there, loads = ZERO, dict[str, Resources](), [0.0]
    for event in events:
        if isinstance(event, Delete):
            used = used.minus(there.pop(event.vm, ZERO))
        elif isinstance(event, There) or (isinstance(event, Create) and event.vm in past.placed):
            there[event.vm] = event.demand
            used = used.plus(event.demand)
        loads.append(max(used.vcpu / whole[0], used.memory_mib / whole[1]))
    return max(range(len(loads)), key=loads.__getitem__)


def as_it_happened(past: Past) -> Rule:
    """Every microVM where it was."""
    return Rule("as it happened", lambda fleet: _Known(past.placed))


def watched(rule: Rule, title: str, chosen: MutableMapping[str, str | None]) -> Rule:
    """The same rule under another title, its choices written down."""
    return Rule(title, lambda fleet: _Watched(rule.start(fleet), chosen))


def elsewhere(past: Past, chosen: Mapping[str, str | None]) -> int:
    """How many microVMs a rule would have put somewhere else, or nowhere, or somewhere instead of nowhere."""
    return sum(host != past.placed.get(vm) for vm, host in chosen.items())


class Shadow(NamedTuple):
    """How often a policy in the shadow would have taken another host than the one that the microVM went to."""

    policy: str
    awards: int  # that came to something: what a quota, a host or its client then refused has gone nowhere
    others: int


def shadows(records: Iterable[AuctionRecord]) -> list[Shadow]:
    """One for each policy that ran in the shadow, in the order of their first records."""
    awards: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for record in records:
        host = _host_of(record)
        if host and record.attempts and record.attempts[-1].shadow:
            awards[record.shadow] += 1
            others[record.shadow] += record.attempts[-1].shadow != host
    return [Shadow(policy, count, others[policy]) for policy, count in awards.items()]


def assumed(past: Past, without: Sequence[str] = ()) -> list[str]:
    """What the answer rests on, in sentences."""
    share = past.agreeing / past.views if past.views else 1.0
    said = [
        "decided one at a time, in the order of the auctions, with every host asked",
        "hosts are calm and boot at once: pressure and boot delay count nothing, so that `fast` shows as `spread`",
        "every host that was ever asked was there all the time, with the room that it had last",
        "a microVM lives as long as it did, wherever it runs; one that had been refused stays to the end",
        f"what ran before the first record stays where it was; so rebuilt, {share:.0%} of {past.views} recorded"
        " views of a host agree (the rest: what was made on a host directly, and auctions that other servers held)",
    ]
    if past.choosy:
        said.append(
            f"every host has every provider, though {counted(past.choosy, 'auction')} asked for something of it"
        )
    if past.constrained:
        said.append(
            f"the constraints of {counted(past.constrained, 'auction')} are met as far as the records go: a host has"
            " the zone and the labels that auctions on record wished for and found there, and no others; what ran"
            " before them is of no group"
        )
    if past.bounded:
        said.append(f"no quota holds, though {counted(past.bounded, 'auction')} ended at one")
    if past.left_out:
        what = ", ".join(f"{count} {outcome}" for outcome, count in sorted(past.left_out.items()))
        said.append(f"left out, since they came to no decision about room: {what}")
    if without:
        said.append(f"what ran on {', '.join(without)} before the first record is left out")
    return said


def _decided_s(record: AuctionRecord) -> float:
    return record.at_s + (record.attempts[-1].after_ms / 1e3 if record.attempts else 0.0)


def _asks_for_more(auction: Auction) -> bool:
    return bool(auction.provider or auction.needs_macvtap or auction.needs_virtiofs)


def _traits(ordered: Sequence[AuctionRecord]) -> dict[str, Traits]:
    """What hosts have, by what was wished of them: records do not say it otherwise.

    A host that nothing was said against has all that was wished; one that was ruled out for the only label that was
    to be avoided has that.
    """
    zones: dict[str, str] = {}
    labels: dict[str, dict[str, str]] = {}
    for record in ordered:
        constraints = record.auction.constraints
        for attempt in record.attempts if constraints != NO_CONSTRAINTS else ():
            for host_id, view in attempt.ledger.items():
                if view.excluded_by is None or view.excluded_by.reason is Reason.APART:
                    zones[host_id] = constraints.zone or zones.get(host_id, "")
                    labels.setdefault(host_id, {}).update(constraints.require)
                elif view.excluded_by.reason is Reason.AVOIDED and len(constraints.avoid) == 1:
                    labels.setdefault(host_id, {}).update(constraints.avoid)
    return {host_id: Traits(zones.get(host_id, ""), labels.get(host_id, {})) for host_id in zones | labels}


def _tried(ordered: Sequence[AuctionRecord], made: Past) -> list[Tried]:
    """What was decided. A client that is refused tries again: only its last try counts."""
    tried: dict[str, Tried] = {}
    waiting: dict[tuple[str, str], str] = {}  # refused so far
    for record in ordered:
        auction = record.auction
        host = _host_of(record)
        if record.outcome != "unplaced" and (not host or host not in made.hosts):
            made.left_out[record.outcome or "unfinished"] += 1
            continue
        if auction.id in tried and tried[auction.id].host:
            continue  # it was sent again and found its microVM there
        earlier = waiting.pop((auction.namespace, auction.name), None)
        if earlier is not None:
            made.again += 1
            tried.pop(earlier, None)
        tried[auction.id] = Tried(auction, host, _decided_s(record))
        if not host:
            waiting[(auction.namespace, auction.name)] = auction.id
    return list(tried.values())


def _host_of(record: AuctionRecord) -> str:
    if record.outcome not in PLACED:
        return ""
    award = record.attempts[-1].award if record.attempts else None
    return record.host or (award.host if award else "")


def _before(ordered: Sequence[AuctionRecord], older: Iterable[Gone]) -> Iterator[There]:
    """What each host had when the ledger was first seen to count it: what ended later by itself, the rest as one."""
    looks = [
        (record.at_s + attempt.after_ms / 1e3, attempt.ledger) for record in ordered for attempt in record.attempts
    ]
    first: dict[str, Resources] = {}
    for _, ledger in sorted(looks, key=lambda look: look[0]):
        for host_id, view in ledger.items():
            first.setdefault(host_id, view.taken)
    for end in older:
        if end.host in first:
            first[end.host] = first[end.host].minus(end.demand)
            yield There(end.id, end.demand, end.host)
    for host_id, taken in first.items():
        rest = Resources(*(max(amount, 0) for amount in taken))
        if rest != ZERO:
            yield There(BEFORE + host_id, rest, host_id)


def _compare(made: Past, ordered: Sequence[AuctionRecord]) -> None:
    """Count how often the rebuilt ledger says what the recorded one said."""
    taken = dict.fromkeys(made.hosts, ZERO)
    there: dict[str, tuple[str, Resources]] = {}
    events = iter([*made.events, (float("inf"), Mark("end"))])
    at_s, event = next(events)
    for record in ordered:
        while at_s < _decided_s(record) or isinstance(event, There):
            _step(taken, there, made.placed, event)
            at_s, event = next(events)
        for host_id, view in record.attempts[-1].ledger.items() if record.attempts else ():
            made.views += 1
            made.agreeing += taken[host_id] == view.taken


def _step(
    taken: MutableMapping[str, Resources],
    there: MutableMapping[str, tuple[str, Resources]],
    placed: Mapping[str, str],
    event: Event,
) -> None:
    match event:
        case There(vm, demand, host):
            there[vm] = host, demand
            taken[host] = taken[host].plus(demand)
        case Create(vm, demand) if vm in placed:
            there[vm] = placed[vm], demand
            taken[placed[vm]] = taken[placed[vm]].plus(demand)
        case Delete(vm) if vm in there:
            host, demand = there.pop(vm)
            taken[host] = taken[host].minus(demand)


class _Known:
    def __init__(self, placed: Mapping[str, str]) -> None:
        self._placed = placed

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        return self._placed.get(vm)


class _Watched:
    def __init__(self, chooser: Chooser, chosen: MutableMapping[str, str | None]) -> None:
        self._chooser, self._chosen = chooser, chosen

    def choose(self, vm: str, demand: Resources, wanted: Auction | None = None) -> str | None:
        host = self._chosen[vm] = self._chooser.choose(vm, demand, wanted)
        return host
