"""Batching: auctions that are ready at the same moment are decided as one batch, by priority, then largest first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from billet.core.auction import clearing_order
from billet.core.bidding import cannot
from billet.core.model import ZERO, Auction, Bid, Placement, Refusal, Resources
from billet.core.shortlist import able_to_take
from billet.core.state import State
from billet.leader.presence import Presence


class Slot(NamedTuple):
    """An auction's permission to decide: its number in this term, and the size of its batch."""

    number: int
    together: int


class Clearing:
    """Gives out slots to auctions that are ready to decide.

    Invariant: an auction that gets its slot decides and claims its room before it awaits anything else. So each
    auction sees the claims of those before it (promise 1), and the slots of a batch are used in their order.
    """

    def __init__(self, state: State, ready: Presence) -> None:
        self._state = state
        self._ready = ready
        self._waiting: list[tuple[Auction, asyncio.Future[Slot]]] = []
        self._number = 0
        self._claims: dict[str, Placement] = {}  # being committed

    async def slot(self, auction: Auction, answers: Sequence[Bid | Refusal]) -> Slot:
        """Wait for this auction's slot.

        There is no timer. A batch has the auctions whose bids came with the same message, that became ready in the
        same pass of the event loop, or while claims were being committed: a claim made meanwhile would have to wait
        for that transaction anyway. An auction alone gets its slot in the next pass of the loop. An auction that
        cannot win, however the commits end, gets it at once, even while the store hangs: it takes no room from
        others.
        """
        if self._claims and not self._may_win(auction, answers):
            self._number += 1
            return Slot(self._number, 1)
        loop = asyncio.get_running_loop()
        if not self._waiting and not self._claims:
            loop.call_soon(self._clear)
        slot: asyncio.Future[Slot] = loop.create_future()
        self._waiting.append((auction, slot))
        return await slot

    @contextmanager
    def claiming(self, placement: Placement) -> Iterator[None]:
        """Mark a claim as being committed."""
        self._claims[placement.id] = placement
        try:
            yield
        finally:
            del self._claims[placement.id]
            if self._waiting and not self._claims:
                asyncio.get_running_loop().call_soon(self._clear)

    def _may_win(self, auction: Auction, answers: Sequence[Bid | Refusal]) -> bool:
        """Whether a host has bid, has room, or would have room if the claims being committed failed."""
        if any(isinstance(answer, Bid) for answer in answers):
            return True
        if (self._ready.rows(self._state.fleet) & able_to_take(self._state, auction)).any():
            return True  # with its standing bid
        back: dict[str, Resources] = {}
        for claim in self._claims.values():
            back[claim.host] = back.get(claim.host, ZERO).plus(claim.demand)
        hosts = ((self._state.hosts.get(host_id), claimed) for host_id, claimed in back.items())
        return any(
            self._state.room(host.id).plus(claimed).covers(auction.demand) and not cannot(host, auction)
            for host, claimed in hosts
            if host
        )

    def _clear(self) -> None:
        """Give slots to all that wait. The event loop wakes them in the order in which their futures are resolved."""
        waiting, self._waiting = self._waiting, []
        ready = [(auction, slot) for auction, slot in waiting if not slot.done()]  # the others were cancelled
        batch = [(auction.demand, auction.constraints.priority) for auction, _ in ready]
        for n in clearing_order(batch, self._state.whole):
            self._number += 1
            ready[n][1].set_result(Slot(self._number, len(ready)))
