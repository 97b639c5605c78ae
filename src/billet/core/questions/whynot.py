"""Why a host did not win an auction, and the smallest changes that would have made it win.

Each change is tried by repeating the recorded auction with it, through `award`; there is no formula here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import ceil
from typing import NamedTuple

from billet.core.auction import award, unpriced_bid, updated_bid
from billet.core.bidding import CAPABILITY_REASONS, PROVIDERS, incapable
from billet.core.boots.forecast import behind
from billet.core.constraints import Crowding
from billet.core.corrections import NO_TROUBLE
from billet.core.model import Auction, Award, Bid, Facts, HostView, Reason, Refusal, Resources, Score
from billet.core.questions.record import Attempt, AuctionRecord, crowdings, prices
from billet.core.scoring import Weights

PRESSURE_STEP = 0.01
NO_ANSWER = frozenset(
    {Reason.DAEMON_AWAY, Reason.STOPPING, Reason.SILENT, Reason.AWAY, Reason.DECLINED, Reason.SUSPECT}
)


class What(Enum):
    """What may change on a host. The first four are the elements of Resources, in that order."""

    VCPU = "vCPU taken"
    MEMORY = "MiB memory taken"
    DISK = "MiB disk taken"
    SLOTS = "microVM slots taken"
    LIKE = "microVMs of this size on it"  # counts for every resource
    QUEUE = "boots in its queue"
    IMAGES = "images that it would have to pull"
    PRESSURE = "pressure"
    CORDONED = "cordoned"
    FENCED = "fenced"
    PROVIDER = "provider"  # flintlockd's default provider, which cannot run this microVM
    TROUBLE = "trouble"  # failures, or many microVMs that it has not booted
    REFUSING = "refusing"  # though the ledger has room


RESOURCES = (What.VCPU, What.MEMORY, What.DISK, What.SLOTS)


class Change(NamedTuple):
    """One change: `to` instead of `was`. For LIKE, `was` is how many such microVMs the taken room would hold."""

    what: What
    was: float
    to: float


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Why a host did not win. Scores are those of the award; None without a bid.

    Each of the `ways` would have made the host win, the smallest first; all changes of a way are needed.
    """

    host: str
    asked: bool
    winner: str = ""  # "" = no host won
    refusal: Refusal | None = None
    mine: Score | None = None
    winners: Score | None = None
    crowds: tuple[Crowding, Crowding] = (Crowding(), Crowding())  # its own and the winner's: counts before the score
    facts_known: bool = True  # False: the host refused, and a refusal carries no facts
    ways: tuple[tuple[Change, ...], ...] = field(default=())
    excluded_by: Reason | None = None  # the violated constraint
    too_small: tuple[tuple[What, int], ...] = ()  # resources that even the empty host lacks, with its amounts
    providers: tuple[str, ...] = ()  # providers that could run it, if the host's own cannot


class Standing(NamedTuple):
    """A host as an award sees it; with default facts if it did not bid."""

    view: HostView
    facts: Facts
    missing: int = 0
    coming: int = 0


def why_not(record: AuctionRecord, host_id: str) -> WhyNot:
    """Explain the last decision with an answer of this host, else the last one. ValueError if there was none."""
    if not record.attempts:
        raise ValueError("this create was not decided by an auction")
    attempt = next((a for a in reversed(record.attempts) if _answer_of(a, host_id)), record.attempts[-1])
    answer = _answer_of(attempt, host_id)
    if answer is None:
        return WhyNot(host_id, asked=False, winner=attempt.award.host if attempt.award else "")
    auction, weights, winner = record.auction, record.weights, attempt.award
    offer = answer if isinstance(answer, Refusal) else prices(record, attempt)[host_id]
    found = WhyNot(
        host_id,
        asked=True,
        winner=winner.host if winner else "",
        refusal=offer if isinstance(offer, Refusal) else None,
        mine=offer if isinstance(offer, Score) else None,
        winners=winner.score if winner else None,
        crowds=_crowds(record, attempt, host_id),
        facts_known=not isinstance(answer, Refusal),
    )
    standing = standing_of(attempt, host_id)
    if found.winner == host_id or standing is None:
        return found
    if standing.view.excluded_by:
        return replace(found, excluded_by=standing.view.excluded_by.reason)
    if found.refusal and found.refusal.reason in CAPABILITY_REASONS:
        found = replace(found, providers=providers_for(auction))
        if not found.providers:
            return found
    too_small = _too_small(standing.view.allocatable, auction.demand)
    return replace(found, too_small=too_small, ways=tuple(_ways(attempt, auction, weights, standing, found)))


def _crowds(record: AuctionRecord, attempt: Attempt, host_id: str) -> tuple[Crowding, Crowding]:
    counts, winner = crowdings(record, attempt), attempt.award.host if attempt.award else host_id
    return counts.get(host_id, Crowding()), counts.get(winner, Crowding())


def providers_for(auction: Auction) -> tuple[str, ...]:
    """The default providers with which a host could run the microVM; none if it names an unsuitable one itself."""
    able = (name for name in sorted(PROVIDERS) if not incapable(auction.provider or name, auction))
    return tuple(able)


def standing_of(attempt: Attempt, host_id: str) -> Standing | None:
    """The host at the moment of the decision; None if the record lacks its answer or its view in the ledger."""
    view, answer = attempt.ledger.get(host_id), _answer_of(attempt, host_id)
    if view is None or answer is None:
        return None
    if isinstance(answer, Refusal):
        return Standing(view, Facts())
    now = updated_bid(answer, view)
    return Standing(view, now.facts, now.missing, now.coming)


def wins(attempt: Attempt, auction: Auction, weights: Weights, host_id: str, standing: Standing) -> bool:
    """Whether the host would win the same auction with this standing, the other hosts unchanged."""
    others = [answer for answer in _answers(attempt) if answer.host != host_id]
    ledger = {**attempt.ledger, host_id: standing.view}
    bid = unpriced_bid(host_id, standing.facts, standing.missing, standing.coming)
    decision = award(auction, [*others, bid], ledger, weights)
    return isinstance(decision, Award) and decision.host == host_id


def changed(standing: Standing, demand: Resources, changes: Sequence[Change]) -> Standing:
    """The standing after these changes."""
    view, facts, missing, coming = standing
    for change in changes:
        match change.what:
            case What.QUEUE:
                facts = behind(facts, int(change.to) - facts.pending)
            case What.IMAGES:
                missing = int(change.to)
            case What.PRESSURE:
                facts = facts._replace(pressure=change.to)
            case What.TROUBLE:
                view = view._replace(trouble=NO_TROUBLE)
            case What.CORDONED:
                view = view._replace(cordoned=False)
            case What.FENCED:
                view = view._replace(fenced=False)
            case What.REFUSING | What.PROVIDER:
                pass  # `wins` gives it a bid, which is the change
            case What.LIKE:
                view = view._replace(taken=_without(view.taken, demand, int(change.was - change.to)))
            case _:
                view = view._replace(taken=_set(view.taken, RESOURCES.index(change.what), int(change.to)))
    return Standing(view, facts, missing, coming)


def _ways(
    attempt: Attempt, auction: Auction, weights: Weights, standing: Standing, found: WhyNot
) -> list[tuple[Change, ...]]:
    demand = auction.demand
    needed = _needed(standing.view, demand, found.refusal)
    if needed is None:
        return []
    base = changed(standing, demand, needed)
    if wins(attempt, auction, weights, found.host, base):
        return [needed] if needed else []
    ways = []
    for lever in (*_levers(base, demand), _like(standing.view.taken, demand)):
        # Fewer microVMs free every resource, so the needed changes of single resources are left out.
        first = tuple(c for c in needed if c.what not in RESOURCES) if lever.what is What.LIKE else needed
        start = changed(standing, demand, first)

        def enough(n: int, lever: Lever = lever, start: Standing = start) -> bool:
            return wins(attempt, auction, weights, found.host, changed(start, demand, [lever.down(n)]))

        n = _least(lever.most, enough)
        if n is not None:
            ways.append((_size(lever.down(n), base.view.allocatable, demand), _merged(first, lever.down(n))))
    return [way for _, way in sorted(ways, key=lambda sized: sized[0])]


def _too_small(allocatable: Resources, demand: Resources) -> tuple[tuple[What, int], ...]:
    return tuple((what, allocatable[n]) for n, what in enumerate(RESOURCES) if demand[n] > allocatable[n])


def _needed(view: HostView, demand: Resources, refusal: Refusal | None) -> tuple[Change, ...] | None:
    """The changes that the host needs to bid at all; None if nothing would help."""
    if not view.allocatable.covers(demand):
        return None
    changes = []
    if refusal and refusal.reason in CAPABILITY_REASONS:
        changes.append(Change(What.PROVIDER, 1, 0))
    if view.cordoned:
        changes.append(Change(What.CORDONED, 1, 0))
    if view.fenced:
        changes.append(Change(What.FENCED, 1, 0))
    for n, what in enumerate(RESOURCES):
        most = view.allocatable[n] - demand[n]
        if view.taken[n] > most:
            changes.append(Change(what, view.taken[n], most))
    if refusal and (not changes or refusal.reason in NO_ANSWER):
        changes.append(Change(What.REFUSING, 1, 0))
    return tuple(changes)


class Lever(NamedTuple):
    """A quantity on a host that can be reduced in up to `most` steps."""

    what: What
    was: float
    most: int
    step: float = 1.0

    def down(self, n: int) -> Change:
        """The change after n steps."""
        return Change(self.what, self.was, max(0.0, round(self.was - n * self.step, 6)))


def _levers(standing: Standing, demand: Resources) -> Iterator[Lever]:
    taken, facts = standing.view.taken, standing.facts
    for n, what in enumerate(RESOURCES):
        yield Lever(what, taken[n], taken[n])
    yield Lever(What.QUEUE, facts.pending, facts.pending)
    yield Lever(What.IMAGES, standing.missing, standing.missing)
    pressure = facts.pressure or 0.0
    yield Lever(What.TROUBLE, 1, int(standing.view.trouble.penalty > 0))
    yield Lever(What.PRESSURE, pressure, ceil(pressure / PRESSURE_STEP), PRESSURE_STEP)


def _like(taken: Resources, demand: Resources) -> Lever:
    most = max((-(-used // wanted) for used, wanted in zip(taken, demand, strict=True) if wanted), default=0)
    return Lever(What.LIKE, most, most)


def _least(most: int, true: Callable[[int], bool]) -> int | None:
    """An n from 1 to `most` for which `true` holds, but not for n - 1; None if there is none. Exponential search.

    It is the smallest such n if `true` is monotonic. It may not be: the shape part of a score can fall and rise again
    while one resource is reduced. Then n is a local minimum.
    """
    low, high = 0, 1
    while not true(min(high, most)):
        if high >= most:
            return None
        low, high = high, high * 2
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if true(middle):
            high = middle
        else:
            low = middle
    return high


def _merged(needed: tuple[Change, ...], more: Change) -> tuple[Change, ...]:
    """One change per quantity: two reductions of the same one are joined."""
    same = next((change for change in needed if change.what is more.what), None)
    if same is None:
        return (*needed, more)
    return tuple(Change(more.what, same.was, more.to) if change is same else change for change in needed)


def _size(change: Change, allocatable: Resources, demand: Resources) -> float:
    """The size of a change, for sorting: the share of the host that it frees; 1 or more if it frees no room."""
    by = change.was - change.to
    match change.what:
        case What.LIKE:
            return max(by * wanted / whole for wanted, whole in zip(demand, allocatable, strict=True) if whole)
        case What.QUEUE | What.IMAGES | What.TROUBLE:
            return 1.0 + by / max(change.was, 1.0)
        case What.PRESSURE:
            return 1.0 + by
        case _:
            return by / allocatable[RESOURCES.index(change.what)]


def _without(taken: Resources, demand: Resources, count: int) -> Resources:
    less = taken.minus(Resources(*(count * wanted for wanted in demand)))
    return Resources(*(max(amount, 0) for amount in less))


def _set(taken: Resources, n: int, amount: int) -> Resources:
    amounts = list(taken)
    amounts[n] = amount
    return Resources(*amounts)


def _answers(attempt: Attempt) -> Iterator[Bid | Refusal]:
    yield from attempt.bids
    yield from attempt.refusals


def _answer_of(attempt: Attempt, host_id: str) -> Bid | Refusal | None:
    return next((answer for answer in _answers(attempt) if answer.host == host_id), None)
