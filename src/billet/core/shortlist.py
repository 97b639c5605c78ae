"""Which hosts are asked to bid for an auction, which take part unasked, and what the ledger says of the rest.

Pure functions of the state, the auction and the hosts that are `ready` (connected, and their microVMs known). Every
host has a standing bid (core/columns.py). All of them are priced at once, and only the best are asked, so that the
messages of an auction do not grow with the fleet. When it is decided, those that are best by then take part with
their standing bids: the hosts that were asked may have been awarded others meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from billet.core.auction import AWAY_REASONS, patient, tie_break
from billet.core.bidding import bid, incapable, no_room
from billet.core.columns import Column, Mask
from billet.core.constraints import TO_SPREAD, ZONE_SHARE
from billet.core.model import NO_CONSTRAINTS, ZERO, Auction, Bid, Reason, Refusal, Unplaced
from billet.core.pricing import prices
from billet.core.questions.record import Called
from billet.core.scoring import DEFAULT_WEIGHTS, Weights
from billet.core.state import State

JUST_NOW_S = 1e-6  # an age of 0 means that the host was asked and has answered
UNASKED = 3  # hosts that may take part in a decision with their standing bids, beside those that were asked
SMALL_FLEET = 8  # hosts that all take part in each decision if none is asked, so that its record answers for each
LAST = 1e6  # added to the price of hosts that come after all others


class AskLimits(NamedTuple):
    """How many hosts are asked per auction, and the weights by which they are ranked."""

    hosts: int = 3  # 0 = all
    random: int = 1  # in addition, drawn by a hash of the auction
    weights: Weights = DEFAULT_WEIGHTS
    standing_only: bool = False  # ask none while a standing bid may win


class CallForBids(NamedTuple):
    """The hosts to ask, and refusals that the ledger gives without asking."""

    host_ids: list[str]
    refusals: list[Refusal]


class Moment(NamedTuple):
    """The fleet as the leader sees it at one moment.

    `ready`: the rows of hosts that are connected, and whose microVMs are known. `surcharges`: what is added to the
    price of hosts on which something has failed; LAST for those that get no order.
    """

    state: State
    ready: Mask
    now_s: float = 0.0  # monotonic
    surcharges: Mapping[str, float] = {}


def next_call(moment: Moment, auction: Auction, asked: Collection[str], limits: AskLimits) -> CallForBids:
    """The next hosts to ask, without those that were `asked` before.

    On a fleet with more hosts than are asked: the best of those that can take the microVM, by their standing bids,
    and a few drawn at random, whose own bids may be better. Hosts without a standing bid come last.
    """
    state, ready = moment.state, moment.ready
    fleet = state.fleet
    if not _is_large(state, limits):
        host_ids = [fleet.ids[row] for row in np.flatnonzero(ready) if fleet.ids[row] not in asked]
        if auction.constraints == NO_CONSTRAINTS:
            return CallForBids(host_ids, [])
        refusals = [refusal for host_id in host_ids if (refusal := state.excluded_by(host_id, auction))]
        excluded = {refusal.host for refusal in refusals}
        return CallForBids([host_id for host_id in host_ids if host_id not in excluded], refusals)
    able = ready & able_to_take(state, auction)
    if asked:
        able &= ~fleet.mask(asked)
    best = _best(moment, auction, limits.weights, able, limits.hosts)
    return CallForBids([fleet.ids[row] for row in [*best, *_drawn(auction, able, best, limits.random)]], [])


def decides_unasked(moment: Moment, auction: Auction, limits: AskLimits) -> bool:
    """Whether the auction begins without a call for bids: a host that can take the microVM has a standing bid."""
    if not limits.standing_only:
        return False
    fresh = moment.state.fleet.fresh_until_s >= moment.now_s
    return bool((moment.ready & fresh & able_to_take(moment.state, auction)).any())


def with_standing_bids(
    moment: Moment, auction: Auction, answers: Sequence[Bid | Refusal], limits: AskLimits, moved: bool
) -> list[Bid | Refusal]:
    """The answers, and the standing bids of others, with their age.

    They are the hosts that were asked and were late, and the UNASKED best that can take the microVM now; where none
    is asked, also those that would be drawn, or the whole of a small fleet. If the ledger's counts have not `moved`
    since the call, those that were asked are the best; then others are needed only where few of them have bid.
    """
    state, ready, fleet = moment.state, moment.ready, moment.state.fleet
    late = [a.host for a in answers if isinstance(a, Refusal) and a.reason is Reason.SILENT and a.host in fleet.rows]
    heard = {answer.host for answer in answers}
    host_ids = [host_id for host_id in late if ready[fleet.rows[host_id]]]
    if len(heard) < len(fleet) and (moved or sum(isinstance(answer, Bid) for answer in answers) < UNASKED):
        able = ready & (fleet.fresh_until_s >= moment.now_s) & able_to_take(state, auction) & ~fleet.mask(heard)
        rows = _best(moment, auction, limits.weights, able, UNASKED)
        if limits.standing_only:  # a drawn host may be worth a pull of the images, which ranks it low
            others = np.flatnonzero(ready) if len(state.hosts) <= SMALL_FLEET else ()
            rows = list(dict.fromkeys([*rows, *_drawn(auction, able, rows, limits.random), *map(int, others)]))
        host_ids += [host_id for row in rows if (host_id := fleet.ids[row]) not in heard]
    if not host_ids:
        return list(answers)
    found = (_standing_bid(moment, host_id, auction, limits.weights) for host_id in host_ids)
    standing = {one.host: one for one in found if one}
    return [answer for answer in answers if answer.host not in standing] + list(standing.values())


def _standing_bid(moment: Moment, host_id: str, auction: Auction, weights: Weights) -> Bid | Refusal | None:
    """What a host would answer by what it said last; None if it has said nothing lately."""
    state, now_s = moment.state, moment.now_s
    if (said := state.fleet.standing(host_id, now_s)) is None:
        return None
    if auction.constraints.apart and (excluded := state.excluded_by(host_id, auction)):
        return excluded
    missing, coming = state.fleet.pulls(host_id, auction.images)
    answer = bid(state.hosts[host_id], said.taken, said.facts, auction, weights, missing, coming)
    return answer if isinstance(answer, Refusal) else answer._replace(age_s=max(now_s - said.said_s, JUST_NOW_S))


def able_to_take(state: State, auction: Auction) -> Mask:
    """The hosts that have room for the microVM by the ledger, and that nothing excludes."""
    fleet, constraints = state.fleet, auction.constraints
    able = fleet.open & fleet.with_room(auction.demand)
    unsuited = fleet.without_provider(lambda provider: incapable(auction.provider or provider, auction))
    if unsuited is not None:
        able &= ~unsuited
    if constraints == NO_CONSTRAINTS:
        return able
    if constraints.zone:
        able &= fleet.in_zone(constraints.zone)
    if constraints.host:
        able &= fleet.mask([constraints.host])
    for label, value in constraints.require:
        able &= fleet.labelled(label, value)
    for label, value in constraints.avoid:
        able &= ~fleet.labelled(label, value)
    if apart := state.groups.apart_from(auction):
        able &= fleet.crowd(apart)[0] == 0
    return able


def _best(moment: Moment, auction: Auction, weights: Weights, able: Mask, count: int) -> list[int]:
    """Up to `count` of the rows that are `able`, the best first.

    Which of equal rows come first is drawn by the auction, so that no host is favoured for its row.
    """
    rows = np.flatnonzero(able)
    if not len(rows):
        return []
    fleet, start = moment.state.fleet, draw(auction.id, "row") % len(rows)
    rows = np.concatenate((rows[start:], rows[:start]))
    fresh = fleet.fresh_until_s >= moment.now_s
    price, crowd = _ranks(moment.state, auction, weights, able & fresh)
    for host_id, surcharge in moment.surcharges.items():
        if (row := fleet.rows.get(host_id)) is not None:
            price[row] += surcharge
    chosen = price[rows] + np.where(fresh[rows], 0.0, LAST)
    if crowd:
        order = np.lexsort((chosen, crowd[1][rows], crowd[0][rows], chosen >= LAST))
        return [int(row) for row in rows[order[:count]]]
    if len(rows) > count:  # those up to the price of the last one; numpy's argpartition draws among equals by the CPU
        kept = chosen <= np.partition(chosen, count - 1)[count - 1]
        rows, chosen = rows[kept], chosen[kept]
    return [int(row) for row in rows[np.argsort(chosen, kind="stable")[:count]]]


def _ranks(
    state: State, auction: Auction, weights: Weights, bidding: Mask
) -> tuple[Column, tuple[Column, Column] | None]:
    """The score of the microVM on each row by its standing bid; and of one to be spread, the members of its groups in
    each row's zone and on the host. See core/constraints.py: with_preferences, crowding."""
    fleet = state.fleet
    under, compared = weights.under(auction.constraints.policy), None if patient(auction.constraints) else bidding
    price = prices(fleet, auction.demand, under, fleet.missing(auction.images), compared)
    if weights.scarcity:
        price += weights.scarcity * fleet.scarce(auction.constraints.require)
    if auction.constraints == NO_CONSTRAINTS:
        return price, None
    crowd: tuple[Column, Column] | None = None
    for counted in state.groups.counted(auction):
        here, in_zone = fleet.crowd(counted)
        preference = counted.preference
        weight = weights.preference if preference in ("spread", "near") else weights.cluster
        if preference in TO_SPREAD:
            if weight:
                crowd = (crowd[0] + in_zone, crowd[1] + here) if crowd else (in_zone, here)
        else:
            together = (here + ZONE_SHARE * in_zone) / counted.total
            price = price + (-weight if preference == "near" else weight) * together
    return price, crowd


def _drawn(auction: Auction, able: Mask, chosen: Collection[int], count: int) -> list[int]:
    rows = np.flatnonzero(able)
    if not count or len(rows) <= len(chosen):
        return []
    drawn = {int(rows[draw(auction.id, str(n)) % len(rows)]): None for n in range(count)}
    return [row for row in drawn if row not in chosen]


def draw(name: str, salt: str) -> int:
    """A pseudo-random number of 64 bits for a name and a salt."""
    return int.from_bytes(tie_break(name, salt))


def may_take(state: State, host_id: str, auction: Auction) -> bool:
    """Whether the ledger has room for the microVM on a host, and nothing excludes the host."""
    return state.room(host_id).covers(auction.demand) and state.excluded_by(host_id, auction) is None


def to_ask_again(
    state: State,
    ready: Collection[str],
    auction: Auction,
    answers: Sequence[Bid | Refusal],
    waited_for: Collection[str],
) -> list[str]:
    """The ready hosts that did not answer in time and may take the microVM, without those in `waited_for`.

    A silent host may have connected again since; it is not ready until its inventory has arrived.
    """
    silent = (a.host for a in answers if isinstance(a, Refusal) and a.reason is Reason.SILENT and a.host in ready)
    return [host_id for host_id in silent if host_id not in waited_for and may_take(state, host_id, auction)]


def called(moment: Moment, limits: AskLimits) -> Called:
    """Which part of the fleet takes part, for the record of the auction."""
    hosts, fleet, present = moment.state.hosts, moment.state.fleet, moment.ready
    if len(hosts) > SMALL_FLEET if limits.standing_only else _is_large(moment.state, limits):
        return Called(len(hosts), UNASKED if limits.standing_only else limits.hosts)
    if limits.standing_only:
        present = present & (fleet.fresh_until_s >= moment.now_s)
    return Called(len(hosts), absent=tuple(host_id for host_id in hosts if not present[fleet.rows[host_id]]))


def all_refusals(state: State, auction: Auction, unplaced: Unplaced) -> Unplaced:
    """A reason for every host of the fleet, also for those that were not asked or did not answer. O(hosts).

    For a host that did not answer, the ledger's own reason is given if there is one: that host could not take the
    microVM even if it came back.
    """
    answered = {refusal.host: refusal for refusal in unplaced.refusals}
    refusals = []
    for host_id, host in state.hosts.items():
        refusal = answered.get(host_id, Refusal(host_id, Reason.AWAY))
        if refusal.reason in AWAY_REASONS:
            full = no_room(host_id, host.allocatable, state.taken.get(host_id, ZERO), auction.demand)
            refusal = state.excluded_by(host_id, auction) or full or refusal
        refusals.append(refusal)
    return Unplaced(tuple(refusals))


def _is_large(state: State, limits: AskLimits) -> bool:
    return 0 < limits.hosts < len(state.hosts)
