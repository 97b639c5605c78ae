"""Which hosts are asked to bid for an auction, and what the ledger says of those that are not asked.

Pure functions of the state, the auction and the hosts that are `ready` (connected, and their microVMs known). On a
fleet of at most `AskLimits.hosts` hosts every ready host is asked; on a larger one only a shortlist, so that the
messages per auction do not grow with the fleet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

from billet.core.auction import AWAY_REASONS
from billet.core.bidding import no_room
from billet.core.model import NO_CONSTRAINTS, ZERO, Auction, Bid, Reason, Refusal, Unplaced
from billet.core.policies import DEFAULT, named
from billet.core.questions.record import Called
from billet.core.state import State


class AskLimits(NamedTuple):
    """How many hosts are asked per auction, and under which policy they are ranked."""

    hosts: int = 32  # 0 = all
    random: int = 4  # in addition, drawn by a hash of the auction
    policy: str = DEFAULT  # of auctions that name none


class CallForBids(NamedTuple):
    """The hosts to ask, and refusals that the ledger gives without asking."""

    host_ids: list[str]
    refusals: list[Refusal]


def next_call(
    state: State,
    ready: Collection[str],
    auction: Auction,
    asked: Collection[str],
    limits: AskLimits,
    last: Collection[str] = (),
) -> CallForBids:
    """The next hosts to ask, without those that were `asked` before. On a large fleet, `last` come after the rest."""
    if _is_large(state, limits):
        found = shortlist(state, ready, auction, {*asked, *last}, limits)
        return CallForBids(found or (shortlist(state, ready, auction, asked, limits) if last else []), [])
    host_ids = [host_id for host_id in ready if host_id not in asked]
    if auction.constraints == NO_CONSTRAINTS:
        return CallForBids(host_ids, [])
    refusals = [refusal for host_id in host_ids if (refusal := state.excluded_by(host_id, auction))]
    excluded = {refusal.host for refusal in refusals}
    return CallForBids([host_id for host_id in host_ids if host_id not in excluded], refusals)


def shortlist(
    state: State, ready: Collection[str], auction: Auction, asked: Collection[str], limits: AskLimits
) -> list[str]:
    """The hosts of a large fleet to ask; by the ledger, each of them can take the microVM.

    First the hosts of the group that the auction is to be near, then the best-ranked of each zone where it is to be
    spread (the zone with the fewest of its group first), then the best-ranked of the fleet and a few drawn at random.
    """

    listed = set(asked)

    def fits(host_id: str) -> bool:
        return host_id in ready and host_id not in listed and may_take(state, host_id, auction)

    constraints = auction.constraints
    if only := constraints.host:
        return [only] if fits(only) else []
    near = list(islice(filter(fits, state.peer_hosts(auction)), limits.hosts))
    listed.update(near)
    fullest_first = named(constraints.policy or limits.policy).fullest_first
    rest = max(1, limits.hosts - len(near))
    per_zone: list[str] = []
    if constraints.spreads:
        crowds = state.groups.crowds(auction)
        per_zone = state.ranking.of_each_zone(auction.id, rest, fits, fullest_first, crowds)
    listed.update(per_zone)
    rest -= len(per_zone)
    ranked = state.ranking.shortlist(auction.id, rest, limits.random, fits, fullest_first, constraints.zone)
    return near + per_zone + ranked


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


def called(state: State, ready: Collection[str], limits: AskLimits) -> Called:
    """Which part of the fleet is asked, for the record of the auction."""
    if _is_large(state, limits):
        return Called(len(state.hosts), limits.hosts)
    return Called(len(state.hosts), absent=tuple(host_id for host_id in state.hosts if host_id not in ready))


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
