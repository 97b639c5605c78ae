"""Calls that are sent again when the leader is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from billet.api import leader_proxy
from billet.api.leader_proxy import LeaderProxy
from billet.core.errors import CreateOutcomeUnknown, InvalidRequest, LeaderLost
from billet.core.reconcile import KEEP_DELETED_S, RESEND_S
from billet.ports import Answer
from billet.wire import flintlock as wire
from billet.wire.headers import TOKEN

FOREVER_S = 1e6


class Lost:
    """A leader that is lost with the first call in hand, and the one that follows it."""

    def __init__(self) -> None:
        self.timeouts_s: list[float] = []
        self.tokens: set[str] = set()

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        self.timeouts_s.append(timeout_s)
        self.tokens.add(metadata.get(TOKEN, ""))
        if len(self.timeouts_s) == 1:
            raise LeaderLost("the leader does not answer")
        return Answer(b"reply")


def proxy(leader: Lost) -> LeaderProxy:
    made = LeaderProxy(lambda request, metadata: "token", hold_s=60.0)
    made.route(leader)  # type: ignore[arg-type]  # it has no streams
    return made


async def test_a_create_is_sent_again_with_its_token_while_the_next_leader_surely_knows_it() -> None:
    leader = Lost()
    assert (await proxy(leader).unary(wire.CREATE, b"", FOREVER_S, {})).payload == b"reply"
    assert leader.tokens == {"token"}
    first_s, again_s = leader.timeouts_s
    assert first_s == pytest.approx(FOREVER_S, abs=RESEND_S)
    assert again_s <= RESEND_S < KEEP_DELETED_S


async def test_promise_4_a_create_is_not_sent_again_when_its_token_may_be_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken on purpose (no limit): the microVM that was deleted meanwhile is made a second time."""
    monkeypatch.setattr(leader_proxy, "RESEND_S", 0.0)
    leader = Lost()
    with pytest.raises(CreateOutcomeUnknown, match="list the namespace first"):
        await proxy(leader).unary(wire.CREATE, b"", FOREVER_S, {})
    assert len(leader.timeouts_s) == 1


async def test_other_calls_are_sent_again_for_as_long_as_their_client_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_proxy, "RESEND_S", 0.0)
    leader = Lost()
    assert (await proxy(leader).unary(wire.DELETE, b"", FOREVER_S, {})).payload == b"reply"


async def test_a_create_that_is_too_long_with_its_token_is_not_sent_to_the_leader() -> None:
    """Broken on purpose (the leader checks it): over HTTP, a follower gets RESOURCE_EXHAUSTED on its way there."""
    leader = Lost()
    added = len(wire.with_token(b"", "token"))
    with pytest.raises(InvalidRequest, match="receives at most 4,194,304"):
        await proxy(leader).unary(wire.CREATE, b"x" * (wire.REQUEST_MAX_BYTES - added + 1), FOREVER_S, {})
    assert not leader.timeouts_s
    assert await proxy(leader).unary(wire.CREATE, b"x" * (wire.REQUEST_MAX_BYTES - added), FOREVER_S, {})


class Silent:
    """A leader that does not answer. Its calls may be cancelled, as when the connection to it is closed."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        try:
            return await self.answer
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class Next(Silent):
    """The next leader, which answers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.answer.set_result(Answer(b"of the next leader"))


@pytest.mark.parametrize("nobody_between", [True, False])
async def test_a_call_in_hand_goes_to_the_next_leader_at_once(nobody_between: bool) -> None:
    """The old leader does not answer. Broken on purpose (calls in hand are not told): it waits for the old one."""
    old = Silent()
    made = proxy(old)  # type: ignore[arg-type]
    calling = asyncio.create_task(made.unary(wire.GET, b"", FOREVER_S, {}))
    await asyncio.sleep(0.01)
    if nobody_between:
        made.route(None)
        await asyncio.sleep(0)  # the call has been told, and has not ended yet
    made.route(Next())  # type: ignore[arg-type]  # it has no streams
    async with asyncio.timeout(10.0):
        assert (await calling).payload == b"of the next leader"
    assert old.cancelled


async def test_a_call_goes_to_the_next_leader_when_its_connection_is_closed_under_it() -> None:
    """Broken on purpose (every cancellation is the client's): the client gets CANCELLED, though it waits."""
    old = Silent()
    made = proxy(old)  # type: ignore[arg-type]
    calling = asyncio.create_task(made.unary(wire.GET, b"", FOREVER_S, {}))
    await asyncio.sleep(0.01)
    old.answer.cancel()
    await asyncio.sleep(0.01)
    made.route(Next())  # type: ignore[arg-type]  # it has no streams
    async with asyncio.timeout(10.0):
        assert (await calling).payload == b"of the next leader"


async def test_a_call_that_its_client_gives_up_goes_nowhere_else() -> None:
    """Broken on purpose (every cancellation is the leader's): it is sent again, and nobody waits for it."""
    old = Silent()
    made = proxy(old)  # type: ignore[arg-type]
    calling = asyncio.create_task(made.unary(wire.CREATE, b"", FOREVER_S, {}))
    await asyncio.sleep(0.01)
    calling.cancel()
    async with asyncio.timeout(10.0):
        await asyncio.gather(calling, return_exceptions=True)
    assert calling.cancelled()
    assert old.cancelled
