"""The chronicle of a term: what happens on a real ledger and store becomes events, once each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from billet.core.errors import Code, NoRoom, StoreUnreachable, Unreachable
from billet.core.events import Event, EventType
from billet.core.model import Auction, Host, Observed, PlacementState, Reason, VmState
from billet.core.report import InventoryUpdate
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.leader import chronicle as chronicles
from billet.leader.archive import NoArchive
from billet.leader.chronicle import Chronicle
from billet.leader.health import HealthTracker
from billet.leader.reconciler import SURELY_AWAY_S
from billet.leader.recorder import AuctionRecorder
from billet.ports import Created, Failed
from tests.cluster.clients import eventually
from tests.leader.test_reconciler import ROOM, SHAPE, LeaderTerm, leader, next_term, place, row

__all__ = ["leader"]  # a fixture

RESERVED, STARTED = PlacementState.RESERVED, PlacementState.STARTED


class Kept(NoArchive):
    """Keeps the events, of all terms."""

    def __init__(self) -> None:
        self.found: list[Event] = []

    def add_event(self, event: Event) -> None:
        self.found.append(event)

    async def events(self, types: Collection[str], since_s: float, limit: int) -> Sequence[Event]:
        return [event for event in self.found if event.type in types and event.at_s >= since_s][-limit:]

    def types(self, *but: str) -> list[str]:
        """Those that happened, but for these."""
        return [event.type for event in self.found if event.type not in but]


class Term:
    """A chronicle that hears what the hosts say, and has been told to begin."""

    def __init__(self, leader: LeaderTerm, kept: Kept) -> None:
        self.leader = leader
        self.told = Chronicle(leader.ledger, leader.clock, kept, leader.reconciler)
        self.told.health = self.health = HealthTracker(leader.ledger.state, leader.clock, 1.0, self.told)

    def join(self, host_id: str, *rows: Observed) -> None:
        self.told.joined(Host(host_id, ROOM, ROOM))
        self.told.observed(host_id, InventoryUpdate(True, list(rows), [], [], ()))

    def show(self, host_id: str, *rows: Observed) -> None:
        self.told.observed(host_id, InventoryUpdate(False, list(rows), [], [], ()))


@asynccontextmanager
async def term(leader: LeaderTerm, kept: Kept) -> AsyncIterator[Term]:
    made = Term(leader, kept)
    running = asyncio.create_task(made.told.run())
    await eventually(lambda: "leader-changed" in kept.types())
    yield made
    leader.ledger.end("the test is over")
    await running


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chronicles, "LOOK_S", 0.01)


async def started(leader: LeaderTerm, name: str, uid: str) -> None:
    """The host has answered the order."""
    placement = leader.ledger.state.placements[name]
    assert leader.ledger.note_answered(replace(placement, state=STARTED, uid=uid))


async def test_a_boot_is_told_with_its_time_and_its_failures_once(leader: LeaderTerm) -> None:
    """Broken on purpose (each retry is an event; CREATED of any microVM is one): more events."""
    kept = Kept()
    async with term(leader, kept) as now:
        now.join("h1", row("other", "copied"))
        await place(leader, "t1", RESERVED)
        await started(leader, "t1", "u1")
        leader.clock.s += 2.5
        for retry in (1, 2):
            now.show("h1", row("u1", "t1", VmState.PENDING)._replace(retry=retry))
        now.show("h1", row("u1", "t1"), row("other", "copied"))
        now.show("h1", row("u1", "t1"))
    mine = [event for event in kept.found if event.auction == "t1"]
    assert [event.type for event in mine] == ["microvm-placed", "microvm-failed", "microvm-created"]
    assert mine[-1].after_s == 2.5
    assert (mine[-1].microvm, mine[-1].host, mine[-1].uid) == ("ns/vm", "h1", "u1")


async def test_a_host_that_shows_a_microvm_before_it_answers_is_heard_in_order(leader: LeaderTerm) -> None:
    """Broken on purpose (told at once): CREATED comes before the microVM is placed."""
    kept = Kept()
    async with term(leader, kept) as now:
        await place(leader, "t1", RESERVED)
        now.told.joined(Host("h1", ROOM, ROOM))
        async with leader.ledger.hold("t1"):
            now.show("h1", row("u1", "t1"))
            await started(leader, "t1", "u1")
    assert kept.types("leader-changed", "leader-lost") == ["microvm-placed", "microvm-created"]


async def test_the_next_leader_tells_the_end_of_boots_that_the_last_one_has_not_seen(leader: LeaderTerm) -> None:
    """Broken on purpose (a new leader takes nothing up): t2 is never CREATED; (all are taken up): t1 is so twice."""
    kept = Kept()
    async with term(leader, kept) as now:
        now.join("h1")
        for name, uid in (("t1", "u1"), ("t2", "u2"), ("t3", "u3")):
            await place(leader, name, RESERVED)
            await started(leader, name, uid)
            await leader.ledger.keep(leader.ledger.state.placements[name])
        now.show("h1", row("u1", "t1"))
    leader.clock.s += 4.0
    async with next_term(leader) as later, term(later, kept) as now:
        now.join("h1", row("u1", "t1"), row("u2", "t2"), row("u3", "t3", VmState.PENDING))
        await eventually(lambda: kept.types().count("microvm-created") == 2)
        leader.clock.s += 1.0
        now.show("h1", row("u3", "t3"))
    created = {event.auction: event.after_s for event in kept.found if event.type == "microvm-created"}
    assert created == {"t1": 0.0, "t2": 4.0, "t3": 5.0}
    assert Counter(kept.types())["microvm-created"] == 3


async def test_hosts_go_and_come_back_once_whoever_leads(leader: LeaderTerm) -> None:
    """Broken on purpose (every host that joins a new leader is back; away is told again by each leader): fails."""
    kept = Kept()
    async with term(leader, kept) as now:
        now.join("h1")
        now.join("h2")
        now.told.left("h1")
    async with next_term(leader) as later, term(later, kept) as now:
        now.join("h2")
        leader.clock.s += SURELY_AWAY_S + 1.0
        await asyncio.sleep(0.05)  # some looks: h1 is away still, which is no event
    async with next_term(leader) as later, term(later, kept) as now:
        now.join("h1")
        await eventually(lambda: "host-back" in kept.types())
        leader.clock.s += SURELY_AWAY_S + 1.0
        await eventually(lambda: kept.types().count("host-away") == 2)
    told = [(event.type, event.host) for event in kept.found if event.type.startswith("host")]
    assert told == [("host-away", "h1"), ("host-back", "h1"), ("host-away", "h2")]


async def test_the_end_of_a_term_is_no_hosts_departure(leader: LeaderTerm) -> None:
    """Broken on purpose (`left` is told after the term too): every host is away at each change of the leader."""
    kept = Kept()
    async with term(leader, kept) as now:
        now.join("h1")
        leader.ledger.end("another leads")
        now.told.left("h1")
    assert kept.types() == ["leader-changed", "leader-lost"]
    assert kept.found[-1].text == "no longer leads: another leads"


async def test_a_host_is_suspect_and_recovers(leader: LeaderTerm) -> None:
    kept = Kept()
    async with term(leader, kept) as now:
        now.health.joined(Host("h1", ROOM, ROOM))
        for token in ("t1", "t2"):
            now.health.answered(token, "h1", Failed(Code.UNKNOWN, "no space left on device"))
        await eventually(lambda: "host-suspect" in kept.types())
        assert "no space left" in kept.found[-1].text
        leader.clock.s += 1.0
        with now.health.order(Auction("t3", "ns", "vm", SHAPE), "h1"):
            now.health.answered("t3", "h1", Created("u3", b""))
        now.health.observed("h1", InventoryUpdate(False, [row("u3", "t3")], [], [], ()))
        await eventually(lambda: "host-recovered" in kept.types())
    assert kept.types().count("host-suspect") == 1


async def test_the_store_is_in_trouble_once_and_back_once(
    leader: LeaderTerm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose (an event for each commit that fails): three."""
    kept = Kept()
    commit = leader.store.commit

    async def fails(*_: object) -> int:
        raise StoreUnreachable("etcd does not answer")

    async with term(leader, kept):
        monkeypatch.setattr(leader.store, "commit", fails)
        for name in "abc":
            with pytest.raises(StoreUnreachable):
                await place(leader, name, RESERVED)
        monkeypatch.setattr(leader.store, "commit", commit)
        await place(leader, "d", RESERVED)
        await place(leader, "e", RESERVED)
    assert kept.types("leader-changed", "leader-lost") == ["store-trouble", "store-back"]


async def test_trouble_that_others_see_counts_too_and_the_next_leader_ends_it(leader: LeaderTerm) -> None:
    """Broken on purpose (a commit that works ends it: it comes and goes; the next leader does not look back)."""
    kept, why = Kept(), ["2 of 3 members do not answer"]
    async with term(leader, kept) as now:
        now.told.store_trouble = lambda: why[0]
        await eventually(lambda: "store-trouble" in kept.types())
        await place(leader, "a", RESERVED)
        await asyncio.sleep(0.05)  # some looks
    async with next_term(leader) as later, term(later, kept):
        await eventually(lambda: "store-back" in kept.types())
    assert kept.types("leader-changed", "leader-lost") == ["store-trouble", "store-back"]


async def test_creates_that_come_to_nothing_are_told_with_their_reasons(leader: LeaderTerm) -> None:
    kept = Kept()
    auction = Auction("a1", "ns", "vm", SHAPE)
    async with term(leader, kept) as now:
        for error, reasons in (
            (NoRoom("no host can take ns/vm"), {Reason.NO_MEMORY: 2}),
            (Unreachable("no host can take ns/vm"), {Reason.AWAY: 1}),
            (NoRoom("namespace ns is over its quota: 1 vCPU"), {}),
            (Unreachable("host h1 did not answer"), {}),
        ):
            recorder = AuctionRecorder(auction, DEFAULT_WEIGHTS, leader.clock)
            recorder.reasons.update(reasons)
            recorder.failed(error)
            now.told.recorded(recorder)
    told = [(event.type, event.reasons) for event in kept.found if event.auction]
    assert told == [
        ("microvm-refused", {"NO_MEMORY": 2}), ("microvm-refused", {"AWAY": 1}), ("quota-hit", None),
        ("microvm-failed", None),
    ]  # fmt: skip
    assert {event.code for event in kept.found if event.auction} == {8, 14}


async def test_what_the_reconciler_finds_is_told(leader: LeaderTerm) -> None:
    kept = Kept()
    async with term(leader, kept) as now:
        now.join("h1", row("OWN"))
        await eventually(lambda: "microvm-adopted" in kept.types())
        await place(leader, "s", STARTED)
        now.show("h1", row("U-s", "s"))
        now.told.observed("h1", InventoryUpdate(False, [], ["U-s"], [], ()))
        await eventually(lambda: "microvm-lost" in kept.types())
        now.show("h1", row("U-s", "s"))
        await eventually(lambda: "microvm-found" in kept.types())
    assert EventType.MICROVM_DELETED not in kept.types()
