"""How long a leader counts on its lease in etcd: from the request on, because etcd's own count begins after it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from billet.core.errors import StoreUnreachable
from billet.store.etcd_client import EtcdClient
from tests.etcd_fixture import LocalEtcd
from tests.stores.backends import ME, SOON_S, EtcdBackend

TTL_S = 5
HELD_S = 3.0  # how long an answer of etcd is under way

pytestmark = pytest.mark.timeout(90)


class LateAnswers:
    """The way to etcd and back: one request's answer is late, and no later renewal of the lease gets through."""

    def __init__(self, late: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked_s = 0.0  # when the request was sent whose answer is late
        self._late = late
        self._steady, self._keep_alive = EtcdClient.steady, EtcdClient.keep_alive
        monkeypatch.setattr(EtcdClient, "steady", lambda client, *call, **more: self.steady(client, *call, **more))
        monkeypatch.setattr(EtcdClient, "keep_alive", lambda client, lease: self.keep_alive(client, lease))

    async def steady(self, client: EtcdClient, method: str, *rest: Any, **more: Any) -> Any:
        asked_s = time.monotonic()
        answer = await self._steady(client, method, *rest, **more)
        if method == "Lease/LeaseGrant" == self._late:
            await self._hold(asked_s)
        return answer

    async def keep_alive(self, client: EtcdClient, lease: int) -> int:
        if self._late != "Lease/LeaseKeepAlive" or self.asked_s:
            raise StoreUnreachable("no answer")
        asked_s = time.monotonic()
        answer = await self._keep_alive(client, lease)
        await self._hold(asked_s)
        return answer

    async def _hold(self, asked_s: float) -> None:
        self.asked_s = asked_s
        await asyncio.sleep(HELD_S)


@pytest.mark.parametrize("late", ["Lease/LeaseGrant", "Lease/LeaseKeepAlive"])
async def test_promise_3_a_term_ends_before_its_lease_though_the_answer_that_gave_the_lease_was_late(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """Broken on purpose (the lease counted from the answer): the old leader still leads when a new one may."""
    answers = LateAnswers(late, monkeypatch)
    store = EtcdBackend(etcd_server, TTL_S).store()
    await store.open()
    term = await store.campaign(ME)
    await asyncio.wait_for(store.ended(term), SOON_S)
    assert time.monotonic() - answers.asked_s < TTL_S
    await store.close()
