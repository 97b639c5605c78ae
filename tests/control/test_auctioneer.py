"""The straight line of a create, with hosts that answer as a test wants. Ledger and store are the real ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from billet.adapters.sqlite import SqliteStore
from billet.control.attendance import Attendance
from billet.control.auctioneer import Auctioneer, Caller, Rules
from billet.control.ledger import Ledger
from billet.control.story import Story
from billet.core.bidding import bid
from billet.core.errors import NoRoom
from billet.core.model import (
    ZERO,
    Auction,
    Bid,
    Facts,
    Host,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
)
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.core.state import PutHost, PutPlacement, apply, load
from billet.node import SystemClock
from billet.ports import Created, How, Leader, Outcome

ROOM = Resources(2, 4096, 0, 10)
SHAPE = Resources(2, 1024, 0, 1)
Answer = Callable[[str, Auction], Bid | Refusal]


class Hosts:
    """Three hosts alike. `answers` says what each does at the n-th call for bids; they take every order."""

    def __init__(self, *answers: Answer) -> None:
        self.called: list[list[str]] = []
        self.orders: list[str] = []
        self._answers = answers

    def instance(self, host_id: str) -> str:
        return "one"

    async def call_for_bids(self, auction: Auction, host_ids: Sequence[str]) -> list[Bid | Refusal]:
        self.called.append(sorted(host_ids))
        answer = self._answers[len(self.called) - 1]
        return [answer(host_id, auction) for host_id in host_ids]

    async def create(self, host_id: str, auction: Auction, request: bytes, timeout_s: float, how: How) -> Outcome:
        self.orders.append(host_id)
        return Created(f"U-{auction.id}", b"reply")


def bids(host_id: str, auction: Auction) -> Bid | Refusal:
    return bid(Host(host_id, ROOM, ROOM), ZERO, Facts(), auction, DEFAULT_WEIGHTS)


def nobody_answers(host_id: str, auction: Auction) -> Bid | Refusal:
    return Refusal(host_id, Reason.SILENT)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    term = await store.campaign(Leader("a", "", ""))
    ledger = Ledger(load((await store.load()).changes), store, term)
    await ledger.settle([PutHost(Host(name, ROOM, ROOM)) for name in ("h0", "h1", "h2")])
    yield ledger
    await store.close()


def auctioneer(ledger: Ledger, hosts: Hosts) -> tuple[Auctioneer, list[Story]]:
    ready, stories = Attendance(), []
    for name in ledger.state.hosts:
        ready.add(name)
    return Auctioneer(ledger, hosts, ready, Rules(), SystemClock(), stories.append), stories


def caller() -> Caller:
    made = Caller(10.0)
    made.waiting = 1
    return made


async def create(maker: Auctioneer, name: str) -> bytes:
    return await maker.create(Auction(name, "ns", name, SHAPE), b"", caller())


async def test_a_slow_host_is_asked_once_more_when_others_have_overtaken_every_bid(ledger: Ledger) -> None:
    """Two bid, and are full by the time of the award; the third has room and had not answered in time."""

    def the_one_with_room_is_slow(host_id: str, auction: Auction) -> Bid | Refusal:
        return bids(host_id, auction) if host_id in hosts.orders else nobody_answers(host_id, auction)

    hosts = Hosts(bids, bids, the_one_with_room_is_slow, bids)
    maker, stories = auctioneer(ledger, hosts)
    await create(maker, "first")
    await create(maker, "second")
    (slow,) = {"h0", "h1", "h2"} - set(hosts.orders)
    assert await create(maker, "third") == b"reply"
    assert hosts.called[2:] == [["h0", "h1", "h2"], [slow]]
    assert hosts.orders[2] == slow
    assert [len(attempt.bids) for attempt in stories[2].record.attempts] == [2, 3]


async def test_slow_hosts_are_asked_until_all_that_have_room_have_been_heard(ledger: Ledger) -> None:
    """Of two slow ones the first answers, and is overtaken as well; the other has room all the time."""
    taken: list[str] = []

    def one_is_overtaken(host_id: str, auction: Auction) -> Bid | Refusal:
        if host_id not in taken and len(taken) == 1:
            return nobody_answers(host_id, auction)
        return bids(host_id, auction)

    def fill(host_id: str) -> None:
        taken.append(host_id)
        apply(ledger.state, PutPlacement(Placement(host_id, "", "", SHAPE, host_id, PlacementState.STARTED)))

    def then_the_first_is_full(host_id: str, auction: Auction) -> Bid | Refusal:
        if len(taken) == 1:
            fill(host_id)
            return bids(host_id, auction)
        return nobody_answers(host_id, auction)

    fill("h0")
    hosts = Hosts(one_is_overtaken, then_the_first_is_full, bids)
    maker, _ = auctioneer(ledger, hosts)
    assert await create(maker, "late") == b"reply"
    assert hosts.called == [["h0", "h1", "h2"], ["h1", "h2"], hosts.orders]


async def test_a_slow_host_is_not_waited_for_twice(ledger: Ledger) -> None:
    hosts = Hosts(nobody_answers, nobody_answers)
    maker, _ = auctioneer(ledger, hosts)
    with pytest.raises(Exception, match="3 hosts: did not answer the call for bids"):
        await create(maker, "alone")
    assert hosts.called == [["h0", "h1", "h2"]] * 2
    assert ledger.state.placements == {}


async def test_a_full_fleet_is_said_to_be_full_however_slow_it_is(ledger: Ledger) -> None:
    hosts = Hosts(bids, bids, bids, nobody_answers)
    maker, _ = auctioneer(ledger, hosts)
    for name in ("a", "b", "c"):
        await create(maker, name)
    with pytest.raises(NoRoom, match="3 hosts: not enough vCPU"):
        await create(maker, "d")
    assert len(hosts.called) == 4, "nobody has room, so nobody is waited for"
