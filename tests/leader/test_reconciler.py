"""The reconciler on a real ledger and store: fencing, cleaning, lost deletes, and the operator's commands."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from billet.core.errors import InvalidRequest, PreconditionFailed, StaleTerm, StoreError, Unreachable
from billet.core.model import Facts, Host, Observed, Placement, PlacementState, Resources, VmState
from billet.core.reconcile import KEEP_DELETED_S, RESEND_S
from billet.core.report import InventoryUpdate, Report
from billet.core.state import PutHost, PutPlacement, check, load
from billet.leader import operator as operators
from billet.leader.ledger import Ledger
from billet.leader.operator import Operator
from billet.leader.reconciler import SWEEP_S, Reconciler
from billet.ports import Leader
from billet.store.sqlite import SqliteStore
from tests.cluster.clients import eventually

ROOM = Resources(64, 65536, 1000, 100)
SHAPE = Resources(1, 1024, 0, 1)
RESERVED, STARTED, RELEASING, LOST, GONE, FENCED = PlacementState


class HandClock:
    """A clock that the test moves. The event loop's pauses are real."""

    def __init__(self) -> None:
        self.s = 1000.0
        self.wall_s = 1e9  # an operator or NTP may set it

    def now_s(self) -> float:
        return self.wall_s + self.s

    def monotonic_s(self) -> float:
        return self.s


@dataclass
class LeaderTerm:
    """A leader's ledger and reconciler, and hosts whose answers the test chooses."""

    store: SqliteStore
    ledger: Ledger
    clock: HandClock = field(default_factory=HandClock)
    asked: list[tuple[str, str]] = field(default_factory=list)  # deletes, in order
    answer: Callable[[str, str], bool] = lambda host_id, uid: True
    resolve_after_s: float = 60.0
    fence_after_s: float = 0.0
    reconciler: Reconciler = field(init=False)

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(
            self.ledger, self.clock, self.resolve_after_s, 86_400.0, self.delete, self.fence_after_s
        )

    async def delete(self, host_id: str, uid: str) -> bool:
        self.asked.append((host_id, uid))
        return self.answer(host_id, uid)

    @property
    def operator(self) -> Operator:
        return Operator(self.ledger, self.reconciler, lambda host_id: [])

    def state_of(self, placement_id: str) -> PlacementState | None:
        placement = self.ledger.state.placements.get(placement_id)
        return placement.state if placement else None

    def announce(
        self, host_id: str, *rows: Observed, creating: tuple[str, ...] = (), deleted: tuple[Observed, ...] = ()
    ) -> None:
        self.reconciler.joined(Host(host_id, ROOM, ROOM))
        self.tell(host_id, *rows, creating=creating, deleted=deleted)

    def tell(
        self, host_id: str, *rows: Observed, creating: tuple[str, ...] = (), deleted: tuple[Observed, ...] = ()
    ) -> None:
        self.reconciler.observed(host_id, InventoryUpdate(True, list(rows), [], list(creating), deleted))


@pytest.fixture
async def leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LeaderTerm]:
    monkeypatch.setattr(operators, "SURELY_AWAY_S", 0.0)  # the clock stands still unless a test moves it
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    term = await store.campaign(Leader("a", "", ""))
    made = LeaderTerm(store, Ledger(load((await store.load()).changes), store, term))
    await made.ledger.finish([PutHost(Host(name, ROOM, ROOM)) for name in ("h1", "h2")])
    running = asyncio.create_task(made.reconciler.run())
    yield made
    made.ledger.end("the test is over")
    await running
    check(made.ledger.state)
    await store.close()


@asynccontextmanager
async def next_term(leader: LeaderTerm, **settings: float) -> AsyncIterator[LeaderTerm]:
    """The next leader, which loads the store and may have other settings."""
    leader.ledger.end("another leads")
    ledger = Ledger(load((await leader.store.load()).changes), leader.store, leader.ledger.term)
    made = LeaderTerm(leader.store, ledger, leader.clock, **settings)  # type: ignore[arg-type]
    running = asyncio.create_task(made.reconciler.run())
    yield made
    ledger.end("the test is over")
    await running
    check(ledger.state)


def row(uid: str, token: str = "", state: VmState = VmState.CREATED) -> Observed:
    return Observed(uid, "ns", "vm", SHAPE, state, token)


async def place(leader: LeaderTerm, placement_id: str, state: PlacementState, host: str = "h1") -> None:
    uid = "" if state is RESERVED else f"U-{placement_id}"
    stamp = leader.clock.now_s()
    made = Placement(placement_id, "ns", "vm", SHAPE, host, state, uid=uid, changed_at_s=stamp)
    await leader.ledger.claim([PutPlacement(made)])


async def test_a_fence_releases_every_placement_of_its_host_and_is_durable(leader: LeaderTerm) -> None:
    for name, state in (("r", RESERVED), ("s", STARTED), ("d", RELEASING), ("l", LOST)):
        await place(leader, name, state)
    await place(leader, "other", STARTED, "h2")
    assert await leader.operator.fence("h1") == 4
    assert {name: leader.state_of(name) for name in "rsdl"} == dict.fromkeys("rsdl", FENCED)
    assert leader.state_of("other") is STARTED
    assert leader.ledger.state.room("h1") == ROOM
    kept = load((await leader.store.load()).changes)
    assert kept.hosts["h1"].fenced
    assert kept.placements == leader.ledger.state.placements


async def test_a_connected_host_is_not_fenced(leader: LeaderTerm) -> None:
    await place(leader, "s", STARTED)
    leader.announce("h1", row("U-s"))
    await eventually(lambda: "h1" in leader.reconciler.ready)
    with pytest.raises(PreconditionFailed, match="h1 is connected: drain it, or stop its agent and flintlockd first"):
        await leader.operator.fence("h1")
    assert not leader.ledger.state.hosts["h1"].fenced


async def test_a_host_that_reconnects_while_the_fence_waits_is_not_fenced(
    leader: LeaderTerm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new leader has just been elected, and all living hosts are reconnecting."""
    monkeypatch.setattr(operators, "SURELY_AWAY_S", 0.2)
    fencing = asyncio.create_task(leader.operator.fence("h1"))
    await asyncio.sleep(0)
    leader.announce("h1")
    with pytest.raises(PreconditionFailed):
        await fencing
    assert not leader.ledger.state.hosts["h1"].fenced


async def test_a_host_that_reconnects_while_its_removal_waits_is_not_removed(
    leader: LeaderTerm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its microVMs that were created without Billet are known only after its inventory."""
    monkeypatch.setattr(operators, "SURELY_AWAY_S", 0.2)
    removing = asyncio.create_task(leader.operator.remove("h1", gone_for_good=False))
    await asyncio.sleep(0)
    leader.announce("h1", row("U-direct"))
    with pytest.raises(PreconditionFailed, match="h1 is connected: stop its agent"):
        await removing
    assert "h1" in leader.ledger.state.hosts


async def test_nothing_is_awarded_to_a_fenced_host_while_a_create_in_hand_ends(leader: LeaderTerm) -> None:
    """Broken on purpose (release placements in hand): the create that ends later revives its placement."""
    await place(leader, "mine", RESERVED)
    async with leader.ledger.hold("mine"):
        fencing = asyncio.create_task(leader.operator.fence("h1"))
        await eventually(lambda: leader.ledger.state.hosts["h1"].fenced)
        view = leader.ledger.state.view("h1")
        assert view
        assert view.fenced
        await place(leader, "late", STARTED, "h2")  # the loop goes on meanwhile
        assert not fencing.done()
        assert leader.state_of("mine") is RESERVED
    await fencing
    assert leader.state_of("mine") is FENCED


async def test_a_fenced_host_deletes_released_microvms_before_it_may_bid(leader: LeaderTerm) -> None:
    for name in ("s1", "s2"):
        await place(leader, name, STARTED)
    await leader.operator.fence("h1")
    leader.announce("h1", row("U-s1"), row("U-s2"), row("OWN"))
    await eventually(lambda: sorted(leader.asked) == [("h1", "U-s1"), ("h1", "U-s2")])
    assert "h1" not in leader.reconciler.ready
    leader.tell("h1", row("U-s1", state=VmState.DELETING), row("U-s2", state=VmState.DELETING), row("OWN"))
    await eventually(lambda: leader.state_of("OWN") is STARTED)
    assert "h1" not in leader.reconciler.ready
    leader.tell("h1", row("U-s2", state=VmState.DELETING), row("OWN"))
    await eventually(lambda: leader.state_of("s1") is GONE)
    assert "h1" not in leader.reconciler.ready
    leader.tell("h1", row("OWN"))
    await eventually(lambda: "h1" in leader.reconciler.ready)
    assert not leader.ledger.state.hosts["h1"].fenced
    assert {leader.state_of("OWN"), leader.state_of("s1"), leader.state_of("s2")} == {STARTED, GONE}
    assert len(leader.asked) == 2, "a microVM that is DELETING is not deleted again"


async def test_the_microvm_of_a_fenced_create_that_appears_later_is_deleted_too(leader: LeaderTerm) -> None:
    """The host was fenced while the outcome of the create was unknown; its agent still has it in hand."""
    await place(leader, "tok", RESERVED)
    await leader.operator.fence("h1")
    leader.clock.s += 100.0  # far beyond --resolve-after-s
    leader.announce("h1", creating=("tok",))
    await eventually(lambda: "h1" in leader.reconciler.seen and not leader.reconciler.seen["h1"].dirty)
    await place(leader, "marker", STARTED, "h2")
    assert leader.state_of("tok") is FENCED
    assert "h1" not in leader.reconciler.ready
    leader.tell("h1", row("LATE", token="tok"))
    await eventually(lambda: leader.asked == [("h1", "LATE")])
    leader.tell("h1")
    await eventually(lambda: "h1" in leader.reconciler.ready)


async def test_a_fenced_create_that_the_host_never_received_expires_without_a_sweep(
    leader: LeaderTerm,
) -> None:
    """Broken on purpose (expire at sweeps only): the host gets no microVMs for up to half a minute more."""
    await place(leader, "tok", RESERVED)
    await leader.operator.fence("h1")
    async with next_term(leader, resolve_after_s=20.0) as later:
        later.announce("h1", row("OWN"))
        await eventually(lambda: later.state_of("OWN") is STARTED)
        assert later.state_of("tok") is FENCED
        later.clock.s += 20.0  # monotonic; the next sweep is in 10 s
        later.tell("h1", row("OWN"))
        await eventually(lambda: "h1" in later.reconciler.ready, timeout_s=15.0)
        assert later.state_of("tok") is None


async def test_a_new_leader_keeps_the_fence(leader: LeaderTerm) -> None:
    await place(leader, "s", STARTED)
    await leader.operator.fence("h1")
    async with next_term(leader) as later:
        later.announce("h1", row("U-s"))
        await eventually(lambda: later.asked == [("h1", "U-s")])
        assert "h1" not in later.reconciler.ready
        later.tell("h1")
        await eventually(lambda: "h1" in later.reconciler.ready)


async def test_a_lost_delete_is_sent_again_and_the_placement_stays_releasing(leader: LeaderTerm) -> None:
    await place(leader, "d", RELEASING)
    leader.announce("h1", row("U-d"))
    await eventually(lambda: leader.asked == [("h1", "U-d")])
    leader.tell("h1", row("U-d"))  # lost once more
    await eventually(lambda: len(leader.asked) == 2)
    assert leader.state_of("d") is RELEASING
    leader.tell("h1", row("U-d", state=VmState.DELETING))
    leader.tell("h1")
    await eventually(lambda: leader.state_of("d") is GONE)
    assert len(leader.asked) == 2


async def test_a_failed_delete_delays_no_other_host_and_is_retried(leader: LeaderTerm) -> None:
    def refuse(host_id: str, uid: str) -> bool:
        raise Unreachable("the link broke")

    leader.answer = refuse
    await place(leader, "d", RELEASING)
    leader.announce("h1", row("U-d"))
    leader.announce("h2")
    await eventually(lambda: leader.asked)
    await eventually(lambda: set(leader.reconciler.ready) == {"h1", "h2"})
    leader.answer = lambda host_id, uid: True
    leader.tell("h1", row("U-d"))
    await eventually(lambda: len(leader.asked) == 2)


async def test_a_microvm_that_changes_while_the_store_is_slow_is_reconciled_again(
    leader: LeaderTerm, tmp_path: Path
) -> None:
    """Broken on purpose (forget updates that arrive during the write): it stays RELEASING until the next sweep."""
    await place(leader, "s", STARTED)
    other = sqlite3.connect(tmp_path / "billet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    leader.announce("h1", row("U-s", state=VmState.DELETING))
    await eventually(lambda: not leader.reconciler.seen["h1"].dirty)  # it is being written
    leader.reconciler.observed("h1", InventoryUpdate(False, [], ["U-s"], []))
    other.execute("ROLLBACK")
    other.close()
    await eventually(lambda: leader.state_of("s") is GONE, timeout_s=15.0)


async def test_a_delete_that_the_last_leader_did_not_record_is_no_loss(leader: LeaderTerm) -> None:
    """The disk was full, so it could not. Broken on purpose (nothing is known of it): the microVM is LOST."""
    await place(leader, "s", STARTED)
    await place(leader, "t", STARTED)
    await place(leader, "l", STARTED)
    async with next_term(leader) as following:
        following.announce("h1", row("U-t"), deleted=(row("U-s"), row("U-t")))  # U-t is still there
        await eventually(lambda: following.state_of("s") is GONE)
        assert following.state_of("t") is STARTED
        await eventually(lambda: following.state_of("l") is LOST)
        following.reconciler.observed("h1", InventoryUpdate(False, [], ["U-t"], []))
        await eventually(lambda: following.state_of("t") is GONE)
        await eventually(lambda: not following.reconciler.seen["h1"].deleted)


async def test_a_reservation_whose_microvm_was_deleted_before_any_leader_knew_its_uid_is_gone(
    leader: LeaderTerm,
) -> None:
    """The create's answer was lost, and its client deleted what it saw in a List. Broken on purpose (only uids are
    told): the reservation is dropped after a while, and the create that comes again makes the microVM anew."""
    await place(leader, "r", RESERVED)
    await place(leader, "other", RESERVED)
    deleted = Observed("U9", "ns", "vm", SHAPE, VmState.DELETING, "r")
    copy = Observed("U10", "ns", "copy", SHAPE, VmState.DELETING, "other")
    leader.announce("h1", deleted=(deleted, copy))
    await eventually(lambda: leader.state_of("r") is GONE)
    assert leader.ledger.state.placements["r"].uid == "U9"
    assert leader.state_of("other") is RESERVED, "a copy of its spec with its token is another microVM"


@pytest.mark.parametrize("removed", [False, True])
async def test_what_a_host_was_deleting_when_it_left_is_known_when_it_is_back(
    leader: LeaderTerm, removed: bool
) -> None:
    """Its create was in hand then, and its agent is another one now, which remembers nothing. Broken on purpose
    (forget what was shown): the reservation is dropped, and the create that comes again makes the microVM anew."""
    await place(leader, "r", RESERVED)
    deleted = Observed("U9", "ns", "vm", SHAPE, VmState.DELETING, "r")
    async with leader.ledger.hold("r"):
        leader.announce("h1", deleted)
        if removed:
            leader.reconciler.observed("h1", InventoryUpdate(False, [], ["U9"], [], [deleted]))
        leader.reconciler.left("h1")
    leader.announce("h1")
    await eventually(lambda: leader.state_of("r") is GONE)
    assert leader.ledger.state.placements["r"].uid == "U9"


async def test_a_cordon_survives_a_hello_of_its_host_at_the_same_moment(leader: LeaderTerm) -> None:
    """Both write the host's record, and neither undoes the other's change."""
    for slot in range(20):
        larger = Resources(65 + slot, 65536, 1000, 100)
        cordon = slot % 2 == 0
        cordoning = asyncio.create_task(leader.operator.cordon("h1", cordon))
        leader.reconciler.joined(Host("h1", larger, larger))
        await cordoning
        await eventually(lambda larger=larger: leader.ledger.state.hosts["h1"].allocatable == larger)
        assert leader.ledger.state.hosts["h1"].cordoned == cordon


async def test_a_host_that_is_away_too_long_is_fenced_when_fence_after_s_is_set(leader: LeaderTerm) -> None:
    await place(leader, "s", STARTED)
    async with next_term(leader, fence_after_s=30.0) as later:
        told: list[tuple[str, int]] = []  # for the audit log, which has an operator's fences from elsewhere
        later.reconciler.fenced_itself = lambda host_id, released: told.append((host_id, released))
        later.announce("h2")
        await eventually(lambda: "h2" in later.reconciler.ready)
        later.clock.s += 29.0
        later.announce("h2", row("MARK"))
        await eventually(lambda: later.state_of("MARK") is STARTED)
        assert not later.ledger.state.hosts["h1"].fenced
        later.clock.s += 1.0
        await eventually(lambda: later.state_of("s") is FENCED)
        assert not later.ledger.state.hosts["h2"].fenced
        await eventually(lambda: told == [("h1", 1)])


async def test_a_host_is_removed_when_it_is_empty_and_away(leader: LeaderTerm) -> None:
    with pytest.raises(InvalidRequest, match="there is no host 'h9'; `billet hosts` lists the hosts"):
        await leader.operator.remove("h9", False)
    leader.announce("h1")
    with pytest.raises(PreconditionFailed, match="h1 is connected: stop its agent"):
        await leader.operator.remove("h1", False)
    leader.reconciler.left("h1")
    await place(leader, "s", STARTED)
    with pytest.raises(PreconditionFailed, match="still has 1 microVM: start its agent and drain it, or fence it"):
        await leader.operator.remove("h1", True)
    await leader.operator.fence("h1")
    with pytest.raises(PreconditionFailed, match="give --gone if this machine will never come back"):
        await leader.operator.remove("h1", False)
    await leader.operator.remove("h1", True)
    assert list(leader.ledger.state.hosts) == ["h2"]
    assert leader.ledger.state.placements == {}
    kept = load((await leader.store.load()).changes)
    assert (kept.hosts, kept.placements) == (leader.ledger.state.hosts, {})


async def test_a_fence_fails_when_its_leader_is_deposed(leader: LeaderTerm) -> None:
    await place(leader, "mine", RESERVED)
    async with leader.ledger.hold("mine"):
        fencing = asyncio.create_task(leader.operator.fence("h1"))
        await eventually(lambda: leader.ledger.state.hosts["h1"].fenced)
        leader.ledger.end("another leads")
        with pytest.raises(StaleTerm, match="try again"):
            await fencing


def report(daemon_ok: bool) -> Report:
    return Report(Facts(), 0.0, 0, 0, 0, 0, daemon_ok, 2.0)


async def test_promise_4_a_reservation_is_kept_while_its_flintlockd_does_not_answer(leader: LeaderTerm) -> None:
    """It may have accepted the microVM and died, so the microVM may exist although it is not shown."""
    await place(leader, "tok", RESERVED)
    async with next_term(leader, resolve_after_s=20.0) as later:

        async def sweep(mark: str, passed_s: float = 100.0) -> None:
            later.clock.s += passed_s
            later.announce("h2", row(mark))
            await eventually(lambda: later.state_of(mark) is STARTED)

        later.announce("h1")
        await eventually(lambda: "h1" in later.reconciler.ready)
        later.reconciler.reported("h1", report(daemon_ok=False))
        for mark in ("A", "B", "C"):
            await sweep(mark)
        assert later.state_of("tok") is RESERVED
        later.reconciler.reported("h1", report(daemon_ok=True))
        await sweep("D")
        assert later.state_of("tok") is RESERVED, "only from now on does an absent microVM prove something"
        for n in range(10):
            later.reconciler.reported("h1", report(daemon_ok=True))
            await sweep(f"E{n}", 5.0)
        await eventually(lambda: later.state_of("tok") is None)


async def test_a_host_that_reconnects_before_the_fence_is_written_is_not_fenced(leader: LeaderTerm) -> None:
    await place(leader, "s", STARTED)
    amend = leader.ledger.amend

    refused = asyncio.Event()

    async def refuse(*wanted: object) -> None:
        refused.set()
        raise StoreError("the disk is full")

    leader.ledger.amend = refuse  # type: ignore[method-assign, assignment]
    fencing = asyncio.create_task(leader.operator.fence("h1"))
    await refused.wait()
    leader.announce("h1", row("U-s"))
    leader.ledger.amend = amend  # type: ignore[method-assign]
    with pytest.raises(PreconditionFailed, match="reconnected before it was fenced"):
        await fencing
    await eventually(lambda: "h1" in leader.reconciler.ready)
    assert leader.state_of("s") is STARTED
    assert leader.asked == []


async def looked_at(leader: LeaderTerm, mark: str) -> None:
    """Wait until the reconciler has looked at every host that is due. It begins a look when the last one is over."""
    for name in (mark, f"{mark}-again"):
        leader.announce("h2", row(name))
        await eventually(lambda name=name: leader.state_of(name) is STARTED)


async def test_promise_4_the_time_while_flintlockd_is_away_does_not_count_towards_a_reservations_end(
    leader: LeaderTerm,
) -> None:
    """The host was looked at before its flintlockd went away, so the reservation's time was running already.

    Broken on purpose (the clock runs on while flintlockd is away): the reservation is dropped at the first look
    after flintlockd is back, which may be about to start the microVM.
    """
    await place(leader, "tok", RESERVED)
    async with next_term(leader, resolve_after_s=20.0) as later:  # a sweep every 10 s
        later.announce("h1")
        later.reconciler.reported("h1", report(daemon_ok=True))
        await eventually(lambda: "h1" in later.reconciler.ready)
        later.clock.s += 15.0
        await looked_at(later, "running")  # from here on the reservation's time counts
        later.reconciler.reported("h1", report(daemon_ok=False))
        later.clock.s += 100.0
        await looked_at(later, "away")
        later.reconciler.reported("h1", report(daemon_ok=True))
        later.clock.s += 15.0
        await looked_at(later, "back")
        assert later.state_of("tok") is RESERVED
        for n in range(10):
            later.clock.s += 5.0
            later.reconciler.reported("h1", report(daemon_ok=True))
            await looked_at(later, f"long back {n}")
        assert later.state_of("tok") is None


async def test_what_a_host_showed_before_it_reconnected_is_not_written(leader: LeaderTerm) -> None:
    """The host's link breaks while its record is being written; it comes back without a microVM that it had shown.

    Broken on purpose (no check that the host is still the same connection): the microVM is adopted from the old
    inventory, takes room on the host, and is listed as LOST for a day.
    """
    amend, breaks = leader.ledger.amend, ["once"]

    async def and_meanwhile_it_reconnects(host_id: str, become: Callable[[Host | None], Host | None]) -> None:
        await amend(host_id, become)
        if breaks:
            breaks.pop()
            leader.reconciler.left("h1")
            leader.announce("h1")

    leader.ledger.amend = and_meanwhile_it_reconnects  # type: ignore[method-assign]  # the real one, interrupted
    leader.announce("h1", row("DELETED-SINCE"))
    await eventually(lambda: "h1" in leader.reconciler.ready)
    assert leader.state_of("DELETED-SINCE") is None


async def test_a_microvm_seen_while_its_create_is_in_hand_is_looked_at_once_more_after_the_create(
    leader: LeaderTerm,
) -> None:
    """The host shows the microVM before the create has ended, so only its token tells whose it is.

    Broken on purpose (look for the uid only): nobody looks again when the create ends without an answer, and the
    microVM stays RESERVED, without a uid, until the next sweep. The clock stands still: there is no sweep here.
    """
    await place(leader, "tok", RESERVED)
    async with leader.ledger.hold("tok"):
        leader.announce("h1", row("U-tok", token="tok"))
        await eventually(lambda: "h1" in leader.reconciler.ready)
        assert leader.state_of("tok") is RESERVED, "left to the create"
    await eventually(lambda: leader.state_of("tok") is STARTED, timeout_s=15.0)


async def test_a_host_is_not_looked_at_while_creates_work_on_all_that_it_has_told(leader: LeaderTerm) -> None:
    """Each look begins with the host's record. Looks at another host show that the reconciler went on meanwhile.

    Broken on purpose (every host that has told something is looked at, whatever works on it): two looks too many;
    (a host of which something was in hand once is not looked at again): the microVM stays RESERVED.
    """
    looks: list[str] = []
    amend = leader.ledger.amend

    async def counted(host_id: str, become: Callable[[Host | None], Host | None]) -> None:
        looks.append(host_id)
        await amend(host_id, become)

    leader.ledger.amend = counted  # type: ignore[method-assign]  # the real one, counted
    for host_id in ("h1", "h2"):
        leader.announce(host_id)
    await eventually(lambda: len(leader.reconciler.ready) == 2)
    await place(leader, "tok", RESERVED)
    looks.clear()
    async with leader.ledger.hold("tok"):
        for uid in ("OTHER-1", "OTHER-2"):
            leader.reconciler.observed("h1", InventoryUpdate(False, [row("U-tok", token="tok")], [], []))
            leader.reconciler.observed("h2", InventoryUpdate(False, [row(uid)], [], []))
            await eventually(lambda uid=uid: leader.ledger.state.of_uid(uid) is not None)
        assert looks == ["h2", "h2"]
        assert leader.state_of("tok") is RESERVED
    await eventually(lambda: leader.state_of("tok") is STARTED)
    assert looks == ["h2", "h2", "h1"]


async def test_promise_1_a_host_that_says_hello_again_may_not_bid_before_it_has_shown_everything(
    leader: LeaderTerm,
) -> None:
    """MicroVMs may have been made on it meanwhile, past Billet: their room is not in the ledger.

    Broken on purpose (it may bid on, or from its hello on): an auction counts room that is taken.
    """
    leader.announce("h1")
    await eventually(lambda: "h1" in leader.reconciler.ready)
    leader.reconciler.joined(Host("h1", ROOM, ROOM))
    assert "h1" not in leader.reconciler.ready
    await looked_at(leader, "a look without an inventory")
    assert "h1" not in leader.reconciler.ready
    leader.tell("h1", row("MADE-PAST-BILLET"))
    await eventually(lambda: "h1" in leader.reconciler.ready)
    assert leader.state_of("MADE-PAST-BILLET") is STARTED


@pytest.mark.parametrize("jump_h", [26, -26, 24 * 365 * 50])
@pytest.mark.parametrize("new_leader", [False, True])
async def test_promise_7_a_jump_of_the_wall_clock_makes_nobody_forget(
    leader: LeaderTerm, jump_h: int, new_leader: bool
) -> None:
    """LOST microVMs and those of request ids are remembered for a day, also by a new leader with another clock.

    Broken on purpose (the wall clock decides): the next sweep forgets all of them, and a request id that is sent
    again creates a second microVM.
    """
    await place(leader, "lost", LOST)
    await place(leader, "req-r", GONE)
    leader.clock.wall_s += jump_h * 3600.0
    async with next_term(leader) if new_leader else same_term(leader) as after:
        await swept(after)
        assert (after.state_of("lost"), after.state_of("req-r")) == (LOST, GONE)
        after.clock.s += 12 * 3600.0
        await swept(after)
        assert (after.state_of("lost"), after.state_of("req-r")) == (LOST, GONE)
        after.clock.s += 24 * 3600.0
        await swept(after)
        assert (after.state_of("lost"), after.state_of("req-r")) == (None, None), "it does end"


@pytest.mark.parametrize("new_leader", [False, True])
async def test_promise_4_a_deleted_microvm_is_remembered_until_its_create_comes_no_more(
    leader: LeaderTerm, new_leader: bool
) -> None:
    """Broken on purpose (the wall clock decides): the next leader, whose clock is ahead, forgets it at once."""
    await place(leader, "d", GONE)
    leader.clock.wall_s += 3600.0
    async with next_term(leader) if new_leader else same_term(leader) as after:
        await swept(after)
        after.clock.s += RESEND_S - SWEEP_S
        await swept(after)
        assert after.state_of("d") is GONE
        after.clock.s += KEEP_DELETED_S
        await swept(after)
        assert after.state_of("d") is None


async def test_promise_7_what_is_lost_after_a_jump_does_not_make_the_next_leader_forget_the_rest(
    leader: LeaderTerm,
) -> None:
    """Broken on purpose (records get the wall clock's time): the newest of them is in the future for the others."""
    leader.announce("h1", row("U-vm"))
    await place(leader, "before", LOST)
    await eventually(lambda: leader.state_of("U-vm") is STARTED)
    leader.clock.wall_s += 26 * 3600.0
    leader.tell("h1")
    await eventually(lambda: leader.state_of("U-vm") is LOST)
    async with next_term(leader) as after:
        await swept(after)
        assert (after.state_of("before"), after.state_of("U-vm")) == (LOST, LOST)


@asynccontextmanager
async def same_term(leader: LeaderTerm) -> AsyncIterator[LeaderTerm]:
    yield leader


async def swept(leader: LeaderTerm) -> None:
    """Let the reconciler sweep host h1."""
    leader.announce("h1", row("U-mark"))
    await eventually(lambda: leader.ledger.state.of_uid("U-mark") is not None)
    leader.clock.s += SWEEP_S + 1.0
    leader.ledger.wake.set()
    await looked_at(leader, f"after the sweep at {leader.clock.s}")
