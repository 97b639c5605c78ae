"""Deletes at the host: a second one makes flintlockd spin, so the agent looks first; a lost one is sent again."""

from __future__ import annotations

import asyncio

import pytest

from billet.core.errors import Code
from billet.core.model import Observed
from billet.fake.faults import Fault, FaultKind
from billet.fake.server import FakeFlintlockd
from billet.host import flintlockd
from billet.host.agent import Agent
from billet.host.verdicts import passes, why_no_list
from billet.ports import Created, Reply
from billet.wire import flintlock as wire
from tests.cluster.clients import create_request
from tests.host.test_agent import Pair, order, pair  # noqa: F401

TERM = 5


async def delete(agent: Agent, uid: str) -> Reply:
    return await agent.call(TERM, wire.DELETE, wire.with_uid(uid), 10.0)


async def created(agent: Agent, token: str) -> str:
    outcome = await agent.create(order(token))
    assert isinstance(outcome, Created)
    return outcome.uid


def spinning(fake: FakeFlintlockd) -> list[str]:
    found: list[str] = fake.stats()["spinning"]
    return found


async def test_a_repeated_delete_is_answered_and_not_passed_on(pair: Pair) -> None:  # noqa: F811
    """Before: 36 double Deletes became 53 calls, and 14 microVMs for which flintlockd spun."""
    agent, fake = pair
    await created(agent, "01FIRST")  # its boot never ends, so what follows stays DELETING
    uid = await created(agent, "01TWICE")
    assert [(await delete(agent, uid)).code for _ in range(3)] == [Code.OK] * 3
    assert spinning(fake) == []


async def test_deletes_at_the_same_time_are_one(pair: Pair) -> None:  # noqa: F811
    agent, fake = pair
    await created(agent, "01FIRST")
    uid = await created(agent, "01TWICE")
    replies = await asyncio.gather(*(delete(agent, uid) for _ in range(5)))
    assert [reply.code for reply in replies] == [Code.OK] * 5
    assert spinning(fake) == []


async def test_a_delete_that_the_agent_did_not_see_counts_too(pair: Pair) -> None:  # noqa: F811
    """Sent to flintlockd directly, or by an earlier agent: the inventory still says PENDING."""
    agent, fake = pair
    await created(agent, "01FIRST")
    uid = await created(agent, "01DIRECT")
    fake.vms.delete(wire.with_uid(uid))
    assert (await delete(agent, uid)).code == Code.OK
    assert spinning(fake) == []


async def test_a_lost_delete_is_sent_again(pair: Pair) -> None:  # noqa: F811
    agent, fake = pair
    uid = await created(agent, "01LOST")
    await delete(agent, uid)
    fake.records[uid].vm.status.state = 1  # CREATED: the end of its boot was saved after the Delete
    assert (await delete(agent, uid)).code == Code.OK
    assert fake.stats()["by_state"] == {"DELETING": 1}


async def test_a_delete_of_an_unknown_uid_has_flintlockds_words_for_a_delete(pair: Pair) -> None:  # noqa: F811
    agent, _ = pair
    assert (await delete(agent, "X")).text == wire.unknown_uid(wire.DELETE, "X")


async def test_a_list_race_is_repeated_and_does_not_make_the_host_unknown(
    pair: Pair,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before: one such List, and the host did not bid for a while."""
    monkeypatch.setattr(flintlockd, "RACE_PAUSE_S", 0.0)
    agent, fake = pair
    fake.faults.add(Fault(FaultKind.LIST_RACE, count=flintlockd.RACE_TRIES - 1))
    assert await agent.refresh()
    fake.faults.add(Fault(FaultKind.LIST_RACE, count=flintlockd.RACE_TRIES - 1))
    assert (await agent.call(TERM, wire.LIST, b"", 10.0)).code == Code.OK
    assert fake.stats()["faults"] == []


async def test_the_report_says_why_a_host_lists_nothing(pair: Pair) -> None:  # noqa: F811
    agent, fake = pair
    fake.vms.create(create_request("a/b"))
    assert not await agent.refresh()
    (why, *_) = agent.report().machine.lacks
    assert f"leases rm --sync flintlock/ns/a/b/{next(iter(fake.records))}" in why
    fake.records.clear()
    assert await agent.refresh()
    assert agent.report().machine.lacks == ()


def test_only_a_race_passes() -> None:
    assert passes(Code.UNKNOWN, "reading content sha256:1: failed reading from content store")
    assert passes(Code.UNKNOWN, "getting containerd writer: ref x locked for 1ms")
    assert not passes(Code.UNAVAILABLE, "locked for")
    assert not passes(Code.UNKNOWN, "connection refused")


def test_the_cure_is_safe_to_paste() -> None:
    text = "getting microvm spec: unexpected vmid format: ns/a/$(reboot)/U"
    assert "flintlock/ns/a/$(reboot)/U'" in why_no_list(Code.UNKNOWN, text, "own")
    assert "-n own" in why_no_list(Code.UNKNOWN, text, "own")
    assert why_no_list(Code.UNAVAILABLE, text, "own") == ""
    assert "no such thing" in why_no_list(Code.UNKNOWN, "no such thing", "own")


def test_an_accepted_delete_is_shown_though_flintlockd_has_lost_it() -> None:
    made = wire.field(1, wire.types.MicroVM(version=2, spec={"uid": "U1"}, status={"state": 1}).SerializeToString())
    other = wire.field(1, wire.types.MicroVM(version=2, spec={"uid": "U2"}, status={"state": 1}).SerializeToString())
    shown: list[Observed] = wire.read_list(wire.deleting_in(made + other, {"U1"}))
    assert [row.state.name for row in shown] == ["DELETING", "CREATED"]
