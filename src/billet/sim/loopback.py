"""The agent's client of a simulated flintlockd (ports.Flintlock). Requests and answers may be late or lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from billet.core.errors import Code, HostVerdict
from billet.core.metadata import Metadata, ReplyMetadata
from billet.core.model import VmState
from billet.ports import Reply
from billet.sim.flintlockd import Flintlockd
from billet.sim.history import DeletedTwice, Listed, Tried
from billet.sim.loop import SimProcess
from billet.sim.world import World
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

SLOW_S = 8.0  # the longest delay of a call; with all other delays less than the time-out of a reservation
BROKE = Reply(Code.UNAVAILABLE, "connection reset", b"")


class UnaryOnly:
    """The part of ports.Flintlock that the simulation does not use."""

    def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata = (),
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Flintlock. Not used in the simulation."""
        raise NotImplementedError

    async def close(self) -> None:
        """See ports.Flintlock."""


class Loopback(UnaryOnly):
    """ports.Flintlock for one start of an agent."""

    def __init__(self, world: World, daemon: Flintlockd, agent: SimProcess, host_id: str) -> None:
        self._world = world
        self._daemon = daemon
        self._agent = agent
        self._host_id = host_id  # the agent's host
        self._chance = world.chance(f"loopback of {agent.name}")
        self._deleted: set[str] = set()  # uids that flintlockd has told this agent to delete

    async def ready(self, timeout_s: float) -> bool:
        """See ports.Flintlock."""
        waited_s = 0.0
        while not self._daemon.up and waited_s < timeout_s:
            await asyncio.sleep(0.1)
            waited_s += 0.1
        return self._daemon.up

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """See ports.Flintlock."""
        daemon, world = self._daemon, self._world
        if not daemon.up or daemon.process is None:
            await asyncio.sleep(min(timeout_s, 0.1))
            return Reply(Code.UNAVAILABLE, "connection refused", b"")
        answer: asyncio.Future[Reply] = world.loop.create_future()
        if not self._agent.acts():
            return await answer  # the agent has died
        process = daemon.process

        def died() -> None:
            self._agent.call_at(world.now_s, _resolve, answer, BROKE)

        process.at_death.append(died)
        called_s = world.now_s
        self._note_tried(method, request)
        if method == wire.DELETE and (uid := wire.read_uid(request)) in self._deleted:
            world.note(DeletedTwice(called_s, self._host_id, uid))
        self._send(process, method, request, answer)
        timer = world.loop.call_later(timeout_s, _resolve, answer, Reply(Code.DEADLINE_EXCEEDED, "", b""))
        try:
            reply = await answer
            self._look_at(method, request, reply)
            if method == wire.LIST and reply.code == Code.OK:
                world.note(Listed(world.now_s, self._host_id, called_s))
            return reply
        finally:
            timer.cancel()
            process.at_death.remove(died)

    def _look_at(self, method: str, request: bytes, reply: Reply) -> None:
        """Note which microVMs flintlockd has said to delete, by its latest answer about each."""
        if method == wire.DELETE and reply.code == Code.OK:
            self._deleted.add(wire.read_uid(request))
        if method == wire.GET:
            deletes = reply.code == Code.OK and wire.read_created(reply.payload).state is VmState.DELETING
            (self._deleted.add if deletes else self._deleted.discard)(wire.read_uid(request))

    def _note_tried(self, method: str, request: bytes) -> None:
        if method == wire.CREATE:
            spec = rpc.CreateMicroVMRequest.FromString(request).microvm
            token = wire.observe(types.MicroVM(spec=spec)).token
            self._world.note(Tried(self._world.now_s, self._host_id, token))

    def _send(self, process: SimProcess, method: str, request: bytes, answer: asyncio.Future[Reply]) -> None:
        """Deliver the call now, later or never. The daemon carries it out even if the client has given up."""
        world, faults, chance = self._world, self._world.faults, self._chance
        called_s = world.now_s
        when_s = called_s + self._delay_s()
        if world.happens(chance, faults.daemon_lost_request):
            self._agent.call_at(when_s, _resolve, answer, BROKE)
            return
        if world.happens(chance, faults.daemon_slow):
            when_s += chance.uniform(0.0, SLOW_S)

        def arrive() -> None:
            try:
                reply = Reply(Code.OK, "", self._daemon.answer(method, request, called_s))
            except HostVerdict as verdict:
                reply = Reply(verdict.status, verdict.text, b"")
            lost = world.happens(chance, faults.daemon_lost_reply)
            self._agent.call_at(world.now_s + self._delay_s(), _resolve, answer, BROKE if lost else reply)

        process.call_at(self._daemon.begins_s(when_s, method), arrive)

    def _delay_s(self) -> float:
        return 0.0002 + self._chance.expovariate(1.0) * self._world.faults.daemon_delay_s


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
