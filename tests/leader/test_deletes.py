"""The deletes that the reconciler sends: none is forgotten, and no host waits for another."""

from __future__ import annotations

import asyncio

from billet.leader.deletes import Deletes
from tests.cluster.clients import eventually


class SlowHosts:
    """Hosts that note each Delete and answer the first of them when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer = asyncio.Event()

    async def delete(self, host_id: str, uid: str) -> bool:
        self.asked.append((host_id, uid))
        await self.answer.wait()
        return True


async def test_a_delete_that_is_wanted_while_another_is_under_way_follows_it() -> None:
    """Broken on purpose (forget what is wanted meanwhile): the second microVM runs until the next sweep."""
    hosts = SlowHosts()
    deletes = Deletes(hosts.delete)
    deletes.want("h1", ["first"])
    await eventually(lambda: hosts.asked)
    deletes.want("h1", ["second"])
    deletes.want("h2", ["elsewhere"])
    await eventually(lambda: ("h2", "elsewhere") in hosts.asked)
    assert ("h1", "second") not in hosts.asked, "one after another on each host"
    hosts.answer.set()
    await eventually(lambda: ("h1", "second") in hosts.asked, timeout_s=15.0)
    await deletes.close()
