"""The price of each bid, by a second implementation of the formulas in the docs, independent of core/scoring.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log2, sqrt
from statistics import fmean, variance
from typing import NamedTuple

from billet.core.auction import award
from billet.core.model import Award, Bid, Facts, HostView, Refusal
from billet.core.questions.record import Attempt, AuctionRecord
from billet.core.scoring import Weights

TIE_DRAWS = 128  # replays of a tie: with 5 hosts, one never wins by chance once in 10^11 runs
CLOSE = 1e-9


class Expected(NamedTuple):
    """What the hosts are compared by, in this order: members of the microVM's group in the zone and on the host,
    as far as it is to be spread, then the price."""

    in_zone: int
    on_host: int
    price: float


def expected_prices(record: AuctionRecord, attempt: Attempt) -> dict[str, Expected]:
    """What every bid that the ledger has room for is compared by. By host."""
    prices = {}
    for bid, view in _able(record, attempt):
        price = _price(view, bid, record, attempt) + _preferences(view, record.weights)
        prices[bid.host] = Expected(*_members(view, record.weights), price)
    return prices


def _members(view: HostView, weights: Weights) -> tuple[int, int]:
    """The members in the zone and on the host, of the groups whose preference has a weight."""
    counts = [
        peers for peers in view.peers if {"spread": weights.preference, "planes": weights.cluster}.get(peers[0])
    ]
    return sum(peers.zone for peers in counts), sum(peers.here for peers in counts)


def _able(record: AuctionRecord, attempt: Attempt) -> list[tuple[Bid, HostView]]:
    """The bids that the ledger has room for, with the ledger's view of their hosts."""
    rows = [(bid, attempt.ledger[bid.host]) for bid in attempt.bids if bid.host in attempt.ledger]
    opened = [(bid, view) for bid, view in rows if not (view.cordoned or view.fenced or view.excluded_by)]
    return [(bid, view) for bid, view in opened if view.allocatable.covers(view.taken.plus(record.auction.demand))]


def _preferences(view: HostView, weights: Weights) -> float:
    """The part of the score for preferences."""
    part = 0.0
    for preference, here, zone, total in view.peers:
        together = here / total + 0.5 * zone / total
        added = {"near": weights.preference * (1.5 - together), "cluster": weights.cluster * together}
        part += added.get(preference, 0.0)
    return part


def _price(view: HostView, bid: Bid, record: AuctionRecord, attempt: Attempt) -> float:
    demand, weights = record.auction.demand, record.weights
    share = max((view.taken[n] + demand[n]) / view.allocatable[n] for n in range(4) if view.allocatable[n])
    pressure_weight, _, policy, shape_weight, _, _, _ = weights
    assert policy == "spread", policy
    alone = [min(1.0, demand[n] / view.allocatable[n]) for n in range(4) if view.allocatable[n]]
    size, misfit = -log2(max(alone)), 1 - min(alone[:2]) / max(alone[:2])
    shape = shape_weight * (0.4 * (1 - sqrt(max(alone))) + 0.25 * share**3 * size + 0.26 * misfit + 0.12 * share**6)
    pressure = pressure_weight * (bid.facts.pressure or 0.0)
    return (
        share
        + shape
        + pressure
        + _delay(view, bid, record, attempt)
        + view.discount.utilisation
        + view.trouble.penalty
        + weights.scarcity * view.scarcity.share
    )


def _delay(view: HostView, bid: Bid, record: AuctionRecord, attempt: Attempt) -> float:
    """The part of the score for the seconds by which the boot would begin late, under the policy `spread`."""
    if record.auction.constraints.near:
        return 0.0
    soonest_s = min(_wait_s(other, its, record, attempt) for its, other in _able(record, attempt))
    return record.weights.delay * max(0.0, _wait_s(view, bid, record, attempt) - 1.2 * soonest_s)


def _wait_s(view: HostView, bid: Bid, record: AuctionRecord, attempt: Attempt) -> float:
    """When nine of ten boots would begin. No host of the simulator pulls images."""
    facts = bid.facts
    assert not bid.missing, bid
    assert not facts.pulls, facts
    since = max(0, view.taken.vms - bid.basis.vms)
    waiting = facts.pending + since
    ahead_s = (facts.pending * facts.boot_s if facts.ahead_s is None else facts.ahead_s) + since * facts.boot_s
    short = not waiting or 0 < waiting * facts.boot_s <= 5.0
    boot_s, uncertainty = (facts.boot_s, facts.uncertainty) if short else _alike(facts, record, attempt)
    ahead_s = max(0.0, ahead_s + waiting * (boot_s - facts.boot_s))
    if not boot_s:
        boot_s = 1.0
        ahead_s = waiting * boot_s if facts.ahead_s is None else ahead_s
    stray_s = uncertainty * boot_s * sqrt(waiting + waiting**2 / max(1, facts.boots_seen))
    return view.discount.delay * (ahead_s + stray_s)


def _alike(own: Facts, record: AuctionRecord, attempt: Attempt) -> tuple[float, float]:
    """A host's mean boot (s) and uncertainty, pooled with those of all bidders (empirical Bayes)."""
    everyone = [bid.facts for bid, _ in _able(record, attempt)]
    known = [facts for facts in everyone if facts.boot_s]
    by_chance = [(f.boot_s * f.uncertainty / 1.2815515655446004) ** 2 / max(1, f.boots_seen) for f in known]
    boot_s = _drawn(own.boot_s, [facts.boot_s for facts in known], by_chance) if known else 0.0
    uncertainties = [facts.uncertainty for facts in everyone]
    return boot_s, _drawn(own.uncertainty, uncertainties, [uncertainty**2 / 16 for uncertainty in uncertainties])


def _drawn(own: float, of_all: list[float], by_chance: list[float]) -> float:
    """A host's value, shrunk towards the mean of all; 0 becomes that mean. `by_chance`: sampling variances."""
    mean = fmean(of_all)
    if not own:
        return mean
    found = variance(of_all) if len(of_all) > 1 else 0.0
    return mean + (max(0.0, 1 - fmean(by_chance) / found) if found else 1.0) * (own - mean)


def wrong_award(prices: Mapping[str, Expected], given: Award | None) -> str:
    """What is wrong with an award; "" if it is right."""
    if given is None:
        return f"no award, but {sorted(prices)} have room" if prices else ""
    if given.host not in prices:
        return f"{given.host} won without room"
    mine, lowest = prices[given.host], min(prices.values())
    if abs(given.score.total - mine.price) > CLOSE:
        return f"{given.host} has the score {given.score.total}, but its price is {mine.price}"
    if mine[:2] > lowest[:2] or mine.price > lowest.price + CLOSE:
        return f"{given.host} won with {mine}, but the lowest is {lowest}"
    return ""


def winners(record: AuctionRecord, attempt: Attempt) -> set[str]:
    """The hosts that win this auction in TIE_DRAWS replays with other auction ids."""
    answers: list[Bid | Refusal] = [*attempt.bids, *attempt.refusals]
    won = set()
    for n in range(TIE_DRAWS):
        other = replace(record.auction, id=f"{record.auction.id}/{n}")
        decision = award(other, answers, attempt.ledger, record.weights)
        if isinstance(decision, Award):
            won.add(decision.host)
    return won
