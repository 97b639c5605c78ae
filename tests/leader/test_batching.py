"""Auctions that are ready together are one batch, largest first; one alone does not wait. Real ledger and store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from billet.core.auction import clearing_order
from billet.core.bidding import bid
from billet.core.constraints import read
from billet.core.errors import NoRoom
from billet.core.model import ZERO, Auction, Bid, Facts, Host, Placement, PlacementState, Refusal, Resources
from billet.core.quotas import Quota, Quotas
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.core.state import Change, PutHost, State, load
from billet.leader.auctioneer import Auctioneer
from billet.leader.batching import Clearing, Slot
from billet.leader.jobs import Caller
from billet.leader.ledger import Ledger
from billet.leader.presence import Presence
from billet.leader.recorder import AuctionRecorder
from billet.leader.rules import Rules
from billet.ports import Created, CreateOptions, Leader, Outcome, Term
from billet.process import SystemClock
from billet.store.sqlite import SqliteStore

SMALL, MIDDLE, LARGE = Resources(1, 1024, 0, 1), Resources(2, 8192, 0, 1), Resources(4, 4096, 0, 1)
ROOM = Resources(4, 16384, 0, 10)
NO_QUOTAS: Quotas = {}


class OneRound:
    """Hosts whose bids, all on empty hosts, come back together when everybody has been called."""

    def __init__(self, hosts: Sequence[Host], auctions: int) -> None:
        self.hosts = {host.id: host for host in hosts}
        self.orders: dict[str, str] = {}
        self._awaited = auctions
        self._all_called = asyncio.Event()

    def instance(self, host_id: str) -> str:
        return "one"

    async def call_for_bids(
        self, auction: Auction, host_ids: Sequence[str], wait: bool = False
    ) -> list[Bid | Refusal]:
        self._awaited -= 1
        if self._awaited == 0:
            asyncio.get_running_loop().call_soon(self._all_called.set)  # so that they wake in the order of calls
        await self._all_called.wait()
        return [bid(self.hosts[host_id], ZERO, Facts(), auction, DEFAULT_WEIGHTS) for host_id in host_ids]

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        self.orders[auction.id] = host_id
        return Created(f"U-{auction.id}", b"reply")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    yield store
    await store.close()


async def leading(store: SqliteStore, rooms: dict[str, Resources], auctions: int, quotas: Quotas = NO_QUOTAS):
    """A term over these hosts, whose bids wait for `auctions` calls: the hosts, the recorders, and `create`."""
    term = await store.campaign(Leader("a", "", ""))
    ledger = Ledger(load((await store.load()).changes), store, term)
    hosts = [Host(name, room, room) for name, room in rooms.items()]
    await ledger.finish([PutHost(host) for host in hosts])
    ready, recorders = Presence(), []
    for name in rooms:
        ready.add(name)
    link, rules = OneRound(hosts, auctions), Rules(arrive_s=0.0, quotas=quotas, call_for_bids=True, ask_hosts=8)
    maker = Auctioneer(ledger, link, ready, rules, SystemClock(), recorders.append)

    async def create(n: int, demand: Resources, labels: dict[str, str]) -> bytes:
        caller = Caller(10.0)
        caller.waiting = 1
        auction = Auction(f"a{n}", "ns", f"a{n}", demand, labels=labels, constraints=read(labels))
        return await maker.create(auction, b"", caller)

    return link, recorders, create


async def hold(
    store: SqliteStore,
    rooms: dict[str, Resources],
    demands: Sequence[Resources],
    labels: Sequence[dict[str, str]] = (),
    quotas: Quotas = NO_QUOTAS,
):
    """Hold all of these auctions at once: the hosts, the recorders by auction, the outcomes."""
    link, recorders, create = await leading(store, rooms, len(demands), quotas)
    creating = [create(n, demand, labels[n] if labels else {}) for n, demand in enumerate(demands)]
    outcomes = await asyncio.gather(*creating, return_exceptions=True)
    return link, {recorder.record.auction.id: recorder for recorder in recorders}, outcomes


def together(recorder: AuctionRecorder) -> list[int]:
    return [attempt.together for attempt in recorder.record.attempts]


async def test_the_largest_of_those_that_wait_is_awarded_first(store: SqliteStore) -> None:
    """Only one can have the host, and it came last. Broken on purpose (in the order of arrival): a0 has it."""
    link, recorders, outcomes = await hold(store, {"h": ROOM}, [SMALL, MIDDLE, LARGE])
    assert link.orders == {"a2": "h"}
    assert [isinstance(outcome, NoRoom) for outcome in outcomes] == [True, True, False]
    assert together(recorders["a2"]) == [3]


async def test_each_sees_the_claims_of_those_before_it(store: SqliteStore) -> None:
    """Every bid was worked out on empty hosts, and yet none of them gets two."""
    link, recorders, _ = await hold(store, {f"h{n}": ROOM for n in range(8)}, [SMALL] * 8)
    assert sorted(link.orders.values()) == [f"h{n}" for n in range(8)]
    taken = [sum(v.taken.vms for v in recorder.record.attempts[0].ledger.values()) for recorder in recorders.values()]
    assert sorted(taken) == list(range(8))
    assert sorted(recorder.record.attempts[0].slot for recorder in recorders.values()) == list(range(1, 9))
    assert all(together(recorder) == [8] for recorder in recorders.values())


async def test_a_higher_priority_goes_first_whatever_the_size(store: SqliteStore) -> None:
    """Broken on purpose (by size only): a2 has the host."""
    link, _, outcomes = await hold(
        store, {"h": ROOM}, [SMALL, MIDDLE, LARGE], [{}, {"billet.io/priority": "1"}, {"billet.io/priority": "-1"}]
    )
    assert list(link.orders) == ["a1", "a0"]
    assert isinstance(outcomes[2], NoRoom)


async def test_apart_holds_among_those_that_wait_together(store: SqliteStore) -> None:
    """Broken on purpose (rule hosts out before the call for bids only): all eight are placed."""
    link, _, outcomes = await hold(
        store, {f"h{n}": ROOM for n in range(3)}, [SMALL] * 8, [{"billet.io/apart": "web"}] * 8
    )
    assert sorted(link.orders.values()) == ["h0", "h1", "h2"]
    refused = [outcome for outcome in outcomes if isinstance(outcome, NoRoom)]
    assert len(refused) == 5
    assert all("3 hosts: has another microVM of the apart group (h0: already has ns/a" in no.text for no in refused)


async def test_a_quota_holds_among_those_that_wait_together(store: SqliteStore) -> None:
    """Broken on purpose (look before the call for bids only): all eight are placed."""
    link, recorders, outcomes = await hold(
        store, {f"h{n}": ROOM for n in range(8)}, [SMALL] * 8, quotas={"*": Quota(vcpu=3)}
    )
    assert len(link.orders) == 3
    over = "namespace ns is over its quota: it may have 3 vCPU, has 3 and wants 1 more"
    assert [outcome.text for outcome in outcomes if isinstance(outcome, NoRoom)] == [over] * 5
    assert [recorder.record.text for recorder in recorders.values() if recorder.record.outcome == "unplaced"] == [
        over
    ] * 5


async def test_an_auction_alone_gets_its_slot_in_the_next_pass_of_the_loop() -> None:
    slot = asyncio.create_task(Clearing(State(), Presence()).slot(Auction("a", "ns", "a", SMALL), []))
    for _ in range(3):  # it joins, is called, and wakes
        await asyncio.sleep(0)
    assert slot.done()
    assert slot.result() == Slot(1, 1)


async def test_a_cancelled_auction_holds_no_other_up() -> None:
    clearing = Clearing(State(), Presence())
    slots = [asyncio.create_task(clearing.slot(Auction("a", "ns", "a", SMALL), [])) for _ in range(3)]
    await asyncio.sleep(0)
    slots[1].cancel()
    await asyncio.wait(slots)
    assert [slot.cancelled() or slot.result() for slot in slots] == [Slot(1, 2), True, Slot(2, 2)]


def test_a_batch_is_ordered_by_priority_then_dominant_share_of_the_fleet_then_arrival() -> None:
    whole = Resources(100, 200 * 1024, 0, 100)
    demands = [Resources(2, 2048, 0, 1), Resources(1, 8192, 0, 1), Resources(2, 1024, 0, 1), Resources(8, 1024, 0, 1)]
    assert clearing_order([(demand, 0) for demand in demands], whole) == [3, 1, 0, 2]
    assert clearing_order(list(zip(demands, (0, 0, 1, -1), strict=True)), whole) == [2, 1, 0, 3]
    assert clearing_order([], ZERO) == []


async def test_auctions_that_come_while_a_claim_is_committed_are_one_batch_after_it() -> None:
    """Their claims would have to wait for that transaction anyway. Broken on purpose (never waits): 1 and 1."""
    clearing = Clearing(State(), Presence())
    slots, auction = [], Auction("a", "ns", "a", SMALL)
    answers = [bid(Host("h", ROOM, ROOM), ZERO, Facts(), auction, DEFAULT_WEIGHTS)]
    with clearing.claiming(Placement("c", "ns", "c", SMALL, "h", PlacementState.RESERVED)):
        for _ in range(2):
            slots.append(asyncio.create_task(clearing.slot(auction, answers)))
            for _ in range(3):
                await asyncio.sleep(0)
        assert not any(slot.done() for slot in slots)
    assert [slot.together for slot in await asyncio.gather(*slots)] == [2, 2]


async def test_an_auction_that_cannot_win_is_refused_while_the_store_hangs(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No auction waits for another's commit to be refused, unless that commit could fail and leave it the room.

    Broken on purpose: all wait (never asks whether it may win); `apart` is refused for a claim that may fail
    (looks at answers only).
    """
    link, _, create = await leading(store, {"h": ROOM}, 1)
    begun, go_on, commit = asyncio.Event(), asyncio.Event(), store.commit

    async def hanging(term: Term, changes: Sequence[Change], within_s: float = 0.0) -> None:
        begun.set()
        await go_on.wait()
        await commit(term, changes, within_s)

    monkeypatch.setattr(store, "commit", hanging)
    apart = {"billet.io/apart": "g"}
    creating = [asyncio.create_task(create(0, MIDDLE, apart))]
    await begun.wait()
    huge, nowhere = Resources(40, 1024, 0, 1), {"billet.io/zone": "x"}
    others = [(huge, {}), (SMALL, nowhere), (SMALL, apart), (LARGE, {}), (SMALL, {})]
    creating += [asyncio.create_task(create(n, *wanted)) for n, wanted in enumerate(others, 1)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert [task.done() for task in creating] == [False, True, True, False, False, False]
    go_on.set()
    ends = await asyncio.gather(*creating, return_exceptions=True)
    assert list(link.orders) == ["a0", "a5"]
    assert "not enough vCPU (e.g. h: needs 40 vCPU, 4 free)" in ends[1].text
    assert "zone x does not exist; zones: none" in ends[2].text
    assert "apart group (h: already has ns/a0 of group g)" in ends[3].text
    assert "not enough vCPU (e.g. h: needs 4 vCPU" in ends[4].text
