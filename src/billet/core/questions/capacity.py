"""Capacity: how many microVMs of one shape fit now, on which hosts, and why no host takes one more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from billet.core.bidding import no_room
from billet.core.columns import Column, Columns, Mask
from billet.core.model import ZERO, Auction, Host, Reason, Refusal, Resources
from billet.core.quotas import Quotas, left
from billet.core.shortlist import able_to_take
from billet.core.state import State


class Capacity(NamedTuple):
    """`by_host`: the microVMs that each host takes, if it takes one. `quota`: those that the namespace may still
    have, None = no limit. `fits`: those that fit in the whole fleet, within the quota."""

    by_host: dict[str, int]
    quota: int | None

    @property
    def fits(self) -> int:
        """See above."""
        on_hosts = sum(self.by_host.values())
        return on_hosts if self.quota is None else min(on_hosts, self.quota)


def capacity(
    state: State, ready: Mask, auction: Auction, turned_away: Mapping[str, Refusal], quotas: Quotas
) -> Capacity:
    """How many microVMs like this one fit, with the masks of an auction. `turned_away`: ready hosts that refuse now.

    Each host takes what its free room covers, whichever comes first: preferences only say who is first.
    """
    fleet = state.fleet
    able = ready & able_to_take(state, auction) & ~fleet.mask(turned_away)
    copies = np.where(able, _copies(fleet, auction.demand), 0.0)
    if auction.constraints.apart:
        copies = np.minimum(copies, 1.0)  # the first one keeps the others away
    by_host = {fleet.ids[row]: int(copies[row]) for row in np.flatnonzero(copies)}
    return Capacity(by_host, left(quotas, auction.namespace, state.in_namespace(auction.namespace), auction.demand))


def _copies(fleet: Columns, demand: Resources) -> Column:
    """How often each row's free room covers a demand."""
    free = fleet.allocatable - fleet.taken
    found: Column = np.minimum.reduce([free[n] // wanted for n, wanted in enumerate(demand) if wanted > 0])
    return found


def no_more(
    state: State, ready: Mask, auction: Auction, turned_away: Mapping[str, Refusal], found: Capacity
) -> list[Refusal]:
    """Why each host takes no microVM beyond those of `found`. O(hosts)."""

    def why(host: Host) -> Refusal:
        count = found.by_host.get(host.id, 0)
        taken = state.taken.get(host.id, ZERO)
        taken = Resources(*(one + count * more for one, more in zip(taken, auction.demand, strict=True)))
        refusal = state.excluded_by(host.id, auction) or no_room(host.id, host.allocatable, taken, auction.demand)
        if refusal is None and count and auction.constraints.apart:
            refusal = Refusal(host.id, Reason.APART, f"takes one of group {auction.constraints.apart}")
        if refusal is None and not ready[state.fleet.rows[host.id]]:
            refusal = Refusal(host.id, Reason.AWAY)
        return refusal or turned_away[host.id]

    return [why(host) for host in state.hosts.values()]
