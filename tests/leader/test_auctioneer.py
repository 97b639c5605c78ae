"""The straight line of a create, with hosts that answer as a test wants. Ledger and store are the real ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from billet.core.bidding import bid
from billet.core.constraints import read
from billet.core.errors import (
    NOTHING_WRITTEN,
    BilletError,
    Code,
    CreateOutcomeUnknown,
    DeleteNotRecorded,
    HostVerdict,
    NoRoom,
    PreconditionFailed,
    StoreError,
)
from billet.core.model import (
    NO_CONSTRAINTS,
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
from billet.core.questions.record import faithful
from billet.core.reconcile import release, repair
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.core.state import Change, DropHost, DropPlacement, PutHost, PutPlacement, apply, check, load
from billet.leader import behind
from billet.leader.auctioneer import Auctioneer
from billet.leader.jobs import Caller
from billet.leader.ledger import Ledger
from billet.leader.presence import Presence
from billet.leader.recorder import AuctionRecorder
from billet.leader.rules import Rules
from billet.ports import Created, CreateOptions, Ended, Leader, NotTaken, Outcome, Reply
from billet.process import SystemClock
from billet.store.sqlite import SqliteStore
from billet.whatif.recorded_workload import shadows
from billet.wire.auction_records import encode, readable
from tests.cluster.clients import eventually

ROOM = Resources(2, 4096, 0, 10)
WIDE = Resources(16, 16384, 0, 10)
SHAPE = Resources(2, 1024, 0, 1)
RULES = Rules(call_for_bids=True)
Answer = Callable[[str, Auction], Bid | Refusal]


class Hosts:
    """Three hosts alike. `answers` says what each does at the n-th call for bids; they take every order, but for the
    first when `first_declines`."""

    def __init__(self, *answers: Answer, first_declines: bool = False) -> None:
        self._declines = first_declines
        self.called: list[list[str]] = []
        self.orders: list[str] = []
        self._answers = answers

    def instance(self, host_id: str) -> str:
        return "one"

    async def call_for_bids(
        self, auction: Auction, host_ids: Sequence[str], wait: bool = False
    ) -> list[Bid | Refusal]:
        self.called.append(sorted(host_ids))
        answer = self._answers[len(self.called) - 1]
        return [answer(host_id, auction) for host_id in host_ids]

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        self.orders.append(host_id)
        if self._declines:
            self._declines = False
            return NotTaken(Refusal(host_id, Reason.DECLINED))
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
    await ledger.finish([PutHost(Host(name, ROOM, ROOM)) for name in ("h0", "h1", "h2")])
    yield ledger
    await store.close()


def auctioneer(
    ledger: Ledger, hosts: Hosts, rules: Rules = RULES, ready: Presence | None = None
) -> tuple[Auctioneer, list[AuctionRecorder]]:
    ready, recorders = ready or present(ledger.state.hosts), []
    return Auctioneer(ledger, hosts, ready, rules, SystemClock(), recorders.append), recorders


def present(host_ids: Iterable[str]) -> Presence:
    ready = Presence()
    for host_id in host_ids:
        ready.add(host_id)
    return ready


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
    maker, recorders = auctioneer(ledger, hosts)
    await create(maker, "first")
    await create(maker, "second")
    (slow,) = {"h0", "h1", "h2"} - set(hosts.orders)
    assert await create(maker, "third") == b"reply"
    assert hosts.called[2:] == [["h0", "h1", "h2"], [slow]]
    assert hosts.orders[2] == slow
    assert [len(attempt.bids) for attempt in recorders[2].record.attempts] == [2, 3]


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


async def test_the_runner_up_takes_what_the_winner_surely_refuses_without_a_second_call_for_bids(
    ledger: Ledger,
) -> None:
    """Broken on purpose (bids asked for anew after a refusal): two calls."""
    hosts = Hosts(bids, bids, first_declines=True)
    commits: list[tuple[str, str]] = []
    claim = ledger.claim

    async def watched(changes: Sequence[PutPlacement]) -> None:
        commits.extend((change.placement.host, change.placement.runner_up) for change in changes)
        await claim(changes)

    ledger.claim = watched  # type: ignore[method-assign]  # the real one, overheard
    gone: list[str] = []
    ledger.gone = lambda placement: gone.append(placement.host)
    maker, recorders = auctioneer(ledger, hosts)
    assert await create(maker, "vm") == b"reply"
    (winner, runner_up), (second, third) = commits
    assert hosts.called == [["h0", "h1", "h2"]], "asked once"
    assert hosts.orders == [winner, second]
    assert second == runner_up, "who was committed as the next one is the next one"
    assert {winner, second, third} == {"h0", "h1", "h2"}
    assert [p.host for p in ledger.state.placements.values()] == [second]
    assert gone == [winner], "its room is free again, and that is told"
    attempts = recorders[0].record.attempts
    assert [a.award.host for a in attempts if a.award] == [winner, second]
    assert set(attempts[1].ledger) == {"h0", "h1", "h2"}, "also what the ledger counts of hosts that refuse"


async def test_a_record_says_which_hosts_were_not_there(ledger: Ledger) -> None:
    hosts = Hosts(bids)
    maker, recorders = auctioneer(ledger, hosts, ready=present(["h0", "h2"]))
    await create(maker, "vm")
    assert recorders[0].record.called == (3, 0, ("h1",))
    assert hosts.called == [["h0", "h2"]]


async def test_the_shadow_is_written_down_and_never_acted_on(ledger: Ledger) -> None:
    """Broken on purpose (the shadow's host is ordered): both go to one host."""

    def by_the_ledger(host_id: str, auction: Auction) -> Bid | Refusal:
        taken = ledger.state.taken.get(host_id, ZERO)
        return bid(Host(host_id, WIDE, WIDE), taken, Facts(), auction, DEFAULT_WEIGHTS)

    await ledger.finish([PutHost(Host(name, WIDE, WIDE)) for name in ("h0", "h1", "h2")])
    hosts = Hosts(by_the_ledger, by_the_ledger)
    rules = Rules(call_for_bids=True, shadow=DEFAULT_WEIGHTS._replace(policy="pack"))
    maker, recorders = auctioneer(ledger, hosts, rules)
    await create(maker, "first")
    await create(maker, "second")
    first, second = (recorder.record for recorder in recorders)
    assert (first.shadow, second.attempts[0].shadow) == ("pack", first.host)
    assert second.attempts[0].award.host == second.host != first.host
    assert hosts.orders == [first.host, second.host]
    (said,) = shadows([first, second])
    assert (said.policy, said.awards, said.others) == ("pack", 2, 1)
    assert json.loads(readable(encode(second)))["attempts"][0]["shadow"] == first.host


# Constraints and preferences: which hosts an auction asks.


def bids_without_constraints(host_id: str, auction: Auction) -> Bid | Refusal:
    """As on the link: an auction's constraints and preferences stay with the leader."""
    return bids(host_id, replace(auction, constraints=NO_CONSTRAINTS))


async def with_labels(maker: Auctioneer, name: str, labels: dict[str, str]) -> bytes:
    auction = Auction(name, "ns", name, SHAPE, labels=labels, constraints=read(labels, name))
    return await maker.create(auction, b"", caller())


async def test_hosts_that_violate_a_constraint_are_not_asked_and_their_reason_is_recorded(ledger: Ledger) -> None:
    """Broken on purpose (ask everybody): h1 and h2 are called."""
    await ledger.finish([PutHost(Host("h0", ROOM, ROOM, "a"))])
    hosts = Hosts(bids_without_constraints)
    maker, recorders = auctioneer(ledger, hosts)
    await with_labels(maker, "vm", {"billet.io/zone": "a"})
    assert hosts.called == [["h0"]]
    refused = recorders[0].record.attempts[0].refusals
    assert {no.host: no.reason for no in refused} == {"h1": Reason.ZONE, "h2": Reason.ZONE}


async def test_a_large_fleet_is_asked_where_constraints_and_preferences_can_be_met(ledger: Ledger) -> None:
    """The host with the required label, or the group's host. Broken on purpose (any host): seen."""
    await ledger.finish([PutHost(Host("h1", ROOM, ROOM, labels={"gpu": "yes"}))])
    db = Placement("db", "ns", "db", Resources(0, 0, 0, 1), "h2", PlacementState.STARTED)
    db = replace(db, labels={"billet.io/near": "db"})
    await ledger.claim([PutPlacement(db)])
    for wanted, asked in (
        ({"billet.io/require.gpu": "yes"}, ["h1"]), ({"billet.io/near": "db"}, ["h2"]),
    ):  # fmt: skip
        hosts = Hosts(bids_without_constraints)
        maker, _ = auctioneer(ledger, hosts, replace(RULES, ask_hosts=1, ask_random=0))
        await with_labels(maker, f"vm-{wanted}", wanted)
        assert hosts.called[0] == asked
        await ledger.finish([DropPlacement(f"vm-{wanted}")])


async def test_what_is_to_be_spread_asks_as_many_as_anything_else_though_a_zone_is_gone(ledger: Ledger) -> None:
    """Broken on purpose (a fixed share for each zone): 4 are asked."""
    await ledger.finish([DropHost(name) for name in ("h0", "h1", "h2")])
    await ledger.finish([PutHost(Host(f"{n}", ROOM, ROOM, "abc"[n % 3])) for n in range(12)])
    hosts = Hosts(bids_without_constraints)
    ready = present(f"{n}" for n in range(12) if n % 3 < 2)
    maker, _ = auctioneer(ledger, hosts, replace(RULES, ask_hosts=6, ask_random=0), ready)
    await with_labels(maker, "vm", {"billet.io/spread": "g"})
    assert sorted(int(host_id) % 3 for host_id in hosts.called[0]) == [0, 0, 0, 1, 1, 1]


async def test_nothing_is_waited_for_when_no_host_meets_a_constraint(ledger: Ledger) -> None:
    """Though a host is away: in another zone, it would be of no use if it were there."""
    await ledger.finish([PutHost(Host("away", ROOM, ROOM, "a"))])
    hosts = Hosts(bids_without_constraints)
    maker, _ = auctioneer(ledger, hosts, replace(RULES, arrive_s=0.0), present(["h0", "h1", "h2"]))
    with pytest.raises(NoRoom, match=r": zone b does not exist; zones: "):
        await with_labels(maker, "vm", {"billet.io/zone": "b"})
    assert hosts.called == []


class LaterClock(SystemClock):
    """A clock on which every wait for hosts of the term before is over by the second look."""

    def __init__(self) -> None:
        self._looks = 0

    def monotonic_s(self) -> float:
        self._looks += 1
        return super().monotonic_s() + (3600.0 if self._looks > 1 else 0.0)


async def test_the_first_host_of_a_fleet_is_waited_for_while_it_is_committed(ledger: Ledger) -> None:
    """However long the leader has led: to say that no host has joined would be wrong. Broken on purpose: NoRoom."""
    await ledger.finish([DropHost(name) for name in ("h0", "h1", "h2")])
    ready = Presence()
    maker = Auctioneer(ledger, Hosts(bids), ready, RULES, LaterClock(), lambda recorder: None)
    ready.expect("h0")
    creating = asyncio.create_task(create(maker, "first"))
    await asyncio.sleep(0)
    await ledger.finish([PutHost(Host("h0", ROOM, ROOM))])
    ready.add("h0")
    assert await creating == b"reply"


async def test_a_host_that_was_not_asked_wins_once_the_others_are_awarded_to_those_that_were(ledger: Ledger) -> None:
    """And if it refuses the order, the next best gets it. Broken on purpose (its refusal is lost): it is tried again
    and again."""
    now_s = SystemClock().monotonic_s()
    for host_id in ledger.state.hosts:
        ledger.state.fleet.hear(host_id, Facts(), ZERO, now_s, 60.0)
    hosts = Hosts(bids, first_declines=True)
    maker, recorders = auctioneer(ledger, hosts, replace(RULES, ask_hosts=1, ask_random=0))

    async def filled_meanwhile(auction: Auction, host_ids: Sequence[str], wait: bool = False) -> list[Bid | Refusal]:
        answers = await Hosts.call_for_bids(hosts, auction, host_ids)
        other = Placement("other", "ns", "other", ROOM, host_ids[0], PlacementState.STARTED)
        await ledger.claim([PutPlacement(other)])
        return answers

    hosts.call_for_bids = filled_meanwhile  # type: ignore[method-assign]
    assert await create(maker, "a") == b"reply"
    assert len(hosts.called) == 1
    assert sorted([*hosts.called[0], *hosts.orders]) == ["h0", "h1", "h2"]
    first, second = recorders[0].record.attempts
    assert [bid.age_s > 0 for bid in first.bids if bid.host in hosts.orders] == [True, True]
    assert second.award
    assert second.award.host == hosts.orders[1]
    assert faithful(recorders[0].record)


async def test_a_host_is_asked_only_if_no_standing_bid_wins(ledger: Ledger) -> None:
    """Nobody has said anything; then all have, and the winner refuses the order; then all say that they are full.

    Broken on purpose (everybody is asked all the same): `called` is not empty; (nobody ever): NoRoom for "full".
    """
    rules, fleet = Rules(ask_hosts=1, ask_random=0), ledger.state.fleet
    unheard, heard, full = Hosts(bids), Hosts(first_declines=True), Hosts(bids)
    assert await create(auctioneer(ledger, unheard, rules)[0], "unheard") == b"reply"
    assert len(unheard.called) == 1
    for host_id in ledger.state.hosts:
        fleet.hear(host_id, Facts(), ZERO, SystemClock().monotonic_s(), 60.0)
    maker, recorders = auctioneer(ledger, heard, rules)
    assert await create(maker, "heard") == b"reply"
    assert (heard.called, len(heard.orders)) == ([], 2)
    first = recorders[0].record.attempts[0]
    assert [bid.age_s > 0 for bid in first.bids] == [True, True, True], (
        "also of the one that the first create has filled"
    )
    assert faithful(recorders[0].record)
    for host_id in ledger.state.hosts:
        fleet.hear(host_id, Facts(), ROOM, SystemClock().monotonic_s(), 60.0)
    assert await create(auctioneer(ledger, full, rules)[0], "full") == b"reply"
    assert len(full.called) == 1


async def test_a_required_host_is_the_only_one_that_is_asked(ledger: Ledger) -> None:
    hosts = Hosts(bids, bids)
    maker, _ = auctioneer(ledger, hosts, replace(RULES, ask_hosts=1, ask_random=0))
    await with_labels(maker, "a", {"billet.io/host": "h2"})
    assert (hosts.called, hosts.orders) == ([["h2"]], ["h2"])


# Clients that do not wait, and deletes of what is no longer running.


async def test_a_client_that_gives_up_while_its_reservation_is_written_gets_no_microvm(ledger: Ledger) -> None:
    """No host was told yet, so the create can still be called back.

    Broken on purpose (no look at the client after the claim): the host boots a microVM that nobody waits for.
    """
    hosts, client = Hosts(bids), caller()
    maker, _ = auctioneer(ledger, hosts)
    claim = ledger.claim

    async def and_the_client_gives_up(changes: Sequence[PutPlacement]) -> None:
        await claim(changes)
        client.waiting = 0

    ledger.claim = and_the_client_gives_up  # type: ignore[method-assign]  # the real one, interrupted
    with pytest.raises(BilletError) as given_up:
        await maker.create(Auction("vm", "ns", "vm", SHAPE), b"", client)
    assert given_up.value.code == Code.CANCELLED
    assert hosts.orders == []
    assert ledger.state.placements == {}


class DeletingHosts(Hosts):
    """Hosts that accept every Delete."""

    async def call(self, host_id: str, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
        return Reply(Code.OK, "", b"deleted")


async def test_promise_4_a_microvm_that_was_deleted_before_its_uid_was_recorded_is_not_made_again(
    ledger: Ledger,
) -> None:
    """Broken on purpose (taken for an unknown outcome): its reservation ends, and a request id makes a second one."""

    class HasDeletedIt(Hosts):
        async def create(self, host_id: str, *rest: object) -> Outcome:
            return Ended("U-vm")

    reserved = Placement("vm", "ns", "vm", SHAPE, "h1", PlacementState.RESERVED, instance="one")
    await ledger.claim([PutPlacement(reserved)])
    maker, _ = auctioneer(ledger, HasDeletedIt(bids))
    with pytest.raises(PreconditionFailed, match="has created microVM U-vm already"):
        await create(maker, "vm")
    assert ledger.state.of_uid("U-vm") == replace(reserved, state=PlacementState.RELEASING, uid="U-vm")


@pytest.mark.parametrize("fenced", [False, True])
async def test_promise_4_a_create_that_comes_again_makes_no_second_microvm_after_the_first_was_deleted(
    ledger: Ledger, tmp_path: Path, fenced: bool
) -> None:
    """A client deletes a microVM that it saw in a list before the create was answered. Then the leader is lost, and a
    server sends the create to the next one; no request id is needed for that.

    Broken on purpose (the placement is dropped when its host no longer shows the microVM): a second one is made.
    """
    hosts = DeletingHosts(bids)
    maker, _ = auctioneer(ledger, hosts)
    await create(maker, "vm")
    if fenced:
        host_id = ledger.state.placements["vm"].host
        await ledger.finish(release(ledger.state, host_id, (), 0.0))
    else:
        await maker.delete("U-vm", "DeleteMicroVM", b"")
    await ledger.finish(repair(ledger.state, hosts.orders[0], {}, ["U-vm"], (), 0.0))
    assert ledger.state.room(hosts.orders[0]) == ROOM
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    again, _ = auctioneer(Ledger(load((await store.load()).changes), store, ledger.term), hosts)
    await store.close()
    with pytest.raises(PreconditionFailed, match="has created microVM U-vm already, which is GONE now"):
        await create(again, "vm")
    assert len(hosts.orders) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PlacementState.STARTED, PlacementState.RELEASING),
        (PlacementState.RELEASING, PlacementState.RELEASING),
        (PlacementState.FENCED, PlacementState.FENCED),
        (PlacementState.LOST, PlacementState.LOST),
        (PlacementState.GONE, PlacementState.GONE),
    ],
)
async def test_promise_2_only_a_started_microvm_becomes_releasing(
    ledger: Ledger, before: PlacementState, after: PlacementState
) -> None:
    """A client deletes a microVM whose room was given back already, by a fence for instance.

    Broken on purpose (RELEASING from any state): its room is taken a second time, of a host that may be full by now;
    and a fenced host counts as clean, and may bid, before the microVM is gone from it.
    """
    placement = Placement("vm", "ns", "vm", SHAPE, "h1", before, uid="U1")
    await ledger.finish([PutPlacement(placement)])
    room = ledger.state.room("h1")
    maker, _ = auctioneer(ledger, DeletingHosts())
    assert await maker.delete("U1", "DeleteMicroVM", b"") == b"deleted"
    assert ledger.state.placements["vm"].state is after
    assert ledger.state.room("h1") == room


async def test_a_delete_passes_metadata_on_and_the_details_of_a_refusal_back(ledger: Ledger) -> None:
    """Broken on purpose (the refusal has no trailers): the client gets the text without its details."""
    sent, said = (("x-request-id", "r1"),), (("grpc-status-details-bin", b"why"),)

    class RefusingHosts(Hosts):
        async def call(self, host_id: str, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
            assert more == (sent,)
            return Reply(Code.UNKNOWN, "no", b"", trailers=said)

    await ledger.finish([PutPlacement(Placement("vm", "ns", "vm", SHAPE, "h1", PlacementState.STARTED, uid="U1"))])
    maker, _ = auctioneer(ledger, RefusingHosts())
    with pytest.raises(HostVerdict, match="no") as refused:
        await maker.delete("U1", "DeleteMicroVM", b"", sent)
    assert refused.value.trailers == said


async def test_a_delete_that_the_full_disk_does_not_take_is_reported_as_it_is_and_recorded_later(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host deletes the microVM, and then the store refuses the record. The reconciler sees the microVM vanish.

    Broken on purpose (the store's own error is the answer): "nothing was written" denies a delete that was carried
    out, and the microVM is listed as LOST.
    """
    monkeypatch.setattr(behind, "RETRY_S", 0.05)
    placement = Placement("vm", "ns", "vm", SHAPE, "h1", PlacementState.STARTED, uid="U1")
    await ledger.finish([PutPlacement(placement)])
    full, finish = True, ledger.finish

    async def on_a_full_disk(changes: Sequence[Change]) -> None:
        if full:
            raise StoreError(f"the disk is full{NOTHING_WRITTEN}")
        await finish(changes)

    ledger.finish = on_a_full_disk  # type: ignore[method-assign]  # the real one, when the disk has room
    maker, _ = auctioneer(ledger, DeletingHosts())
    with pytest.raises(DeleteNotRecorded, match=r"host h1 deletes microVM U1, but .* \(the disk is full\)") as caught:
        await maker.delete("U1", "DeleteMicroVM", b"")
    assert "nothing was written" not in caught.value.text
    assert repair(ledger.state, "h1", {}, ["U1"], ledger.in_hand, 0.0) == [], "not LOST: it stays in hand"
    full = False
    await eventually(lambda: not ledger.in_hand)
    assert ledger.state.placements["vm"].state is PlacementState.RELEASING
    assert repair(ledger.state, "h1", {}, ["U1"], ledger.in_hand, 0.0) == [
        PutPlacement(replace(placement, state=PlacementState.GONE))
    ]


class Answers(Hosts):
    """One host bids and takes the order; it answers each create in the same way."""

    def __init__(self, host_id: str, outcome: Outcome) -> None:
        super().__init__(*[self._bid] * 9)
        self._host_id, self._outcome = host_id, outcome

    def _bid(self, host_id: str, auction: Auction) -> Bid | Refusal:
        return bids(host_id, auction) if host_id == self._host_id else Refusal(host_id, Reason.DECLINED)

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        return self._outcome


@pytest.mark.parametrize("outcome", [Created("U0", b"reply"), Ended("U0")])
async def test_a_host_that_answers_a_create_with_the_uid_of_another_host_gets_nothing(
    ledger: Ledger, outcome: Outcome
) -> None:
    """Broken on purpose (any uid is recorded): Get and Delete of the other microVM go to this host."""
    await ledger.claim([PutPlacement(Placement("t0", "ns", "vm", SHAPE, "h0", PlacementState.STARTED, "U0"))])
    maker, _ = auctioneer(ledger, Answers("h1", outcome))
    with pytest.raises(CreateOutcomeUnknown, match="belongs to another host"):
        await create(maker, "stolen")
    assert ledger.state.of_uid("U0") == ledger.state.placements["t0"]
    assert ledger.state.placements["stolen"].state is PlacementState.RESERVED
    check(ledger.state)


async def test_a_create_whose_microvm_was_adopted_meanwhile_takes_it_over(ledger: Ledger) -> None:
    """Its reservation had expired before its host showed it. Broken on purpose: it is counted twice."""
    adopted = Placement("U1", "ns", "late", SHAPE, "h1", PlacementState.STARTED, "U1", adopted=True)
    await ledger.finish([PutHost(Host("h1", WIDE, WIDE)), PutPlacement(adopted)])
    maker, _ = auctioneer(ledger, Answers("h1", Created("U1", b"reply")))
    assert await create(maker, "late") == b"reply"
    assert ledger.state.placements.keys() == {"late"}
    assert ledger.state.taken["h1"] == SHAPE
    check(ledger.state)
