"""Calls that ask for the same share a look at the hosts, and none gets one that began before it came."""

from __future__ import annotations

import asyncio

import pytest

from billet.api import looks as module
from billet.api.looks import SharedLooks
from billet.core.errors import Unreachable
from tests.cluster.clients import eventually

STEPS = 5  # of the event loop: enough for any call to begin


class Hosts:
    """What the hosts show; each look sees what they show as it begins, and ends when it is let go."""

    def __init__(self) -> None:
        self.shown = 0
        self.begun = 0
        self.fails = False
        self.go_on = asyncio.Semaphore(0)

    async def look(self, request: bytes) -> int:
        self.begun += 1
        seen = self.shown
        await self.go_on.acquire()
        if self.fails:
            raise Unreachable("no host answers")
        return seen


async def steps() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


async def test_a_thousand_calls_during_a_look_cost_one_more_and_see_what_was_there_when_they_came() -> None:
    """Broken on purpose (calls join the look that is under way): a microVM that was acknowledged is not listed."""
    hosts = Hosts()
    looks = SharedLooks(hosts.look)
    first = asyncio.create_task(looks.see(b"ns"))
    await steps()
    hosts.shown = 1  # a create is acknowledged
    rest = [asyncio.create_task(looks.see(b"ns")) for _ in range(1000)]
    await steps()
    assert hosts.begun == 1
    hosts.go_on.release()
    hosts.go_on.release()
    assert await first == 0
    assert await asyncio.gather(*rest) == [1] * 1000
    assert hosts.begun == 2
    hosts.go_on.release()
    assert await looks.see(b"ns") == 1
    assert hosts.begun == 3


async def test_other_requests_have_looks_of_their_own_and_a_caller_that_leaves_disturbs_nobody() -> None:
    """Broken on purpose (a look that is shared belongs to its first caller): the others get CancelledError."""
    hosts = Hosts()
    looks = SharedLooks(hosts.look)
    calls = [asyncio.create_task(looks.see(request)) for request in (b"a", b"b", b"b", b"b")]
    await steps()
    assert hosts.begun == 2
    calls[2].cancel()
    for _ in range(3):
        hosts.go_on.release()
    assert await calls[0] == await calls[1] == await calls[3] == 0


async def test_a_look_that_hangs_does_not_hold_up_the_next_one_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose (the next look waits for the end): with one host that hangs, a List takes twice as long."""
    monkeypatch.setattr(module, "NEXT_S", 0.01)
    hosts = Hosts()
    looks = SharedLooks(hosts.look)
    hanging = asyncio.create_task(looks.see(b""))
    await steps()
    following = asyncio.create_task(looks.see(b""))
    await eventually(lambda: hosts.begun == 2)
    hosts.fails = True
    hosts.go_on.release()
    hosts.go_on.release()
    assert {type(error) for error in await asyncio.gather(hanging, following, return_exceptions=True)} == {
        Unreachable
    }
