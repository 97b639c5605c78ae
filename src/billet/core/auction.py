"""The leader's side: who wins. Replaying a record through `award` gives the same award."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from billet.core.bidding import PROVIDERS, closed, no_room
from billet.core.model import Auction, Award, Bid, HostView, Reason, Refusal, Score, Unplaced
from billet.core.scoring import Weights, price
from billet.core.words import counted

# What flintlockd accepts (its own validation); a microVM outside of this is its verdict, not an auction's.
VCPU_LIMITS = range(1, 65)
MEMORY_MIB_LIMITS = range(1024, 32769)


def hopeless(auction: Auction) -> bool:
    """Whether every flintlockd would refuse this, so that one of them should say so in its own words."""
    return (
        auction.demand.vcpu not in VCPU_LIMITS
        or auction.demand.memory_mib not in MEMORY_MIB_LIMITS
        or not (auction.provider in PROVIDERS or auction.provider == "")
    )


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
            offers.append((offer, answer.host, offer is not answer.score))
    if not offers:
        return Unplaced(_most_common_first(refusals))
    best = _lowest(auction, offers)
    rest = [offer for offer in offers if offer is not best]
    return Award(best[1], best[0], best[2], _lowest(auction, rest)[1] if rest else None)


def current_offer(bid: Bid, auction: Auction, ledger: Mapping[str, HostView], weights: Weights) -> Score | Refusal:
    """The bid's own score while the ledger counts as the host did, a new price where it has moved."""
    view = ledger.get(bid.host)
    if view is None:
        return Refusal(bid.host, Reason.AWAY)
    allocatable, taken = view.allocatable, view.taken
    refusal = closed(bid.host, view)
    if refusal:
        return refusal
    refusal = no_room(bid.host, allocatable, taken, auction.demand)
    if refusal:
        return refusal
    if taken == bid.basis:
        return bid.score
    waiting = bid.facts.pending + max(0, taken.vms - bid.basis.vms)
    return price(allocatable, taken, auction.demand, bid.facts._replace(pending=waiting), weights)


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

    The most common reason comes first, with one host's details as an example.
    """
    want = auction.demand
    head = f"no host can take {auction.namespace}/{auction.name} ({want.vcpu} vCPU, {want.memory_mib} MiB)"
    if not unplaced.refusals:
        return f"{head}: no host has joined; start `billet agent` beside each flintlockd"
    counts = Counter(refusal.reason for refusal in unplaced.refusals)
    parts = []
    for reason, count in counts.most_common():
        example = next(r for r in unplaced.refusals if r.reason is reason)
        detail = f" (e.g. {example.host}: {example.detail})" if example.detail else ""
        parts.append(f"{counted(count, 'host')}: {reason.value}{detail}")
    return f"{head}: " + "; ".join(parts)


AWAY_REASONS = frozenset({Reason.AWAY, Reason.SILENT, Reason.DAEMON_AWAY, Reason.STOPPING, Reason.DECLINED})


def merely_away(unplaced: Unplaced) -> bool:
    """Whether waiting may help: some host did not answer, so nobody knows that it has no room."""
    return any(refusal.reason in AWAY_REASONS for refusal in unplaced.refusals)
