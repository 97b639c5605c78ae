"""Calls for bids. Auctions that wait at the same time share a round: one message per host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from billet.core.memory import remember
from billet.core.model import Auction, Bid, Reason, Refusal
from billet.link import bid_messages
from billet.log_throttle import LogThrottle
from billet.wire.pb import link_pb2 as pb

log = structlog.get_logger()

ENDED = 64  # rounds whose late answers are still understood
GAP_S = 0.01  # while a round is open, new auctions wait for its end, or this long, and share the next round


class Bidder(Protocol):
    """One connected host, as a round sees it."""

    late: bool  # it missed the end of a round; later rounds do not wait for it until it answers again

    @property
    def host_id(self) -> str:
        """Its name."""

    def put_bytes(self, serialised: bytes) -> None:
        """Queue a serialised message."""


@dataclass(slots=True)
class Lot:
    """One auction waiting for its bids."""

    auction: Auction
    host_ids: Sequence[str]
    bids: asyncio.Future[list[Bid | Refusal]]
    wait: bool = False  # for late hosts, though they have standing bids
    answers: list[Bid | Refusal] = field(default_factory=list)

    @property
    def has_bid(self) -> bool:
        """Whether a host has bid, so that the lot can be awarded."""
        return any(isinstance(answer, Bid) for answer in self.answers)


@dataclass(slots=True)
class Round:
    """Lots that were called together. `unanswered` are the hosts that have not answered yet; `waiting` are those of
    them that are not known to be late."""

    lots: list[Lot]
    asked: set[str]
    unanswered: set[str]
    waiting: set[str]
    closing: bool = False  # bid_wait_s is over: a lot ends with its first bid
    timer: asyncio.TimerHandle | None = None


class Rounds:
    """All rounds of one leader.

    A lot with a bid waits until every host that is not late has answered, `bid_wait_s` at most. A lot without a bid
    (refusals do not count) waits for its first one until all hosts have answered, `bid_wait_max_s` at most.
    """

    def __init__(
        self,
        bidders: Callable[[str], Bidder | None],
        bid_wait_s: float,
        bid_wait_max_s: float,
        heard: Callable[[str, Collection[Bid | Refusal]], None] = lambda host_id, answers: None,
        stands: Callable[[str], bool] = lambda host_id: False,
    ) -> None:
        """`heard` is told every answer of a host, also late ones. `stands`: whether a host has a standing bid."""
        self._bidders = bidders
        self._heard = heard
        self._stands = stands
        self._wait_s = bid_wait_s
        self._wait_max_s = max(bid_wait_s, bid_wait_max_s)
        self._next: list[Lot] = []
        self._open: dict[int, Round] = {}
        self._ended: dict[int, list[Lot]] = {}  # lots of the last rounds that ended without some host
        self._number = 0
        self._call_out: asyncio.Handle | None = None
        self._throttle = LogThrottle()

    async def call_for_bids(
        self, auction: Auction, host_ids: Sequence[str], wait: bool = False
    ) -> list[Bid | Refusal]:
        """The answers of these hosts.

        AWAY for one that is not connected, SILENT for one that was not in time. `wait`: also for late hosts alone.
        """
        loop = asyncio.get_running_loop()
        lot = Lot(auction, host_ids, loop.create_future(), wait)
        self._next.append(lot)
        if self._call_out is None:
            self._call_out = loop.call_later(GAP_S, self._begin) if self._open else loop.call_soon(self._begin)
        return await lot.bids

    def answered(self, bidder: Bidder, message: pb.Bids) -> None:
        """Record one host's answers to a round."""
        bidder.late = False
        current = self._open.get(message.round)
        lots = current.lots if current else self._ended.get(message.round)
        if lots is None:
            return
        answers = self._answers(bidder.host_id, message, len(lots))
        self._heard(bidder.host_id, answers.values())
        in_time = current is not None and bidder.host_id in current.unanswered
        for n, answer in answers.items():
            if in_time and not lots[n].bids.done() and bidder.host_id in lots[n].host_ids:
                lots[n].answers.append(answer)
        if current and in_time:
            current.unanswered.discard(bidder.host_id)
            current.waiting.discard(bidder.host_id)
            self._close_lots(message.round)

    def _answers(self, host_id: str, message: pb.Bids, lots: int) -> dict[int, Bid | Refusal]:
        """A host's answers by lot, the first of each; none if the message cannot be an answer to these lots."""
        count = len(message.lot) + len(message.refusals)
        answers: dict[int, Bid | Refusal] = {}
        try:
            if count > lots:
                raise ValueError(f"{count} answers to {lots} lots")
            for lot, answer in bid_messages.get_bids(host_id, message):
                if lot < lots:
                    answers.setdefault(lot, answer)
        except ValueError as error:
            why = str(error)
            if self._throttle.should_log(host_id, why, asyncio.get_running_loop().time()):
                log.warning("bids ignored", host=host_id, error=why)
        return answers

    def left(self, host_id: str) -> None:
        """A host's link closed: wait for it no longer."""
        for number, current in list(self._open.items()):
            for hosts in (current.asked, current.unanswered, current.waiting):
                hosts.discard(host_id)
            self._close_lots(number)

    def _begin(self) -> None:
        self._call_out = None
        lots, self._next = [lot for lot in self._next if not lot.bids.done()], []
        if not lots:
            return
        self._number += 1
        number = self._number % 2**32
        asked = self._send(number, lots)
        names = {bidder.host_id for bidder in asked}
        waiting = {bidder.host_id for bidder in asked if not bidder.late}
        self._open[number] = Round(lots, names, set(names), waiting)
        if not waiting and not any(lot.wait for lot in lots) and all(map(self._stands, names)):  # late ones at most
            self._end(number)
            return
        # Only late hosts were asked: the first bid ends the waiting.
        self._open[number].closing = not waiting
        wait_s = self._wait_s if waiting else self._wait_max_s
        self._arm(number, wait_s, self._time_is_up)

    def _send(self, number: int, lots: list[Lot]) -> list[Bidder]:
        """Send every host its lots. Hosts with the same lots share the serialised message."""
        of_host: dict[str, list[int]] = {}
        for n, lot in enumerate(lots):
            for host_id in lot.host_ids:
                of_host.setdefault(host_id, []).append(n)
        serialised_calls: dict[tuple[int, ...], bytes] = {}
        asked = []
        for host_id, numbers in of_host.items():
            bidder = self._bidders(host_id)
            if bidder is None:
                continue
            key = tuple(numbers)
            if key not in serialised_calls:
                call = bid_messages.put_call(number, ((n, lots[n].auction) for n in numbers))
                serialised_calls[key] = pb.Down(calls=[call]).SerializeToString()
            bidder.put_bytes(serialised_calls[key])
            asked.append(bidder)
        return asked

    def _arm(self, number: int, seconds: float, then: Callable[[int], None]) -> None:
        self._open[number].timer = asyncio.get_running_loop().call_later(seconds, then, number)

    def _time_is_up(self, number: int) -> None:
        """bid_wait_s is over: mark the missing hosts late, and close every lot that has a bid."""
        current = self._open[number]
        self._mark_late(current.waiting)
        if current.closing:
            self._end(number)
            return
        current.closing = True
        self._arm(number, self._wait_max_s - self._wait_s, self._end)
        self._close_lots(number)

    def _mark_late(self, host_ids: Iterable[str]) -> None:
        for host_id in host_ids:
            bidder = self._bidders(host_id)
            if bidder:
                bidder.late = True

    def _close_lots(self, number: int) -> None:
        """A host answered or left, or bid_wait_s is over: close the lots that need not wait any longer."""
        current = self._open[number]
        if not current.unanswered:
            self._end(number)
        elif current.closing or not current.waiting:
            for lot in current.lots:
                if lot.has_bid:
                    self._close(lot, current.asked)
            if all(lot.bids.done() for lot in current.lots):
                self._end(number)

    def _end(self, number: int) -> None:
        current = self._open.pop(number)
        if current.timer:
            current.timer.cancel()
        if self._call_out and not self._open:  # no open round: begin the next one at once
            self._call_out.cancel()
            self._call_out = asyncio.get_running_loop().call_soon(self._begin)
        for lot in current.lots:
            self._close(lot, current.asked)
        if current.unanswered:
            remember(self._ended, number, current.lots, ENDED)

    def _close(self, lot: Lot, asked: Collection[str]) -> None:
        """Close a lot: deliver its answers, and a refusal for each host without one."""
        if lot.bids.done():
            return
        answered = {answer.host for answer in lot.answers}
        absent = [host_id for host_id in lot.host_ids if host_id not in answered]
        lot.bids.set_result(lot.answers + [self._in_absence(host_id, asked) for host_id in absent])

    def _in_absence(self, host_id: str, asked: Collection[str]) -> Refusal:
        is_here = host_id in asked and self._bidders(host_id)
        return Refusal(host_id, Reason.SILENT if is_here else Reason.AWAY)
