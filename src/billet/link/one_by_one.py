"""Full inventories are handled one in each turn of the event loop.

A new leader of a large fleet gets all of them within a second, and a large one takes milliseconds. Handled as they
come they would keep the leader from renewing its lease, and its term would end as it begins.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

from billet.link.connection import AgentConnection
from billet.wire.pb import link_pb2 as pb

Handler = Callable[[AgentConnection, pb.Up], None]


class OneByOne:
    """Hands messages on, those of one connection in order."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._waiting: OrderedDict[AgentConnection, deque[pb.Up]] = OrderedDict()

    def received(self, connection: AgentConnection, up: pb.Up) -> None:
        """A message came. It waits if it has a full inventory, or if one before it on its connection waits."""
        if messages := self._waiting.get(connection):
            messages.append(up)
        elif up.HasField("inventory") and up.inventory.full:
            self._wait(connection, deque([up]))
        else:
            self._handle(connection, up)

    def _wait(self, connection: AgentConnection, messages: deque[pb.Up]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        self._waiting[connection] = messages

    def _next(self) -> None:
        connection, messages = self._waiting.popitem(last=False)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        self._handle(connection, messages.popleft())
        while messages and not messages[0].inventory.full:
            self._handle(connection, messages.popleft())
        if messages:
            self._wait(connection, messages)
