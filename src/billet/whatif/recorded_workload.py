"""Turn recorded auctions into a workload, to replay them with another policy or another fleet.

Records have each request, its time and its outcome; the recorded ends of microVMs give their lifetimes. `assumed`
lists the assumptions about everything that is not recorded.
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
from billet.whatif.workload import Create, Delete, Event, Existing, Mark, Traits, Workload

BEFORE = "before "  # name of what a host had when it was first seen: this and the host
PLACED = frozenset({"created", "unknown"})  # with an unknown outcome the room stays taken


class Tried(NamedTuple):
    """A decided create. `host` is "" if it was refused."""

    auction: Auction
    host: str
    at_s: float

    @property
    def create(self) -> Create:
        """The same as an event of a workload."""
        wanted = None if self.auction.constraints == NO_CONSTRAINTS else self.auction
        return Create(self.auction.id, self.auction.demand, wanted)


@dataclass(slots=True)
class Past:
    """The events of the past in order of time, and counts of what the records do not tell."""

    hosts: dict[str, Resources] = field(default_factory=dict)  # last known allocatable
    events: list[tuple[float, Event]] = field(default_factory=list)
    placed: dict[str, str] = field(default_factory=dict)  # microVM -> host
    weights: Weights = DEFAULT_WEIGHTS  # of the last auction
    records: int = 0
    from_s: float = 0.0
    to_s: float = 0.0
    refused: int = 0
    again: int = 0  # refused creates that were repeated: only the last one counts
    ended: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by outcome
    choosy: int = 0  # auctions that asked for a provider or its features
    constrained: int = 0  # auctions with constraints or preferences
    traits: dict[str, Traits] = field(default_factory=dict)  # of hosts, as far as constraints reveal them
    bounded: int = 0  # auctions that a quota refused
    views: int = 0  # recorded ledger entries of hosts
    agreeing: int = 0


def past(records: Iterable[AuctionRecord], ends: Iterable[Gone]) -> Past:
    """Combine records. They may be of several servers, in any order."""
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
    """The past as a workload, without some hosts (and what was on them before), and with `more` empty ones."""
    hosts = {host_id: room for host_id, room in past.hosts.items() if host_id not in without} | dict(more or {})
    events = [event for _, event in past.events if not isinstance(event, Existing) or event.host in hosts]
    events.insert(_peak(past, events), Mark("peak"))
    return Workload("records", hosts, [*events, Mark("end")], past.traits)


def _peak(past: Past, events: Sequence[Event]) -> int:
    """Number of events after which the fleet was fullest."""
    whole = [sum(amounts) for amounts in zip(*past.hosts.values(), strict=True)]
    used, there, loads = ZERO, dict[str, Resources](), [0.0]
    for event in events:
        if isinstance(event, Delete):
            used = used.minus(there.pop(event.vm, ZERO))
        elif isinstance(event, Existing) or (isinstance(event, Create) and event.vm in past.placed):
            there[event.vm] = event.demand
            used = used.plus(event.demand)
        loads.append(max(used.vcpu / whole[0], used.memory_mib / whole[1]))
    return max(range(len(loads)), key=loads.__getitem__)


def as_it_happened(past: Past) -> Rule:
    """The rule that puts every microVM on its recorded host."""
    return Rule("as it happened", lambda fleet: _Known(past.placed))


def watched(rule: Rule, title: str, chosen: MutableMapping[str, str | None]) -> Rule:
    """The same rule with another title, which stores its choices in `chosen`."""
    return Rule(title, lambda fleet: _Watched(rule.start(fleet), chosen))


def elsewhere(past: Past, chosen: Mapping[str, str | None]) -> int:
    """Number of microVMs for which a rule chose another host, none, or one instead of none."""
    return sum(host != past.placed.get(vm) for vm, host in chosen.items())


class Shadow(NamedTuple):
    """How often a shadow policy would have chosen another host than the actual one."""

    policy: str
    awards: int  # auctions whose microVM was placed
    others: int


def shadows(records: Iterable[AuctionRecord]) -> list[Shadow]:
    """One for each shadow policy, in the order of their first records."""
    awards: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for record in records:
        host = _host_of(record)
        if host and record.attempts and record.attempts[-1].shadow:
            awards[record.shadow] += 1
            others[record.shadow] += record.attempts[-1].shadow != host
    return [Shadow(policy, count, others[policy]) for policy, count in awards.items()]


def assumed(past: Past, without: Sequence[str] = ()) -> list[str]:
    """The assumptions of a replay, as phrases."""
    share = past.agreeing / past.views if past.views else 1.0
    phrases = [
        "creates are decided one at a time, in the recorded order, with all hosts asked",
        "hosts have no pressure and boot at once, so `fast` equals `spread`",
        "every recorded host exists all the time, with its last known room",
        "a microVM lives as long as it did; one that had been refused stays to the end",
        f"what ran before the first record stays where it was; {share:.0%} of {past.views} recorded ledger entries"
        " match the rebuilt ones (others: microVMs created on a host directly, auctions of other servers)",
    ]
    if past.choosy:
        phrases.append(
            f"every host has every provider, though {counted(past.choosy, 'auction')} asked for a certain one"
        )
    if past.constrained:
        phrases.append(
            f"{counted(past.constrained, 'auction')} had constraints or preferences: a host has only the zone and"
            " labels that recorded auctions asked for and found there; what ran before them is in no group"
        )
    if past.bounded:
        phrases.append(f"there are no quotas, though one refused {counted(past.bounded, 'auction')}")
    if past.left_out:
        what = ", ".join(f"{count} {outcome}" for outcome, count in sorted(past.left_out.items()))
        phrases.append(f"auctions without a decision about room are left out: {what}")
    if without:
        phrases.append(f"what ran on {', '.join(without)} before the first record is left out")
    return phrases


def _decided_s(record: AuctionRecord) -> float:
    return record.at_s + (record.attempts[-1].after_ms / 1e3 if record.attempts else 0.0)


def _asks_for_more(auction: Auction) -> bool:
    return bool(auction.provider or auction.needs_macvtap or auction.needs_virtiofs)


def _traits(ordered: Sequence[AuctionRecord]) -> dict[str, Traits]:
    """Zones and labels of hosts, derived from constraints: they are not recorded themselves.

    A host that was not excluded has all that the auction required. A host that was excluded for the only label to
    avoid has that label.
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
    """The decided creates. Of a refused create that was repeated, only the last try counts."""
    tried: dict[str, Tried] = {}
    refused: dict[tuple[str, str], str] = {}  # namespace and name -> auction
    for record in ordered:
        auction = record.auction
        host = _host_of(record)
        if record.outcome != "unplaced" and (not host or host not in made.hosts):
            made.left_out[record.outcome or "unfinished"] += 1
            continue
        if auction.id in tried and tried[auction.id].host:
            continue  # a repeated request that found its microVM
        earlier = refused.pop((auction.namespace, auction.name), None)
        if earlier is not None:
            made.again += 1
            tried.pop(earlier, None)
        tried[auction.id] = Tried(auction, host, _decided_s(record))
        if not host:
            refused[(auction.namespace, auction.name)] = auction.id
    return list(tried.values())


def _host_of(record: AuctionRecord) -> str:
    if record.outcome not in PLACED:
        return ""
    award = record.attempts[-1].award if record.attempts else None
    return record.host or (award.host if award else "")


def _before(ordered: Sequence[AuctionRecord], older: Iterable[Gone]) -> Iterator[Existing]:
    """What each host had when it was first recorded: one for each recorded end, the rest as one."""
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
            yield Existing(end.id, end.demand, end.host)
    for host_id, taken in first.items():
        rest = Resources(*(max(amount, 0) for amount in taken))
        if rest != ZERO:
            yield Existing(BEFORE + host_id, rest, host_id)


def _compare(made: Past, ordered: Sequence[AuctionRecord]) -> None:
    """Count how often the rebuilt ledger agrees with the recorded one."""
    taken = dict.fromkeys(made.hosts, ZERO)
    there: dict[str, tuple[str, Resources]] = {}
    events = iter([*made.events, (float("inf"), Mark("end"))])
    at_s, event = next(events)
    for record in ordered:
        while at_s < _decided_s(record) or isinstance(event, Existing):
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
        case Existing(vm, demand, host):
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
