"""Creates that clients cancel and send again: they join what is in progress, and never hold up the server."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from billet.api.flintlock_service import FlintlockService
from billet.api.recorded import NoRecordedAuctions
from billet.core.errors import Cancelled, Code, HostVerdict, Overloaded, Unreachable
from billet.core.fair_queue import DEFAULT_BOUNDS, Bounds
from billet.core.model import Auction, Host, Placement, PlacementState, Resources
from billet.core.state import PutHost, PutPlacement, State, apply
from billet.leader.behind import Behind
from billet.leader.create_slots import CreateSlots
from billet.leader.jobs import Caller
from billet.leader.leadership import Leadership
from billet.leader.ledger import Ledger
from billet.ports import Reply
from billet.wire import flintlock as wire
from billet.wire.headers import TOKEN
from tests.cluster.clients import create_request

ROOM = Resources(8, 16384, 100_000, 10)


class Auctions:
    """An auctioneer that abandons a create once no client waits, as the real one does before a host is told."""

    def __init__(self) -> None:
        self.begun = 0

    async def create(self, auction: Auction, request: bytes, caller: Caller) -> bytes:
        self.begun += 1
        await asyncio.sleep(0)
        if caller.gone:
            raise Cancelled("the client gave up before a host was told")
        return b"reply"

    async def deleted(self, uid: str) -> None:
        """The ledger's part of a Delete is tested in leader/test_one_writer.py."""


def service(
    auctioneer: object, state: State | None = None, hosts: object = None, bounds: Bounds = DEFAULT_BOUNDS
) -> FlintlockService:
    leadership = SimpleNamespace(
        auctioneer=auctioneer,
        ledger=SimpleNamespace(state=state or State(), amending=[]),
        slots=CreateSlots(bounds, "create"),
        hosts=hosts,
        rules=SimpleNamespace(call_timeout_s=1.0),
        reconciler=SimpleNamespace(seen={}),
    )
    return FlintlockService(cast("Leadership", leadership), NoRecordedAuctions(), "s1")


async def test_a_create_that_is_cancelled_and_sent_again_never_hangs_the_server() -> None:
    """Broken on purpose (the entry ends in a callback of the task): a resend loops on the finished task for ever."""
    auctions = Auctions()
    flintlock = service(auctions)

    async def call() -> bytes:
        return (await flintlock.unary(wire.CREATE, create_request("vm"), 5.0, {TOKEN: "t"})).payload

    async with asyncio.timeout(60):
        for steps in range(6):
            first = asyncio.create_task(call())
            for _ in range(steps):
                await asyncio.sleep(0)
            first.cancel()
            assert await call() == b"reply"
            await asyncio.gather(first, return_exceptions=True)
    assert auctions.begun >= 6


async def test_stopping_waits_for_deletes_in_flight() -> None:
    """Broken on purpose (only creates are waited for): a Delete is carried out, and its record is never written."""
    may_end = asyncio.Event()
    state = State()
    apply(state, PutHost(Host("h1", ROOM, ROOM)))
    apply(
        state,
        PutPlacement(Placement("p", "ns", "vm", Resources(1, 1024, 0, 1), "h1", PlacementState.STARTED, uid="U1")),
    )

    class SlowDelete:
        behind = Behind(cast("Ledger", None))

        async def delete(self, uid: str, method: str, request: bytes, metadata: object) -> bytes:
            await may_end.wait()
            return b""

    flintlock = service(SlowDelete(), state)
    deleting = asyncio.create_task(flintlock.unary(wire.DELETE, wire.with_uid("U1"), 5.0, {}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    deleting.cancel()  # its client has gone
    draining = asyncio.create_task(flintlock.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    may_end.set()
    await draining


@pytest.mark.parametrize("fenced", [True, False])
async def test_what_was_deleted_before_its_host_was_fenced_is_gone(fenced: bool) -> None:
    """Broken on purpose (its host is asked): UNAVAILABLE for ever, because that host is dead."""
    state = State()
    apply(state, PutHost(Host("h1", ROOM, ROOM, fenced=fenced)))
    apply(
        state,
        PutPlacement(Placement("req-x", "ns", "vm", Resources(1, 1024, 0, 1), "h1", PlacementState.GONE, uid="U1")),
    )

    asked: list[str] = []

    class Asked:
        async def call(self, host_id: str, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
            asked.append(host_id)
            return Reply(Code.OK, "", b"")

    flintlock = service(None, state, Asked())
    if not fenced:
        await flintlock.unary(wire.GET, wire.with_uid("U1"), 5.0, {})
        assert asked == ["h1"]
        return
    for method in (wire.GET, wire.DELETE):
        with pytest.raises(HostVerdict, match="U1 not found"):
            await flintlock.unary(method, wire.with_uid("U1"), 5.0, {})


class TwoHosts:
    """The host that has a microVM, and one that says OK to every call. As they are asked, the microVM is recorded."""

    def __init__(self, state: State, owner: Reply | None) -> None:
        self._state, self._owner = state, owner

    async def call(self, host_id: str, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
        apply(self._state, PutPlacement(Placement("U1", "ns", "vm", ROOM, "h2", PlacementState.STARTED, uid="U1")))
        if host_id == "h1":
            return Reply(Code.OK, "", b"a lie")
        if self._owner is None:
            raise Unreachable("h2 does not answer")
        return self._owner


@pytest.mark.parametrize("method", [wire.GET, wire.DELETE])
async def test_once_a_microvm_is_recorded_only_the_answer_of_its_host_counts(method: str) -> None:
    """Broken on purpose (the first OK counts): a host that says it has deleted another's microVM is believed."""

    async def ask(owner: Reply | None) -> bytes:
        state = State()
        for host_id in ("h1", "h2"):
            apply(state, PutHost(Host(host_id, ROOM, ROOM)))
        flintlock = service(Auctions(), state, TwoHosts(state, owner))
        return (await flintlock.unary(method, wire.with_uid("U1"), 5.0, {})).payload

    assert await ask(Reply(Code.OK, "", b"the truth")) == b"the truth"
    with pytest.raises(Unreachable):
        await ask(None)


class Held:
    """An auctioneer whose creates end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.may_end = asyncio.Event()

    async def create(self, auction: Auction, request: bytes, caller: Caller) -> bytes:
        self.begun.append(auction.id)
        await self.may_end.wait()
        return auction.id.encode()


ONE_AT_A_TIME = DEFAULT_BOUNDS._replace(in_work=1)


def creating(flintlock: FlintlockService, token: str) -> asyncio.Task[bytes]:
    async def call() -> bytes:
        return (await flintlock.unary(wire.CREATE, create_request("vm"), 5.0, {TOKEN: token})).payload

    return asyncio.create_task(call())


async def steps() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_repeated_create_joins_the_one_that_waits() -> None:
    """Broken on purpose (creates are known by their tokens once they have begun): it is carried out twice."""
    auctions = Held()
    flintlock = service(auctions, bounds=ONE_AT_A_TIME)
    calls = [creating(flintlock, token) for token in ("a", "b", "b", "b")]
    await steps()
    assert auctions.begun == ["a"]
    calls[1].cancel()  # one of three that wait for it: it goes on
    await steps()
    auctions.may_end.set()
    assert await asyncio.gather(calls[0], *calls[2:]) == [b"a", b"b", b"b"]
    assert auctions.begun == ["a", "b"]


async def test_a_create_that_all_its_clients_give_up_leaves_the_queue_and_can_be_sent_again() -> None:
    """Broken on purpose (it stays until its slot comes): the queue is full of creates that nobody waits for."""
    auctions = Held()
    flintlock = service(auctions, bounds=ONE_AT_A_TIME._replace(waiting=2))
    first = creating(flintlock, "a")
    waiting = [creating(flintlock, token) for token in ("b", "b", "c")]
    await steps()
    for call in waiting:
        call.cancel()
    await steps()
    later = [creating(flintlock, token) for token in ("b", "d")]
    await steps()
    auctions.may_end.set()
    assert await asyncio.gather(first, *later) == [b"a", b"b", b"d"]
    assert auctions.begun == ["a", "b", "d"]


async def test_what_an_earlier_leader_has_begun_does_not_wait() -> None:
    """Broken on purpose (it waits like a new one): with a full queue its client is told that nothing was created."""
    state = State()
    apply(state, PutPlacement(Placement("old", "ns", "vm", ROOM, "h1", PlacementState.RESERVED)))
    auctions = Held()
    flintlock = service(auctions, state, bounds=ONE_AT_A_TIME._replace(waiting=1))
    calls = [creating(flintlock, token) for token in ("a", "b", "c", "old")]
    await steps()
    assert auctions.begun == ["a", "old"]
    auctions.may_end.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [answers[0], answers[1], answers[3]] == [b"a", b"b", b"old"]
    assert isinstance(answers[2], Overloaded)
