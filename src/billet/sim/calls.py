"""Calls from clients to servers, and between servers, each over a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from billet.core.errors import BilletError, Code, LeaderLost
from billet.core.metadata import Metadata
from billet.ports import Answer
from billet.sim.loop import SimProcess

if TYPE_CHECKING:
    from billet.sim.network import Network


class Said(NamedTuple):
    """The result of a call. `answered`: it comes from a server, not from the network."""

    code: int
    text: str
    payload: bytes = b""
    answered: bool = False
    trailers: Metadata = ()


REFUSED = Said(Code.UNAVAILABLE, "connection refused")
BROKE = Said(Code.UNAVAILABLE, "the connection broke")
TOO_LATE = Said(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", b"", True)

Work = Callable[[], Coroutine[Any, Any, Answer]]


class Arrival:
    """One call, as the server handles it."""

    def __init__(
        self, net: Network, here: str, there: str, process: SimProcess, work: Work, answer: asyncio.Future[Said]
    ) -> None:
        self._net, self._here, self._there, self._process = net, here, there, process
        self._work, self._answer = work, answer
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """It arrives."""
        if self._net.passes(self._here, self._there) and not self._answer.done():
            self._task = self._process.spawn(self._run())

    def give_up(self) -> None:
        """Its client waits no more."""
        if self._task and not self._task.done():
            self._task.cancel()

    def died(self) -> None:
        """The server has died."""
        self._send(BROKE)

    async def _run(self) -> None:
        try:
            answer = await self._work()
            said = Said(Code.OK, "", answer.payload, True, answer.trailers)
        except BilletError as error:
            said = Said(error.status, error.text, b"", not isinstance(error, LeaderLost))
        self._send(said)

    def _send(self, said: Said) -> None:
        if self._answer.done() or not (said is BROKE or self._process.acts()):
            return
        if self._net.passes(self._there, self._here):
            world = self._net.world
            world.loop.call_later(self._net.delay_s(), resolve, self._answer, said, context=world.loop.world)


def resolve(future: asyncio.Future[Any], result: Any) -> None:
    """Set a result, unless the future is done."""
    if not future.done():
        future.set_result(result)
