"""What an auction should have come to, worked out anew from the formulas in the docs, apart from core/scoring.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log2

from billet.core.auction import award
from billet.core.model import NO_DISCOUNT, Award, Bid, HostView, Refusal, Resources
from billet.core.record import Attempt, Record
from billet.core.scoring import Weights

TIE_DRAWS = 128  # how often a tie is decided again: with 5 hosts, one is passed over by chance once in 10^11 runs
CLOSE = 1e-9


def expected_prices(record: Record, attempt: Attempt) -> dict[str, float]:
    """What each bid that there is room for should have counted for, worked out anew from the formula in the docs."""
    prices = {}
    demand, weights = record.auction.demand, record.weights
    for bid in attempt.bids:
        view = attempt.ledger.get(bid.host)
        if view is None or view.cordoned or view.fenced or not view.allocatable.covers(view.taken.plus(demand)):
            continue
        if view.against:
            continue
        known = view.taken == bid.basis and view.discount == NO_DISCOUNT
        asked = bid.score.total if known else _price(view, bid, demand, weights)
        prices[bid.host] = asked + _soft_wishes(view, weights)
    return prices


def _soft_wishes(view: HostView, weights: Weights) -> float:
    """What the request's soft wishes add."""
    part = 0.0
    for wish, here, zone, total in view.kin:
        together = here / total + 0.5 * zone / total
        lost = {"spread": weights.wish, "cluster": weights.cluster, "planes": 10 * weights.cluster}
        part += lost[wish] * together if wish in lost else weights.wish * (1.5 - together)
    return part


def _price(view: HostView, bid: Bid, demand: Resources, weights: Weights) -> float:
    share = max((view.taken[n] + demand[n]) / view.allocatable[n] for n in range(4) if view.allocatable[n])
    pressure_weight, delay_weight, half_s, policy, shape_weight, _, _ = weights
    facts = bid.facts
    since = max(0, view.taken.vms - bid.basis.vms)
    ahead_s = facts.pending * facts.boot_s if facts.ahead_s is None else facts.ahead_s
    pull_s = half_s if facts.pull_s is None else facts.pull_s
    delay_s = ahead_s + (since + 1) * facts.boot_s if facts.boot_s else 0.0
    delay_s = view.discount.delay * (delay_s + bid.missing * pull_s)
    assert policy == "spread", policy
    alone = [min(1.0, demand[n] / view.allocatable[n]) for n in range(4) if view.allocatable[n]]
    vcpu, memory = ((view.taken[n] + demand[n]) / view.allocatable[n] for n in (0, 1))
    size, misfit = -log2(max(alone)), 1 - min(alone[:2]) / max(alone[:2])
    full = 0.2 * share**10 * abs(vcpu - memory) + 0.05 * share**6
    shape = shape_weight * (0.115 * share * size + 0.28 * min(vcpu, memory) * misfit + full)
    pressure = pressure_weight * (facts.pressure or 0.0)
    return share + shape + pressure + delay_weight * delay_s / (delay_s + half_s) + view.discount.utilisation


def wrong_award(prices: Mapping[str, float], given: Award | None) -> str:
    """What is wrong with an award, "" for nothing."""
    if given is None:
        return f"nobody won, and {sorted(prices)} have room" if prices else ""
    if given.host not in prices:
        return f"{given.host} won, which has no room"
    if abs(given.score.total - prices[given.host]) > CLOSE:
        return f"{given.host} counted for {given.score.total}, and its price is {prices[given.host]}"
    if prices[given.host] > min(prices.values()) + CLOSE:
        return f"{given.host} won for {prices[given.host]}, and the lowest price is {min(prices.values())}"
    return ""


def winners(record: Record, attempt: Attempt) -> set[str]:
    """Who wins when this is decided again, for many other auctions that are alike."""
    answers: list[Bid | Refusal] = [*attempt.bids, *attempt.refusals]
    won = set()
    for n in range(TIE_DRAWS):
        other = replace(record.auction, id=f"{record.auction.id}/{n}")
        decision = award(other, answers, attempt.ledger, record.weights)
        if isinstance(decision, Award):
            won.add(decision.host)
    return won
