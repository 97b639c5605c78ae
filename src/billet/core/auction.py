"""The leader's side: who wins. Replaying a record through `award` gives the same award."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from billet.core.bidding import PROVIDERS, closed, no_room
from billet.core.foretell import behind, bound_s, until_created_s
from billet.core.model import (
    NO_DISCOUNT,
    ZERO,
    Auction,
    Award,
    Bid,
    Facts,
    Foretold,
    HostView,
    Reason,
    Refusal,
    Resources,
    Score,
    Unplaced,
)
from billet.core.scoring import Weights, price, utilisation
from billet.core.wishes import wished
from billet.core.words import counted

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


def largest_first(demands: Sequence[Resources], whole: Resources) -> list[int]:
    """The order in which auctions that wait together are decided: their positions, first come first where alike.

    The largest is the one with the largest dominant share of the whole fleet. Large ones go where they fit best
    while there is choice, and small ones level what is left: longest processing time first (Graham, 1969).
    """
    return sorted(range(len(demands)), key=lambda n: -utilisation(whole, ZERO, demands[n]))


def award(
    auction: Auction,
    answers: Sequence[Bid | Refusal],
    ledger: Mapping[str, HostView],
    weights: Weights,
) -> Award | Unplaced:
    """The lowest bid that the ledger has room for.

    The ledger says whether there is room, a bid only how much the host wants the microVM (promise 1). A bid that was
    worked out on another count than the ledger's is priced anew before it is compared, with the microVMs awarded
    since then counted as waiting for their boot. Ties go by a hash of auction and host: over many auctions no host
    is favoured for its name.
    """
    offers: list[tuple[Score, str, bool]] = []
    refusals: list[Refusal] = []
    for answer in answers:
        if isinstance(answer, Refusal):
            refusals.append(answer)
            continue
        offer = current_offer(answer, auction, ledger, weights)
        if isinstance(offer, Refusal):
            refusals.append(offer)
        else:
            offers.append((offer, answer.host, ledger[answer.host].taken != answer.basis))
    if not offers:
        return Unplaced(_most_common_first(refusals))
    best = _lowest(auction, offers)
    rest = [offer for offer in offers if offer is not best]
    return Award(best[1], best[0], best[2], _lowest(auction, rest)[1] if rest else None)


def current_offer(bid: Bid, auction: Auction, ledger: Mapping[str, HostView], weights: Weights) -> Score | Refusal:
    """The bid's own score while the ledger counts as the host did, a new price where it has moved.

    Soft wishes are added to either: who of the microVM's group is where, only the ledger knows.
    """
    view = ledger.get(bid.host)
    if view is None:
        return Refusal(bid.host, Reason.AWAY)
    allocatable, taken = view.allocatable, view.taken
    refusal = closed(bid.host, view) or view.against or no_room(bid.host, allocatable, taken, auction.demand)
    if refusal:
        return refusal
    score = bid.score
    if taken != bid.basis or view.discount != NO_DISCOUNT:
        facts, policy = facts_by(bid, taken), weights.under(auction.wishes.policy)
        score = price(allocatable, taken, auction.demand, facts, policy, bid.missing, view.discount)
    return wished(score, view.kin, weights) if view.kin else score


def facts_by(bid: Bid, taken: Resources) -> Facts:
    """A bidder's facts by now: what was awarded to it since the bid counts as waiting for its boot."""
    return behind(bid.facts, max(0, taken.vms - bid.basis.vms))


def foretold_by(bid: Bid, auction: Auction, view: HostView) -> Foretold:
    """What a bid foretells, with the awards that the ledger has seen since counted as waiting before it.

    The utilisation is the bid's own word while the ledger counts as the host did: that is what it won with.
    """
    facts, moved = facts_by(bid, view.taken), view.taken != bid.basis
    return Foretold(
        utilisation(view.allocatable, view.taken, auction.demand) if moved else bid.score.utilisation,
        until_created_s(facts, bid.missing),
        bound_s(facts, bid.missing),
    )


def unpriced(host_id: str, facts: Facts, missing: int = 0) -> Bid:
    """A bid on a count that no ledger has, so that `award` prices it, by these facts and its own weights."""
    return Bid(host_id, Score(0.0, 0.0, 0.0, 0.0), NEVER, facts, missing)


def _lowest(auction: Auction, offers: list[tuple[Score, str, bool]]) -> tuple[Score, str, bool]:
    low = min(offer[0].total for offer in offers)
    tied = [offer for offer in offers if offer[0].total == low]
    if len(tied) == 1:
        return tied[0]
    return min(tied, key=lambda offer: tie_break(auction.id, offer[1]))


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
        most = HOSTS_TOLD if reason in WISH_REASONS else 1
        begin = "e.g. " if most == 1 or len(told) > most else ""
        detail = f" ({begin}{', '.join(told[:most])})" if told else ""
        parts.append(f"{counted(count, 'host')}: {reason.value}{detail}")
    return f"{head}: " + "; ".join(parts)


WISH_REASONS = frozenset({Reason.ZONE, Reason.HOST, Reason.LABEL, Reason.AVOIDED, Reason.APART})
HOSTS_TOLD = 8


AWAY_REASONS = frozenset({Reason.AWAY, Reason.SILENT, Reason.DAEMON_AWAY, Reason.STOPPING, Reason.DECLINED})


def merely_away(unplaced: Unplaced) -> bool:
    """Whether waiting may help: some host did not answer, so nobody knows that it has no room."""
    return any(refusal.reason in AWAY_REASONS for refusal in unplaced.refusals)
