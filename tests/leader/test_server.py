"""The life of a server: what it says while it cannot lead, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import cast
from unittest.mock import AsyncMock, MagicMock

import pytest
from structlog.testing import capture_logs

from billet.core.errors import StoreError
from billet.leader import server as module
from billet.leader.server import Factories, Server, Service
from billet.log_throttle import AGAIN_AFTER_S
from billet.ports import Leader, Store, Term
from tests.leader.test_reconciler import HandClock

LOST = "billet.db was deleted or replaced while it was in use"


class LostStore:
    """A store that no server can lead with any more. Each attempt takes a second."""

    def __init__(self, clock: HandClock) -> None:
        self.attempts = 0
        self.reason = LOST
        self.clock = clock

    async def open(self) -> None:
        pass

    async def depose(self, leader: Leader) -> None:
        pass

    async def leaders(self) -> AsyncIterator[Leader | None]:
        for nobody in ():
            yield nobody

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        self.attempts += 1
        self.clock.s += 1.0
        raise StoreError(self.reason)


async def test_a_store_that_stays_lost_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose (a line at each attempt): a server whose billet.db was deleted logs a line every second."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    clock = HandClock()
    store = LostStore(clock)
    said: list[str] = []
    proxy, link, listeners = MagicMock(), MagicMock(), MagicMock()
    build = cast(Factories, MagicMock())
    server = Server(Leader("a", "", ""), cast(Store, store), link, proxy, listeners, clock, build)

    def trouble(why: str) -> None:
        said.append(why)
        if store.attempts == AGAIN_AFTER_S // 2:
            store.reason = "etcd has no leader"  # another reason is said at once
        server.stopping = store.attempts >= 2 * AGAIN_AFTER_S

    proxy.trouble = trouble
    with capture_logs() as lines:
        await server.run()
    assert [line["error"] for line in lines] == [LOST, "etcd has no leader", "etcd has no leader"]
    assert len(said) == store.attempts, "clients are always told"


class Leading(Server):
    """Leads with a service of the test's."""

    def lead_with(self, service: Service) -> None:
        self._service = service


async def test_a_create_that_no_host_answers_does_not_keep_a_server_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "OVERTIME_S", 0.0)
    listeners, service, build = AsyncMock(), AsyncMock(), cast(Factories, MagicMock())
    service.drain.side_effect = asyncio.Event().wait  # for ever
    server = Leading(Leader("a", "", ""), AsyncMock(), MagicMock(), MagicMock(), listeners, HandClock(), build)
    server.lead_with(service)

    async with asyncio.timeout(60.0):
        await server.finish(grace_s=0.0)

    listeners.stop.assert_awaited_once_with(0.0)
    service.drain.assert_awaited_once_with()
