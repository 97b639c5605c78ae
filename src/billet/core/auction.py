"""The leader's side: who wins. Replaying a record through `award` gives the same award."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from billet.core.bidding import PROVIDERS, closed, no_room
from billet.core.boots.forecast import bound_s, until_created_s
from billet.core.boots.pooling import Pooled, awarded_since, facts_by, pool
from billet.core.constraints import with_preferences
from billet.core.model import (
    FORMULA,
    NO_DISCOUNT,
    ZERO,
    Auction,
    Award,
    Bid,
    Constraints,
    Facts,
    Forecast,
    HostView,
    Reason,
    Refusal,
    Resources,
    Score,
    Unplaced,
)
from billet.core.plural import counted
from billet.core.scoring import LONG, PATIENT, Tolerance, Weights, price, utilisation

# What flintlockd accepts (its own validation); a microVM outside of this is its verdict, not an auction's.
VCPU_LIMITS = range(1, 65)
MEMORY_MIB_LIMITS = range(1024, 32769)
NEVER = Resources(-1, -1, -1, 1 << 62)  # so many microVMs that none counts as awarded since


def hopeless(auction: Auction) -> bool:
    """Whether every flintlockd would refuse this, so that one of them should say so in its own words."""
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
    """The lowest bid that the ledger has room for.

    The ledger says whether there is room, a bid only how much the host wants the microVM (promise 1). A bid that was
    worked out on another count than the ledger's, or by another formula, is priced anew before it is compared, with
    the microVMs awarded since then counted as waiting for their boot; so is one of a host where this microVM would
    wait long, or for a pull, in the light of all bids (core/boots/pooling.py). Ties go by a hash of auction and
    host: over many auctions no host is favoured for its name.
    """
    bids, refusals = with_room(auction, answers, ledger)
    if not bids:
        return Unplaced(_most_common_first(refusals))
    asked = scores(bids, auction, ledger, weights)
    best = _lowest(auction, bids, asked)
    rest = [bid for bid in bids if bid is not best]
    runner_up = _lowest(auction, rest, asked).host if rest else None
    return Award(best.host, asked[best.host], outdated(best, ledger[best.host]), runner_up)


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
    """Whether the host's score is of another count than the ledger's, or by another formula than today's."""
    return view.taken != bid.basis or bid.formula != FORMULA


def scores(
    bids: Sequence[Bid], auction: Auction, ledger: Mapping[str, HostView], weights: Weights
) -> dict[str, Score]:
    """What each of these bids counts for; the ledger has room for all of them."""
    common = pool(bids, ledger, weights.delay_half_s)
    return {bid.host: current_offer(bid, auction, ledger[bid.host], weights, common) for bid in bids}


def tolerance(auction: Auction, bid: Bid, facts: Facts, weights: Weights, common: Pooled) -> Tolerance:
    """How long the microVM may wait on the bidder before that counts.

    Who is `patient` would rather wait. One host at a time pulls images for the first time: while none does, they are
    no wait. Else a host that pulls is late as soon as another would boot it earlier without.
    """
    if patient(auction.constraints):
        return PATIENT
    pulls = bool(common.pulling)
    if common.soonest_s is None or not (facts.pulls or (pulls and bid.missing)):
        return Tolerance(pulls=pulls)
    return Tolerance(min(common.soonest_s, LONG * weights.delay_half_s), pulls)


def patient(constraints: Constraints) -> bool:
    """Whether a microVM wishes for company, or for none, and so would rather wait for its boot than go elsewhere."""
    return bool(constraints.spread or constraints.near or constraints.plane)


def current_offer(bid: Bid, auction: Auction, view: HostView, weights: Weights, common: Pooled) -> Score:
    """The bid's own score while it is not outdated and little waits there, a new price else.

    Soft wishes are added to either: who of the microVM's group is where, only the ledger knows. A bid that stands
    was made by a host that does not know who is patient. That is the same price while its spread is below 1: a queue
    of up to delay_half_s is never late then. Of wilder hosts it is worth no price of its own.
    """
    score, discount = bid.score, view.discount
    if outdated(bid, view) or discount != NO_DISCOUNT or not common.stands(bid.facts, bid.missing):
        facts, weighed = common.seen(common.by_now[bid.host], bid.missing), weights.under(auction.constraints.policy)
        wait = tolerance(auction, bid, facts, weighed, common)
        score = price(view.allocatable, view.taken, auction.demand, facts, weighed, bid.missing, discount, wait)
    return with_preferences(score, view.peers, weights) if view.peers else score


def forecast_of(bid: Bid, auction: Auction, view: HostView) -> Forecast:
    """What a bid foretells, with the awards that the ledger has seen since counted as waiting before it.

    The utilisation is the bid's own word while the ledger counts as the host did: that is what it won with.
    """
    facts, moved = facts_by(bid, view), view.taken != bid.basis
    return Forecast(
        utilisation(view.allocatable, view.taken, auction.demand) if moved else bid.score.utilisation,
        until_created_s(facts, bid.missing),
        bound_s(facts, bid.missing),
    )


def unpriced(host_id: str, facts: Facts, missing: int = 0, coming: int = 0) -> Bid:
    """A bid on a count that no ledger has, so that `award` prices it, by these facts and its own weights."""
    return Bid(host_id, Score(0.0, 0.0, 0.0, 0.0), NEVER, facts, missing, coming)


def rebid(bid: Bid, view: HostView) -> Bid:
    """The bid as it would be made by now, on a count that no ledger has."""
    coming = bid.coming + (bid.missing if awarded_since(bid, view) else 0)
    return unpriced(bid.host, facts_by(bid, view), bid.missing, coming)


def _lowest(auction: Auction, bids: Sequence[Bid], asked: Mapping[str, Score]) -> Bid:
    low = min(asked[bid.host].total for bid in bids)
    tied = [bid for bid in bids if asked[bid.host].total == low]
    return tied[0] if len(tied) == 1 else min(tied, key=lambda bid: tie_break(auction.id, bid.host))


def tie_break(auction_id: str, host_id: str) -> bytes:
    """A number that looks drawn anew for each auction and each host."""
    return blake2b(f"{auction_id}\0{host_id}".encode(), digest_size=8).digest()


def _most_common_first(refusals: Sequence[Refusal]) -> tuple[Refusal, ...]:
    counts = Counter(refusal.reason for refusal in refusals)
    return tuple(sorted(refusals, key=lambda r: (-counts[r.reason], r.reason.name, r.host)))


def explain_unplaced(auction: Auction, unplaced: Unplaced) -> str:
    """The sentence that a client reads: what was wanted, and every reason with its number of hosts.

    The most common reason comes first, with one host's details as an example. Where it is a wish that is not granted,
    several hosts are named, each with what it has instead.
    """
    want = auction.demand
    head = f"no host can take {auction.namespace}/{auction.name} ({want.vcpu} vCPU, {want.memory_mib} MiB)"
    if not unplaced.refusals:
        return f"{head}: no host has joined; start `billet agent` beside each flintlockd"
    counts = Counter(refusal.reason for refusal in unplaced.refusals)
    parts = []
    for reason, count in counts.most_common():
        told = [f"{r.host}: {r.detail}" for r in unplaced.refusals if r.reason is reason and r.detail]
        most = HOSTS_TOLD if reason in CONSTRAINT_REASONS else 1
        begin = "e.g. " if most == 1 or len(told) > most else ""
        detail = f" ({begin}{', '.join(told[:most])})" if told else ""
        parts.append(f"{counted(count, 'host')}: {reason.value}{detail}")
    return f"{head}: " + "; ".join(parts)


CONSTRAINT_REASONS = frozenset({Reason.ZONE, Reason.HOST, Reason.LABEL, Reason.AVOIDED, Reason.APART})
HOSTS_TOLD = 8


AWAY_REASONS = frozenset({Reason.AWAY, Reason.SILENT, Reason.DAEMON_AWAY, Reason.STOPPING, Reason.DECLINED})


def merely_away(unplaced: Unplaced) -> bool:
    """Whether waiting may help: some host did not answer, so nobody knows that it has no room."""
    return any(refusal.reason in AWAY_REASONS for refusal in unplaced.refusals)
