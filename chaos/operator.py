"""The operator of the fleet under test: looks at its hosts, and repairs identities as operations.md says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc.aio

from billet.api import fleet_service as fleet
from billet.wire.pb import fleet_pb2 as pb

CALL_S = 5.0
LOOK_S = 0.2  # between two looks


class Operator:
    """Calls the servers in turn, until one answers."""

    def __init__(self, servers: Sequence[str]) -> None:
        """`servers` are "host:port". Nothing is connected before the first call."""
        self._servers = servers
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def hosts(self, timeout_s: float) -> pb.HostsReply | None:
        """What `billet hosts` shows; None when no server answers in time."""
        reply = await self._ask(fleet.HOSTS, pb.HostsRequest().SerializeToString(), timeout_s)
        return pb.HostsReply.FromString(reply) if reply is not None else None

    async def change(self, host: str, verb: pb.HostVerb.ValueType, timeout_s: float, to: str = "") -> bool:
        """`billet host rebind` and the like. Returns whether it was done."""
        request = pb.ChangeHostRequest(host=host, verb=verb, to=to)
        return await self._ask(fleet.CHANGE_HOST, request.SerializeToString(), timeout_s) is not None

    async def wait(self, host: str, when: Callable[[pb.HostView], bool], timeout_s: float) -> bool:
        """Wait until a host is as wanted; False when the time is up."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            reply = await self.hosts(left_s)
            if reply and any(when(view) for view in reply.hosts if view.id == host):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def refused(self, host: str, address: str, timeout_s: float) -> bool:
        """Wait until `billet hosts` lists an agent that was not let in, of this name and from this IP address."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            reply = await self.hosts(left_s)
            agents = reply.agents if reply else ()
            if any(agent.host == host and agent.address.startswith(f"{address}:") for agent in agents):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def _ask(self, method: str, request: bytes, timeout_s: float) -> bytes | None:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            for server in self._servers:
                if server not in self._channels:
                    self._channels[server] = grpc.aio.insecure_channel(server)
                with suppress(grpc.aio.AioRpcError):
                    call: Any = self._channels[server].unary_unary(method)
                    reply: bytes = await call(request, timeout=CALL_S)
                    return reply
            await asyncio.sleep(LOOK_S)
        return None
