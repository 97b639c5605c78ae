"""A create's reply goes out when the host has the microVM. The record of that is written behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from billet.api.flintlock_service import FlintlockService
from billet.core.errors import DeleteNotRecorded, StaleTerm
from billet.core.model import PlacementState
from billet.core.state import Change, PutPlacement
from billet.leader import behind
from billet.ports import Created, Reply
from billet.wire import flintlock as wire
from billet.wire.headers import TOKEN
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.cluster.clients import create_request
from tests.leader.test_one_writer import RELEASING, RESERVED, STARTED, OneHost, Rig, rig  # noqa: F401
from tests.leader.test_reconciler import eventually, next_term, row


class Acknowledged:
    """One create on h2, whose reply was given while the store takes no more than its reservation."""

    def __init__(self, rig: Rig) -> None:  # noqa: F811
        self.rig, self.leader = rig, rig.leader
        self.hosts = OneHost(Created("U2", b"reply"))
        self.flintlock: FlintlockService = rig.flintlock(self.hosts)

    async def created(self, refuses: bool = False) -> Acknowledged:
        """Create it. The store is slow from then on, or refuses everything."""

        async def reserved(changes: Sequence[Change]) -> None:
            self.rig.gate.after = None
            self.rig.gate.refuses = refuses
            if not refuses:
                self.rig.gate.open.clear()

        await self.rig.connect("h1", "h2")
        self.rig.gate.after = reserved
        assert await self.create() == b"reply"
        return self

    async def create(self) -> bytes:
        async with asyncio.timeout(10.0):
            return (await self.flintlock.unary(wire.CREATE, create_request("vm"), 5.0, {TOKEN: "req-t"})).payload

    async def delete(self) -> bytes:
        return (await self.flintlock.unary(wire.DELETE, wire.with_uid("U2"), 5.0, {})).payload

    def store_goes_on(self) -> None:
        self.rig.gate.refuses = False
        self.rig.gate.open.set()

    async def stored(self) -> PlacementState:
        return await self.rig.stored("req-t")


async def test_the_reply_does_not_wait_for_the_second_commit(rig: Rig) -> None:  # noqa: F811
    """Broken on purpose (it waits, as before): the client waits for a store that is slow, to no use."""
    one = await Acknowledged(rig).created()
    assert one.leader.state_of("req-t") is STARTED, "memory knows it"
    assert await one.stored() is RESERVED
    one.store_goes_on()
    await eventually(lambda: not one.leader.ledger.in_hand)
    assert await one.stored() is STARTED


async def test_a_get_right_after_the_reply_goes_to_its_host_only(rig: Rig) -> None:  # noqa: F811
    """Broken on purpose (memory learns the uid with the commit): every host of the fleet is asked."""
    one = await Acknowledged(rig).created()
    await one.flintlock.unary(wire.GET, wire.with_uid("U2"), 5.0, {})
    assert one.hosts.calls == [(wire.GET, "h2")]


async def test_the_same_request_at_once_finds_the_microvm(rig: Rig) -> None:  # noqa: F811
    """Broken on purpose (memory learns the uid with the commit): it is ordered again."""
    one = await Acknowledged(rig).created()
    assert await one.create() == b"reply"
    assert (one.hosts.orders, one.hosts.calls) == (["h2"], [(wire.GET, "h2")])


async def test_promise_4_a_delete_waits_for_the_record_of_its_create(rig: Rig) -> None:  # noqa: F811
    """If leader and agent both end, nobody would know that the request has had its microVM.

    Broken on purpose (it is passed on at once): the host deletes what the store has no uid of.
    """
    one = await Acknowledged(rig).created()
    deleting = asyncio.create_task(one.delete())
    await asyncio.sleep(0.05)
    assert one.hosts.calls == []
    one.store_goes_on()
    assert await deleting == b""
    assert one.leader.state_of("req-t") is await one.stored() is RELEASING


async def test_promise_3_a_delete_that_waited_for_a_term_that_ended_goes_to_the_next_leader(rig: Rig) -> None:  # noqa: F811
    """Broken on purpose (it waits for the write, whatever becomes of it): the host is told by a server that has
    thrown its state away."""
    one = await Acknowledged(rig).created()
    deleting = asyncio.create_task(one.delete())
    await asyncio.sleep(0.05)
    one.leader.ledger.end("another leads")
    one.store_goes_on()
    with pytest.raises(StaleTerm, match="another leads"):
        await deleting
    assert one.hosts.calls == []


async def test_promise_4_the_next_leader_finds_by_its_token_what_was_not_written(rig: Rig) -> None:  # noqa: F811
    """The leader ends between reply and commit. Broken on purpose (reservations of earlier terms are dropped): the
    microVM is adopted, and the same request makes another one."""
    one = await Acknowledged(rig).created()
    async with next_term(one.leader) as leader:
        assert leader.state_of("req-t") is RESERVED
        leader.announce("h2", row("U2", "req-t"))
        await eventually(lambda: leader.state_of("req-t") is STARTED)
        found = leader.ledger.state.of_uid("U2")
        assert found
        assert (found.id, found.adopted) == ("req-t", False)
        assert await one.stored() is STARTED
        one.store_goes_on()
        await eventually(lambda: not one.leader.ledger.in_hand)


async def test_promise_3_a_leader_whose_term_has_ended_acknowledges_nothing(rig: Rig) -> None:  # noqa: F811
    """The host's answer comes after the end of the term. Broken on purpose (the ledger takes it): acknowledged by a
    server that has thrown its state away, while the next leader may have given the reservation up."""
    one = Acknowledged(rig)
    await rig.connect("h1", "h2")
    one.hosts.may_answer.clear()
    creating = asyncio.create_task(one.create())
    await eventually(lambda: one.hosts.orders)
    one.leader.ledger.end("another leads")
    one.hosts.may_answer.set()
    with pytest.raises(StaleTerm, match="another leads"):
        await creating
    assert one.leader.state_of("req-t") is RESERVED


async def test_what_the_store_refuses_is_written_as_soon_as_it_takes_it(
    rig: Rig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken on purpose (one attempt): the store says RESERVED as long as this leader leads."""
    monkeypatch.setattr(behind, "RETRY_S", 0.01)
    with capture_logs() as logs:
        one = await Acknowledged(rig).created(refuses=True)
        await eventually(lambda: [line["event"] for line in logs if "uid" in line])
        one.leader.tell("h2")  # it vanishes from the host meanwhile
        await asyncio.sleep(0.05)
        assert one.leader.state_of("req-t") is STARTED, "not LOST: it stays in hand"
        assert await one.stored() is RESERVED
        one.leader.tell("h2", row("U2", "req-t"))
        one.store_goes_on()
        await eventually(lambda: not one.leader.ledger.in_hand)
    assert await one.stored() is STARTED
    told = [(line["event"], line["uid"], line["host"]) for line in logs if "uid" in line]
    assert told == [("create not recorded, retrying", "U2", "h2"), ("create recorded", "U2", "h2")]


async def test_promise_4_no_late_record_overwrites_a_delete(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The store refuses both records, and takes that of a second Delete before it is offered these again.

    Broken on purpose (`keep` writes what was noted): the store says STARTED, and after a crash nobody knows of the
    Delete that was acknowledged.
    """
    monkeypatch.setattr(behind, "RETRY_S", 0.3)
    one = await Acknowledged(rig).created(refuses=True)
    with pytest.raises(DeleteNotRecorded):
        await one.delete()
    one.store_goes_on()
    assert await one.delete() == b""
    await eventually(lambda: not one.leader.ledger.in_hand)
    assert one.leader.state_of("req-t") is await one.stored() is RELEASING


async def test_a_fence_declares_gone_what_was_just_acknowledged(
    rig: Rig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken on purpose (the record has nothing in hand, and `keep` writes what was noted): it overwrites the fence,
    and the microVM that the client has created elsewhere by then runs here as well."""
    monkeypatch.setattr(behind, "RETRY_S", 0.3)
    one = await Acknowledged(rig).created(refuses=True)
    await asyncio.sleep(0.05)
    one.leader.reconciler.left("h2")
    one.store_goes_on()
    await one.leader.operator.fence("h2")
    await eventually(lambda: not one.leader.ledger.in_hand)
    await one.flintlock.drain()
    assert one.leader.state_of("req-t") is await one.stored() is PlacementState.FENCED


async def test_a_server_that_stops_waits_for_the_records_behind_its_replies(rig: Rig) -> None:  # noqa: F811
    """Broken on purpose (drain waits for calls only): the next leader has to ask a host for what this one knew."""
    one = await Acknowledged(rig).created()
    draining = asyncio.create_task(one.flintlock.drain())
    await asyncio.sleep(0.05)
    assert not draining.done()
    one.store_goes_on()
    await draining
    assert await one.stored() is STARTED


async def test_a_server_that_stops_does_not_wait_for_ever_for_a_store_that_refuses(
    rig: Rig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken on purpose (no limit): it is killed in the end, with whatever else it does."""
    monkeypatch.setattr(behind, "STOP_S", 0.01)
    one = await Acknowledged(rig).created(refuses=True)
    await one.flintlock.drain()
    assert await one.stored() is RESERVED


@pytest.mark.parametrize("state", [PlacementState.RELEASING, PlacementState.GONE])
async def test_an_answer_that_is_older_than_the_delete_does_not_say_created(
    rig: Rig,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    state: PlacementState,
) -> None:
    """The host answers a Get, and the answer is late: meanwhile the microVM is deleted, and is gone from the host.

    Broken on purpose (only what is RELEASING by then, as it was): a deleted microVM is CREATED.
    """
    one = await Acknowledged(rig).created()
    one.store_goes_on()
    await eventually(lambda: not one.leader.ledger.in_hand)
    created = types.MicroVM(spec=types.MicroVMSpec(uid="U2"))
    created.status.state = types.MicroVMStatus.CREATED

    async def late(host_id: str, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
        placement = one.leader.ledger.state.placements["req-t"]
        await one.leader.ledger.finish([PutPlacement(replace(placement, state=state))])
        return Reply(0, "", rpc.GetMicroVMResponse(microvm=created).SerializeToString())

    monkeypatch.setattr(one.hosts, "call", late)
    answer = await one.flintlock.unary(wire.GET, wire.with_uid("U2"), 5.0, {})
    shown = rpc.GetMicroVMResponse.FromString(answer.payload).microvm
    assert shown.status.state == types.MicroVMStatus.DELETING
