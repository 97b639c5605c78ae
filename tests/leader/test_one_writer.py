"""One writer for each placement: what the reconciler writes and what a create or delete does never cross."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from billet.api.flintlock_service import FlintlockService
from billet.api.recorded import NoRecordedAuctions
from billet.core.errors import Code, CreateOutcomeUnknown, DeleteNotRecorded, StoreError
from billet.core.fair_queue import DEFAULT_BOUNDS
from billet.core.model import Auction, Bid, Facts, Host, Observed, PlacementState, VmState
from billet.core.report import Report
from billet.core.state import Change, PutHost, PutPlacement, load
from billet.leader import operator as operators
from billet.leader.auctioneer import Auctioneer
from billet.leader.create_slots import CreateSlots
from billet.leader.jobs import Caller
from billet.leader.leadership import Leadership
from billet.leader.ledger import Ledger
from billet.leader.rules import Rules
from billet.ports import Created, CreateOptions, Hosts, Leader, Outcome, Reply, Unknown
from billet.process import SystemClock
from billet.store.sqlite import SqliteStore
from billet.wire import flintlock as wire
from billet.wire.headers import TOKEN
from tests.cluster.clients import create_request
from tests.leader.test_auctioneer import bids
from tests.leader.test_reconciler import ROOM, SHAPE, LeaderTerm, eventually, place, row

REPORT = Report(Facts(), 0.0, 0, 0, 0, 0, daemon_ok=True, interval_s=2.0)
RESERVED, STARTED, RELEASING = PlacementState.RESERVED, PlacementState.STARTED, PlacementState.RELEASING


class Gate:
    """A store whose commits wait while the gate is shut, and may be refused."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.open = asyncio.Event()
        self.open.set()
        self.refuses = False
        self.after: Callable[[Sequence[Change]], Awaitable[None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, term: Any, changes: Sequence[Change], within_s: float = 0.0) -> int:
        await self.open.wait()
        if self.refuses:
            raise StoreError("etcd is out of space")
        revision = await self._store.commit(term, changes)
        if self.after:
            await self.after(changes)
        return revision


class OneHost:
    """ports.Hosts of which only h2 bids. It records the orders, and answers them from a list."""

    def __init__(self, *answers: Outcome) -> None:
        self.orders: list[str] = []
        self.calls: list[tuple[str, str]] = []  # method and host
        self.empty: set[str] = set()  # hosts without any microVM
        self.may_answer = asyncio.Event()  # creates
        self.may_answer.set()
        self._answers = list(answers)

    def instance(self, host_id: str) -> str:
        return "one"

    async def call_for_bids(self, auction: Auction, host_ids: Sequence[str], wait: bool = False) -> list[Bid]:
        return [bids(host_id, auction) for host_id in host_ids if host_id == "h2"]

    async def create(
        self, host_id: str, auction: Auction, request: bytes, timeout_s: float, options: CreateOptions
    ) -> Outcome:
        self.orders.append(host_id)
        await self.may_answer.wait()
        return self._answers.pop(0)

    async def get(self, host_id: str, uid: str, timeout_s: float) -> Reply:
        self.calls.append((wire.GET, host_id))
        return Reply(Code.OK, "", b"reply")

    async def call(self, host_id: str, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
        self.calls.append((method, host_id))
        return Reply(Code.UNKNOWN, "not found", b"") if host_id in self.empty else Reply(0, "", b"")


class Rig(NamedTuple):
    """A leader whose store the test can hold up."""

    leader: LeaderTerm
    gate: Gate

    def auctioneer(self, hosts: OneHost) -> Auctioneer:
        ledger, ready = self.leader.ledger, self.leader.reconciler.ready
        return Auctioneer(ledger, hosts, ready, Rules(), SystemClock(), lambda recorder: None)  # type: ignore[arg-type]

    def flintlock(self, hosts: OneHost) -> FlintlockService:
        """What clients call. h1 has no microVM."""
        hosts.empty.add("h1")
        term = Leadership(
            self.leader.ledger, self.auctioneer(hosts), self.leader.reconciler, cast("Hosts", hosts), Rules(),
            cast("Any", None), cast("Any", None), cast("Any", None), CreateSlots(DEFAULT_BOUNDS, "create"),
            cast("Any", None),
        )  # fmt: skip
        return FlintlockService(term, NoRecordedAuctions(), "s1")

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and the reconciler look."""
        self.leader.clock.s += seconds
        self.leader.ledger.wake.set()
        await asyncio.sleep(0.05)

    async def connect(self, *host_ids: str) -> None:
        for host_id in host_ids:
            self.leader.announce(host_id)
        await eventually(lambda: len(self.leader.reconciler.ready) == len(host_ids))

    async def stored(self, placement_id: str) -> PlacementState:
        return load((await self.gate.load()).changes).placements[placement_id].state


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(operators, "SURELY_AWAY_S", 0.0)  # the clock stands still unless a test moves it
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    term = await store.campaign(Leader("a", "", ""))
    gate = Gate(store)
    leader = LeaderTerm(store, Ledger(load((await store.load()).changes), gate, term))  # type: ignore[arg-type]
    await leader.ledger.finish([PutHost(Host(name, ROOM, ROOM)) for name in ("h1", "h2")])
    running = asyncio.create_task(leader.reconciler.run())
    yield Rig(leader, gate)
    gate.open.set()
    leader.ledger.end("the test is over")
    await running
    await store.close()


def caller() -> Caller:
    waiting = Caller(5.0)
    waiting.waiting = 1
    return waiting


async def test_promise_4_a_create_sent_again_waits_for_the_end_of_its_reservation(rig: Rig) -> None:
    """Broken on purpose (hold does not wait): its host is asked while the reservation ends, then a second host."""
    leader, gate = rig
    hosts = OneHost(Unknown("the answer was lost"), Created("U2", b"reply"))
    await rig.connect("h1", "h2")
    await place(leader, "req-r", RESERVED)
    await rig.pass_time(31.0)
    gate.open.clear()
    await rig.pass_time(61.0)  # nobody has worked on the reservation for a minute: its end waits for the store
    creates = rig.auctioneer(hosts)
    first = asyncio.create_task(creates.create(Auction("req-r", "ns", "vm", SHAPE), b"", caller()))
    await asyncio.sleep(0.05)
    assert hosts.orders == []
    gate.open.set()
    with suppress(CreateOutcomeUnknown):
        await first
    assert leader.state_of("req-r") is RESERVED
    assert await creates.create(Auction("req-r", "ns", "vm", SHAPE), b"", caller()) == b"reply"
    assert hosts.orders == ["h2", "h2"]


async def test_a_reservation_in_hand_keeps_its_room_while_the_store_is_slow(rig: Rig) -> None:
    """Broken on purpose (hold does not wait): room and reservation are gone while a create works with them."""
    leader, gate = rig
    await rig.connect("h1")
    await place(leader, "r", RESERVED)
    await rig.pass_time(31.0)
    gate.open.clear()
    await rig.pass_time(61.0)

    async def work() -> PlacementState | None:
        async with leader.ledger.hold("r"):
            before = leader.state_of("r")
            await asyncio.sleep(0.05)
            assert leader.state_of("r") is before
            return before

    working = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    gate.open.set()
    assert await working is None


async def test_idle_time_begins_anew_when_a_create_lets_go_of_its_reservation(rig: Rig) -> None:
    """Broken on purpose (idle since the first sweep): given back 2.5 s after a create finished with it."""
    leader, _ = rig
    await rig.connect("h1")
    await place(leader, "r", RESERVED)
    await rig.pass_time(31.0)
    await rig.pass_time(30.5)
    async with leader.ledger.hold("r"):
        await rig.pass_time(28.0)
    await rig.pass_time(2.5)
    await rig.pass_time(31.0)
    assert leader.state_of("r") is RESERVED
    await rig.pass_time(31.0)
    await rig.pass_time(31.0)
    assert leader.state_of("r") is None


async def test_idle_time_does_not_count_while_the_host_is_away(rig: Rig) -> None:
    """Broken on purpose (idle since before it left): given back at the first sweep after the host is back."""
    leader, _ = rig
    await rig.connect("h1")
    await place(leader, "r", RESERVED)
    await rig.pass_time(31.0)
    leader.reconciler.left("h1")
    await rig.pass_time(100.0)
    await rig.connect("h1")
    await rig.pass_time(31.0)
    assert leader.state_of("r") is RESERVED


async def test_idle_time_does_not_count_while_the_agent_works_on_the_create(rig: Rig) -> None:
    leader, _ = rig
    await rig.connect("h1")
    await place(leader, "r", RESERVED)
    await rig.pass_time(31.0)
    leader.tell("h1", creating=("r",))
    leader.tell("h1")
    await rig.pass_time(31.0)
    assert leader.state_of("r") is RESERVED


async def test_a_fence_overwrites_nothing_that_was_acknowledged_while_it_was_written(rig: Rig) -> None:
    """Broken on purpose (creates do not wait for the fence): a microVM that its client knows is declared gone."""
    leader, gate = rig
    for n in range(100):
        await place(leader, f"a{n:03}", STARTED)
    await place(leader, "z", RESERVED)
    acknowledged = asyncio.Event()

    async def resume() -> None:
        async with leader.ledger.hold("z"):
            known = leader.ledger.state.placements["z"]
            if known.state is RESERVED:
                await leader.ledger.finish([PutPlacement(replace(known, state=STARTED, uid="U-z"))])
                acknowledged.set()

    resuming: list[asyncio.Task[None]] = []

    async def meanwhile(changes: Sequence[Change]) -> None:
        if not resuming and any(isinstance(change, PutPlacement) for change in changes):
            resuming.append(asyncio.create_task(resume()))
            await asyncio.sleep(0.01)

    gate.after = meanwhile
    await leader.operator.fence("h1")
    await asyncio.gather(*resuming)
    assert not acknowledged.is_set()
    assert leader.state_of("z") is await rig.stored("z") is PlacementState.FENCED


async def test_two_deletes_that_the_store_refuses_leave_the_ledger_as_the_store_is(rig: Rig) -> None:
    """Broken on purpose (each undoes its own change): the ledger is left at RELEASING, the store at STARTED."""
    leader, gate = rig
    await place(leader, "s", STARTED)
    uid = leader.ledger.state.placements["s"].uid
    creates = rig.auctioneer(OneHost())
    gate.refuses = True
    outcomes = await asyncio.gather(
        creates.delete(uid, "Delete", b""), creates.delete(uid, "Delete", b""), return_exceptions=True
    )
    assert all(isinstance(outcome, DeleteNotRecorded) for outcome in outcomes)
    assert leader.state_of("s") is await rig.stored("s") is STARTED
    gate.refuses = False
    await creates.delete(uid, "Delete", b"")
    assert leader.state_of("s") is await rig.stored("s") is RELEASING


async def test_promise_4_a_delete_that_overtakes_the_answer_of_its_create_is_kept(rig: Rig) -> None:
    """A client lists the host's new microVM and deletes it, while the host's answer is on its way to the leader.

    Broken on purpose (the ledger forgets such Deletes): the ledger says STARTED, and when flintlockd loses the Delete
    by the end of the boot, nobody sends it again.
    """
    leader, _ = rig
    await rig.connect("h2")
    hosts = OneHost(Created("U2", b"reply"))
    hosts.may_answer.clear()
    flintlock = rig.flintlock(hosts)
    creating = asyncio.create_task(flintlock.unary(wire.CREATE, create_request("vm"), 5.0, {TOKEN: "t"}))
    await eventually(lambda: hosts.orders == ["h2"])
    assert (await flintlock.unary(wire.DELETE, wire.with_uid("U2"), 5.0, {})).payload == b""
    hosts.may_answer.set()
    assert (await creating).payload == b"reply"
    await flintlock.drain()
    assert leader.state_of("t") is await rig.stored("t") is RELEASING


async def test_promise_4_a_delete_of_a_microvm_whose_create_is_unknown_is_kept(rig: Rig) -> None:
    """A client finds the microVM in a List, and deletes it before the leader has learnt of it.

    Broken on purpose (the ledger forgets such Deletes): STARTED, once the host shows that it has lost the Delete.
    """
    leader, _ = rig
    await rig.connect("h2")
    hosts = OneHost(Unknown("the answer was lost"))
    flintlock = rig.flintlock(hosts)
    with pytest.raises(CreateOutcomeUnknown):
        await flintlock.unary(wire.CREATE, create_request("vm"), 5.0, {TOKEN: "t"})
    await flintlock.unary(wire.DELETE, wire.with_uid("U2"), 5.0, {})
    leader.announce("h2", row("U2", "t"))
    await eventually(lambda: leader.state_of("t") is not RESERVED)
    assert leader.state_of("t") is await rig.stored("t") is RELEASING


async def test_idle_time_does_not_count_while_flintlockd_hangs(rig: Rig) -> None:
    """Broken on purpose (time counts without reports): given back while flintlockd still holds the create."""
    leader, _ = rig
    await rig.connect("h1")
    await place(leader, "r", RESERVED)
    for _ in range(4):  # its agent waits for a List, and reports nothing
        leader.reconciler.reported("h1", REPORT)
        await rig.pass_time(31.0)
    assert leader.state_of("r") is RESERVED
    for _ in range(40):
        leader.reconciler.reported("h1", REPORT)
        await rig.pass_time(5.0)
    assert leader.state_of("r") is None


async def test_a_host_cannot_take_over_a_microvm_by_its_answer_to_a_create(rig: Rig) -> None:
    """Broken on purpose (every uid is believed): Get and Delete of the other microVM go to this host, and when its
    placement ends, the other's uid is "not found"."""
    await place(rig.leader, "s", STARTED)
    rig.leader.announce("h1", Observed("U-s", "ns", "vm", SHAPE, VmState.CREATED))
    rig.leader.announce("h2")
    await eventually(lambda: len(rig.leader.reconciler.ready) == 2)
    create = rig.auctioneer(OneHost(Created("U-s", b"mine"))).create(
        Auction("new", "ns", "new", SHAPE), b"", caller()
    )
    with pytest.raises(CreateOutcomeUnknown, match="which belongs to another host or create"):
        await create
    owner = rig.leader.ledger.state.of_uid("U-s")
    assert owner
    assert (owner.id, owner.host) == ("s", "h1")


async def test_a_host_that_names_the_creates_of_another_one_keeps_no_reservation_there(rig: Rig) -> None:
    """Broken on purpose (idle time starts anew whoever speaks): one host keeps the reservations of all others."""
    leader, _ = rig
    await rig.connect("h1", "h2")
    await place(leader, "r", RESERVED)
    for _ in range(8):
        await rig.pass_time(31.0)
        leader.tell("h2", creating=("r",))
    await rig.pass_time(31.0)
    assert leader.state_of("r") is None
