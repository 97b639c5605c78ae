"""Auctions that are ready to be decided at the same moment are cleared together: by priority, the largest first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from billet.core.auction import clearing_order
from billet.core.bidding import cannot
from billet.core.model import ZERO, Auction, Bid, Placement, Refusal, Resources
from billet.core.state import State


class Slot(NamedTuple):
    """One auction's turn to decide: its number in this reign, and how many auctions are cleared with it."""

    number: int
    together: int


class Clearing:
    """Gives out turns to decide.

    Invariant: an auction that has its turn decides and claims its room before it waits for anything else. So each
    sees the claims of those before it (promise 1), and turns that are given out together are taken in their order.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._waiting: list[tuple[Auction, asyncio.Future[Slot]]] = []
        self._number = 0
        self._claims: dict[str, Placement] = {}  # being committed

    async def slot(self, auction: Auction, answers: Sequence[Bid | Refusal]) -> Slot:
        """Wait for one's turn to decide on these answers.

        No timer: together are those whose bids came with the same message, or that the event loop found ready side
        by side, or while claims were being committed: a claim made meanwhile would have to wait for that
        transaction anyway. One that is alone has its turn as soon as the loop comes round; one that surely gets
        nothing at once, whatever the store does: it takes no room from those that wait.
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
        """While a claim is being committed."""
        self._claims[placement.id] = placement
        try:
            yield
        finally:
            del self._claims[placement.id]
            if self._waiting and not self._claims:
                asyncio.get_running_loop().call_soon(self._clear)

    def _may_win(self, auction: Auction, answers: Sequence[Bid | Refusal]) -> bool:
        """Whether a host has bid, or would have room if what is being committed came to nothing."""
        if any(isinstance(answer, Bid) for answer in answers):
            return True
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
        """The loop wakes those whose futures are done in the order in which they were."""
        waiting, self._waiting = self._waiting, []
        ready = [(auction, slot) for auction, slot in waiting if not slot.done()]  # the others were cancelled
        batch = [(auction.demand, auction.constraints.priority) for auction, _ in ready]
        for n in clearing_order(batch, self._state.whole):
            self._number += 1
            ready[n][1].set_result(Slot(self._number, len(ready)))
