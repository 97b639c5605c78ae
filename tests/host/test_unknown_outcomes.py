"""Promise 4 at the host: an order whose outcome is unknown stays so until flintlockd itself has shown otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from billet.adapters.flintlock import GrpcFlintlock
from billet.core.errors import Code
from billet.core.model import Host
from billet.fake.server import FakeFlintlockd
from billet.fake.settings import FakeConfig
from billet.host import flintlockd
from billet.host.agent import Agent, Measured
from billet.host.orders import RESOLVE_S
from billet.ports import Created, Ended, Outcome, Reply, Unknown
from billet.wire import flintlock as wire
from tests.cluster.clients import create_request
from tests.host.test_agent import ROOM, RecordingUplink, order


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now_s(self) -> float:
        return 1e9 + self.s

    def monotonic_s(self) -> float:
        return self.s


class Cuttable:
    """ports.Flintlock whose connection the test cuts: at once, or when flintlockd has taken a create."""

    def __init__(self, inner: GrpcFlintlock) -> None:
        self._inner = inner
        self.cut = False
        self.cut_after_create = False
        self.loses: set[str] = set()  # methods whose replies are lost

    async def ready(self, timeout_s: float) -> bool:
        return not self.cut

    async def call(self, method: str, request: bytes, timeout_s: float, *more: object) -> Reply:
        if self.cut:
            return Reply(Code.UNAVAILABLE, "down", b"")
        reply = await self._inner.call(method, request, timeout_s)
        if method in self.loses:
            return Reply(Code.UNAVAILABLE, "socket closed", b"")
        if self.cut_after_create and method == wire.CREATE:
            self.cut = True
            return Reply(Code.UNAVAILABLE, "socket closed", b"")
        return reply

    stream = None

    async def close(self) -> None:
        await self._inner.close()


class Rig:
    """One flintlockd, its agent, and the clock of both."""

    def __init__(self, instance: str, fake: FakeFlintlockd) -> None:
        self.fake = fake
        self.clock = HandClock()
        self.flintlock = Cuttable(GrpcFlintlock(fake.grpc_address))
        self.agent = self.new_agent(instance)

    def new_agent(self, instance: str) -> Agent:
        agent = Agent(
            Host("h1", ROOM, ROOM),
            self.flintlock,
            wire,
            lambda: Measured(0.0, 0, 0),
            self.clock,
            0.2,
            instance=instance,
        )
        agent.uplink = RecordingUplink()
        return agent

    async def lost_create(self, token: str) -> None:
        """flintlockd takes the create and goes away before its reply arrives."""
        assert await self.agent.refresh()
        self.flintlock.cut_after_create = True
        assert isinstance(await self.agent.create(order(token)), Unknown)
        self.flintlock.cut_after_create = False
        assert self.fake.stats()["creates_accepted"] == 1
        assert not await self.agent.refresh()

    async def sent_again(self, token: str, instance: str = "this") -> Outcome:
        return await self.agent.create(order(token, instance=instance, resent=True))


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(flintlockd, "LOOKUP_PAUSE_S", 0.0)
    fake = FakeFlintlockd(
        FakeConfig(grpc_endpoint="127.0.0.1:0", control_endpoint="", boot_mean_s=0.0, pull_mean_s=0.0),
        die=lambda code: None,
    )
    await fake.start()
    made = Rig("this", fake)
    yield made
    await made.flintlock.close()
    await fake.stop()


async def test_promise_4_an_outcome_stays_unknown_while_flintlockd_is_away(rig: Rig) -> None:
    """Broken on purpose (time counts while flintlockd is away): after a minute another host is asked."""
    await rig.lost_create("01LOST")
    for _ in range(5):
        rig.clock.s += RESOLVE_S + 1
        assert not await rig.agent.refresh()
        assert isinstance(await rig.sent_again("01LOST"), Unknown)
    rig.flintlock.cut = False
    assert await rig.agent.refresh()
    assert isinstance(await rig.sent_again("01LOST"), Created)
    assert rig.fake.stats()["creates_accepted"] == 1


async def test_promise_4_a_restarted_agent_does_not_vouch_for_a_flintlockd_it_has_not_seen(rig: Rig) -> None:
    """Broken on purpose (the count begins with the process): after a minute another host is asked."""
    await rig.lost_create("01LOST")
    rig.agent = rig.new_agent("another")
    rig.clock.s += RESOLVE_S + 1
    assert isinstance(await rig.sent_again("01LOST"), Unknown)
    rig.flintlock.cut = False
    assert await rig.agent.refresh()
    assert isinstance(await rig.sent_again("01LOST"), Created)
    assert rig.fake.stats()["creates_accepted"] == 1


async def test_a_create_that_flintlockd_never_took_may_be_sent_again_in_time(rig: Rig) -> None:
    assert await rig.agent.refresh()
    rig.flintlock.cut = True
    assert not await rig.agent.refresh()
    assert isinstance(await rig.sent_again("01NONE"), Unknown)
    rig.flintlock.cut = False
    assert await rig.agent.refresh()
    rig.clock.s += RESOLVE_S + 1
    assert isinstance(await rig.sent_again("01NONE"), Created)


async def test_promise_4_time_in_which_flintlockd_hangs_proves_nothing(rig: Rig) -> None:
    """It may hang after the first List, with the create of an earlier agent in its queue.

    Broken on purpose (all time since the first List counts): the create is sent a second time.
    """
    assert await rig.agent.refresh()
    assert isinstance(await rig.sent_again("01HUNG", instance="earlier"), Unknown)
    rig.clock.s += RESOLVE_S + 1  # no List is answered meanwhile
    assert isinstance(await rig.sent_again("01HUNG", instance="earlier"), Unknown)
    assert await rig.agent.refresh()
    assert isinstance(await rig.sent_again("01HUNG", instance="earlier"), Created)


async def deleted(rig: Rig, uid: str) -> None:
    """Delete a microVM, and let the agent see that it is gone."""
    await rig.flintlock.call(wire.DELETE, wire.with_uid(uid), 5.0)
    async with asyncio.timeout(30):
        while rig.agent.everything().seen:
            rig.clock.s += 1
            assert await rig.agent.refresh()


async def test_promise_4_an_order_that_comes_again_makes_no_second_microvm_after_the_first_was_deleted(
    rig: Rig,
) -> None:
    """No leader has recorded the uid: a client saw it in a list and deleted it before that.

    Broken on purpose (the token is forgotten with its microVM): the next leader's order makes a second one.
    """
    assert await rig.agent.refresh()
    first = await rig.agent.create(order("01DEL"))
    assert isinstance(first, Created)
    await deleted(rig, first.uid)
    for _ in range(2):
        assert await rig.sent_again("01DEL") == Ended(first.uid)
    assert rig.fake.stats()["creates_accepted"] == 1


async def test_a_token_may_be_used_again_once_its_microvm_is_gone(rig: Rig) -> None:
    """Broken on purpose (tokens are remembered for ever): a request id that returns after a day never succeeds."""
    assert await rig.agent.refresh()
    first = await rig.agent.create(order("req-x"))
    assert isinstance(first, Created)
    assert isinstance(await rig.agent.create(order("req-x")), Created)
    assert rig.fake.stats()["creates_accepted"] == 1
    await deleted(rig, first.uid)
    second = await rig.agent.create(order("req-x"))
    assert isinstance(second, Created)
    assert second.uid != first.uid


async def test_a_delete_is_told_to_the_next_leader_too(rig: Rig) -> None:
    """The first one may end before it can record it. Broken on purpose (forget deletes): the microVM is LOST."""
    uplink = rig.agent.uplink = RecordingUplink()
    assert await rig.agent.refresh()
    created = await rig.agent.create(order("01GONE"))
    assert isinstance(created, Created)
    assert (await rig.agent.call(5, wire.DELETE, wire.with_uid(created.uid), 5.0)).code == 0
    assert [row.uid for row in rig.agent.everything().deleted] == [created.uid]
    async with asyncio.timeout(30):
        while rig.agent.everything().seen:
            rig.clock.s += 1
            assert await rig.agent.refresh()
    assert [row.uid for row in rig.agent.everything().deleted] == [created.uid]
    assert [row.uid for update in uplink.inventories if update.gone for row in update.deleted] == [created.uid]


async def test_a_delete_of_a_microvm_whose_token_nobody_knows_is_not_passed_on(rig: Rig) -> None:
    """Broken on purpose (a lost Get does not matter): when its create comes again, it is made anew."""
    assert await rig.agent.refresh()
    made = await rig.flintlock.call(wire.CREATE, wire.with_token(create_request("01EARLY"), "01EARLY"), 5.0)
    uid = wire.read_created(made.payload).uid
    rig.flintlock.loses = {wire.GET}
    assert (await rig.agent.call(5, wire.DELETE, wire.with_uid(uid), 5.0)).code == Code.UNAVAILABLE
    rig.flintlock.loses = {wire.DELETE}  # it is carried out, and nobody learns that
    assert (await rig.agent.call(5, wire.DELETE, wire.with_uid(uid), 5.0)).code == Code.UNAVAILABLE
    async with asyncio.timeout(30):
        while rig.agent.everything().seen:
            rig.clock.s += 1
            assert await rig.agent.refresh()
    assert await rig.sent_again("01EARLY", instance="earlier") == Ended(uid)
    rig.flintlock.loses = set()
    unknown = await rig.agent.call(5, wire.DELETE, wire.with_uid(uid), 5.0)
    assert unknown.code == Code.UNKNOWN, "flintlockd's own words"


async def test_a_microvm_that_was_deleted_before_any_list_showed_it_is_known_by_its_token(rig: Rig) -> None:
    """Its create was not answered. Broken on purpose (only what a List has shown is known): it is made anew."""
    uplink = rig.agent.uplink = RecordingUplink()
    assert await rig.agent.refresh()
    token = "01EARLY"
    made = await rig.flintlock.call(wire.CREATE, wire.with_token(create_request(token), token), 5.0)
    uid = wire.read_created(made.payload).uid
    assert (await rig.agent.call(5, wire.DELETE, wire.with_uid(uid), 5.0)).code == 0
    assert [(row.uid, row.token) for update in uplink.inventories for row in update.seen] == [(uid, token)]
    async with asyncio.timeout(30):
        while rig.agent.everything().seen:
            rig.clock.s += 1
            assert await rig.agent.refresh()
    assert [(row.uid, row.token) for row in rig.agent.everything().deleted] == [(uid, token)]
    assert await rig.sent_again(token, instance="earlier") == Ended(uid)
    assert rig.fake.stats()["creates_accepted"] == 1


async def test_a_copy_with_the_token_does_not_answer_for_a_lost_create(rig: Rig) -> None:
    """A token is visible in flintlockd's metadata. Broken on purpose (a token alone proves it): a microVM of another
    name that was made from a copied spec is the client's answer."""
    copy = wire.with_token(create_request("copy"), "01LOST")
    await rig.flintlock.call(wire.CREATE, copy, 5.0)
    assert await rig.agent.refresh()
    assert isinstance(await rig.sent_again("01LOST", instance="earlier"), Unknown)
    rig.clock.s += RESOLVE_S + 1
    assert await rig.agent.refresh()
    created = await rig.sent_again("01LOST", instance="earlier")
    assert isinstance(created, Created)
    assert wire.read_created(created.reply).name == "01LOST"
    assert rig.fake.stats()["creates_accepted"] == 2
