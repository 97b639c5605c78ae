"""Broadcast wakes the tasks that wait, and no send is missed between a check and a wait."""

from __future__ import annotations

import asyncio

from billet.broadcast import Broadcast


async def test_a_send_wakes_all_waiting_tasks_and_later_ones_wait_for_the_next() -> None:
    broadcast = Broadcast()
    waiting = [asyncio.create_task(broadcast.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    broadcast.send()
    await asyncio.gather(*waiting)
    late = asyncio.create_task(broadcast.wait())
    await asyncio.sleep(0)
    assert not late.done()
    broadcast.send()
    await late


async def test_a_send_after_next_was_taken_is_not_missed() -> None:
    broadcast = Broadcast()
    sent = broadcast.next
    broadcast.send()
    assert sent.is_set()
    assert not broadcast.next.is_set()
