"""The leader's side of an auction: which bid wins. Replaying a record through `award` gives the same award."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from billet.core.bidding import PROVIDERS, closed, no_room
from billet.core.boots.forecast import bound_s, until_created_s
from billet.core.boots.pooling import Pooled, awarded_since, facts_now, pool
from billet.core.constraints import Crowding, crowding, with_preferences
from billet.core.model import (
    FORMULA,
    ZERO,
    Auction,
    Award,
    Bid,
    Constraints,
    Facts,
    Forecast,
    HostView,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
    Score,
    Unplaced,
)
from billet.core.plural import counted
from billet.core.policies import Seconds, named
from billet.core.scoring import NEVER_LATE_S, Weights, price, utilisation

# The limits of flintlockd's own validation. A microVM beyond them is refused by flintlockd, not by an auction.
VCPU_LIMITS = range(1, 65)
MEMORY_MIB_LIMITS = range(1024, 32769)
FREE_PULL_S = 0.05  # what a free pull counts as, so that of hosts that are equally full one with the images wins
NO_BASIS = Resources(-1, -1, -1, 1 << 62)  # never equals a ledger's count; no microVM counts as awarded since


def hopeless(auction: Auction) -> bool:
    """Whether every flintlockd would refuse this request, so that no auction is needed."""
    return (
        auction.demand.vcpu not in VCPU_LIMITS
        or auction.demand.memory_mib not in MEMORY_MIB_LIMITS
        or not (auction.provider in PROVIDERS or auction.provider == "")
    )


def clearing_order(waiting: Sequence[tuple[Resources, int]], whole: Resources) -> list[int]:
    """The order in which auctions of one batch are decided, as positions in `waiting` (demand, priority).

    Higher priority first, then the larger dominant share of the `whole` fleet, then first come. Large microVMs go
    where they fit best while there is choice, and small ones level what is left: longest processing time first
    (Graham, 1969).
    """

    def rank(n: int) -> tuple[int, float]:
        demand, priority = waiting[n]
        return -priority, -utilisation(whole, ZERO, demand)

    return sorted(range(len(waiting)), key=rank)


def award(
    auction: Auction,
    answers: Sequence[Bid | Refusal],
    ledger: Mapping[str, HostView],
    weights: Weights,
) -> Award | Unplaced:
    """The lowest bid that the ledger has room for; for a microVM to be spread, the lowest of the least crowded ones.

    The ledger says whether there is room, a bid only how well the host suits the microVM (promise 1). Every score is
    computed here, from the facts of the bid and the count of the ledger; microVMs awarded since the bid count as
    waiting for their boot. Bids with a long wait or a pull are compared by the means of all bids
    (core/boots/pooling.py). Ties are broken by a hash of auction and host: over many auctions no host is
    favoured for its name.
    """
    bids, refusals = with_room(auction, answers, ledger)
    if not bids:
        return Unplaced(_most_common_first(refusals))
    by_host = scores(bids, auction, ledger, weights)
    ranks = {bid.host: (crowding(ledger[bid.host].peers, weights), by_host[bid.host].total) for bid in bids}
    best = _lowest(auction, bids, ranks)
    rest = [bid for bid in bids if bid is not best]
    runner_up = _lowest(auction, rest, ranks).host if rest else None
    return Award(best.host, by_host[best.host], outdated(best, ledger[best.host]), runner_up)


def with_room(
    auction: Auction, answers: Sequence[Bid | Refusal], ledger: Mapping[str, HostView]
) -> tuple[list[Bid], list[Refusal]]:
    """The bids that the ledger has room for, and the refusals: the hosts' own, and the ledger's of other bids."""
    bids: list[Bid] = []
    refusals: list[Refusal] = []
    for answer in answers:
        refusal = answer if isinstance(answer, Refusal) else _refused(answer, auction, ledger.get(answer.host))
        if refusal:
            refusals.append(refusal)
        elif isinstance(answer, Bid):
            bids.append(answer)
    return bids, refusals


def _refused(bid: Bid, auction: Auction, view: HostView | None) -> Refusal | None:
    if view is None:
        return Refusal(bid.host, Reason.AWAY)
    closing = closed(bid.host, view) or view.excluded_by
    return closing or no_room(bid.host, view.allocatable, view.taken, auction.demand)


def outdated(bid: Bid, view: HostView) -> bool:
    """Whether the host counted other microVMs than the ledger does, or used another version of the formula."""
    return view.taken != bid.basis or bid.formula != FORMULA


def scores(
    bids: Sequence[Bid], auction: Auction, ledger: Mapping[str, HostView], weights: Weights
) -> dict[str, Score]:
    """The score of each of these bids, by host. The ledger must have room for all of them (`with_room`)."""
    pooled = pool(bids, ledger)
    policy = weights.under(auction.constraints.policy).policy
    soonest_s = NEVER_LATE_S
    if named(policy).seconds is Seconds.AVOIDABLE and not patient(auction.constraints):
        soonest_s = min((pooled.wait_s(bid, ledger[bid.host]) for bid in bids), default=0.0)
    return {bid.host: current_offer(bid, auction, ledger[bid.host], weights, pooled, soonest_s) for bid in bids}


def patient(constraints: Constraints) -> bool:
    """Whether where a microVM runs matters more than when, among the hosts that its score compares."""
    return bool(constraints.near)


def current_offer(
    bid: Bid, auction: Auction, view: HostView, weights: Weights, pooled: Pooled, soonest_s: float
) -> Score:
    """The score of a bid, from the host's facts and the ledger's count. The host's own total is only recorded.

    A host that asks for less than its facts say would get every microVM, so its sum is never taken over.
    """
    of_policy = weights.under(auction.constraints.policy)
    missing = bid.missing if named(of_policy.policy).seconds is Seconds.ALL else pooled.counted(bid)
    facts = pooled.adjusted(pooled.facts_by_host[bid.host], bid.missing)
    score = price(view.allocatable, view.taken, auction.demand, facts, of_policy, missing, view.discount, soonest_s)
    if bid.missing > missing:
        added = FREE_PULL_S * of_policy.delay
        score = score._replace(total=score.total + added, delay=score.delay + added)
    if view.peers:
        score = with_preferences(score, view.peers, weights)
    trouble, scarcity = view.trouble.penalty, weights.scarcity * view.scarcity.share
    if not (trouble or scarcity):
        return score
    return score._replace(total=score.total + trouble + scarcity, trouble=trouble, scarcity=scarcity)


def forecast_of(bid: Bid, auction: Auction, view: HostView) -> Forecast:
    """The forecast of a bid, with the microVMs awarded since counted as waiting before it.

    The utilisation is the bid's own as long as the ledger's count equals the host's: with that one the bid won.
    """
    facts, moved = facts_now(bid, view), view.taken != bid.basis
    return Forecast(
        utilisation(view.allocatable, view.taken, auction.demand) if moved else bid.score.utilisation,
        until_created_s(facts, bid.missing),
        bound_s(facts, bid.missing),
    )


def unpriced_bid(host_id: str, facts: Facts, missing: int = 0, coming: int = 0) -> Bid:
    """A bid without a score of its own: `award` computes it from these facts and its own weights."""
    return Bid(host_id, Score(0.0, 0.0, 0.0, 0.0), NO_BASIS, facts, missing, coming)


def updated_bid(bid: Bid, view: HostView) -> Bid:
    """The bid with the awards since then in its facts, and without a score of its own."""
    coming = bid.coming + (bid.missing if awarded_since(bid, view) else 0)
    return unpriced_bid(bid.host, facts_now(bid, view), bid.missing, coming)


def _lowest(auction: Auction, bids: Sequence[Bid], ranks: Mapping[str, tuple[Crowding, float]]) -> Bid:
    low = min(ranks[bid.host] for bid in bids)
    tied = [bid for bid in bids if ranks[bid.host] == low]
    return tied[0] if len(tied) == 1 else min(tied, key=lambda bid: tie_break(auction.id, bid.host))


def reservation(auction: Auction, decision: Award, instance: str, now_s: float) -> Placement:
    """The placement by which the winner's room is claimed, before its agent (`instance`) is told."""
    return Placement(
        id=auction.id,
        namespace=auction.namespace,
        name=auction.name,
        demand=auction.demand,
        host=decision.host,
        state=PlacementState.RESERVED,
        labels=auction.labels,
        score=decision.score.total,
        runner_up=decision.runner_up or "",
        changed_at_s=now_s,
        instance=instance,
    )


def tie_break(auction_id: str, host_id: str) -> bytes:
    """A pseudo-random value for an auction and a host; the lowest wins a tie."""
    return blake2b(f"{auction_id}\0{host_id}".encode(), digest_size=8).digest()


def _most_common_first(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
    counts = Counter(refusal.reason for refusal in refusals)
    return tuple(sorted(refusals, key=lambda r: (-counts[r.reason], r.reason.name, r.host)))


def explain_unplaced(auction: Auction, unplaced: Unplaced, unmet: Sequence[str] = ()) -> str:
    """The error text for the client: the demand, and each reason with its number of hosts, the most common first.

    A reason has one host's details as an example; that of a violated constraint has several hosts, each with its own
    value. If there are constraints that no host meets (core/constraints.py:unmet), only these are named.
    """
    demand = auction.demand
    head = f"no host can take {auction.namespace}/{auction.name} ({demand.vcpu} vCPU, {demand.memory_mib} MiB)"
    if not unplaced.refusals:
        return f"{head}: no host has joined; start `billet agent` beside each flintlockd"
    return f"{head}: " + "; ".join(unmet or map(str, grouped(unplaced.refusals)))


class RefusedBy(NamedTuple):
    """The hosts that refuse for one reason: their number, and the details of one or a few."""

    reason: Reason
    hosts: int
    details: str

    def __str__(self) -> str:
        details = f" ({self.details})" if self.details else ""
        return f"{counted(self.hosts, 'host')}: {self.reason.value}{details}"


def grouped(refusals: Sequence[Refusal]) -> list[RefusedBy]:
    """Refusals by reason, the most common first."""
    found = []
    for reason, count in Counter(refusal.reason for refusal in refusals).most_common():
        details = [f"{r.host}: {r.detail}" for r in refusals if r.reason is reason and r.detail]
        most = HOSTS_NAMED if reason in CONSTRAINT_REASONS else 1
        begin = "e.g. " if details and (most == 1 or len(details) > most) else ""
        found.append(RefusedBy(reason, count, begin + ", ".join(details[:most])))
    return found


CONSTRAINT_REASONS = frozenset({Reason.ZONE, Reason.HOST, Reason.LABEL, Reason.AVOIDED, Reason.APART})
HOSTS_NAMED = 8
AWAY_REASONS = frozenset(
    {Reason.AWAY, Reason.SILENT, Reason.DAEMON_AWAY, Reason.STOPPING, Reason.DECLINED, Reason.SUSPECT}
)


def some_unreachable(unplaced: Unplaced) -> bool:
    """Whether a retry may help: some host did not answer, and may have room."""
    return any(refusal.reason in AWAY_REASONS for refusal in unplaced.refusals)
