"""Full inventories are handled one in each turn of the event loop, and each connection's messages in order."""

from __future__ import annotations

import asyncio
from typing import cast

from billet.link.connection import AgentConnection
from billet.link.one_by_one import OneByOne
from billet.wire.pb import link_pb2 as pb

FULL = pb.Up(inventory=pb.InventoryUpdate(full=True))
CHANGE = pb.Up(inventory=pb.InventoryUpdate(gone=["one"]))
BIDS = pb.Up(bids=[pb.Bids(round=1)])


async def test_many_full_inventories_leave_room_for_everything_else_in_between() -> None:
    """Broken on purpose (handled as they come): with 1,000 hosts a new leader cannot renew its lease, and it ends."""
    handled: list[tuple[str, pb.Up]] = []
    inbox = OneByOne(lambda connection, up: handled.append((str(connection), up)))
    first, second, third = (cast("AgentConnection", name) for name in ("first", "second", "third"))
    for up in (FULL, CHANGE, FULL, BIDS):
        inbox.received(first, up)
    inbox.received(second, FULL)
    inbox.received(third, BIDS)
    assert handled == [("third", BIDS)], "it waits for no inventory"
    turns = []
    while len(handled) < 6:
        before = len(handled)
        await asyncio.sleep(0)
        turns.append(handled[before:])
    assert turns == [
        [("first", FULL), ("first", CHANGE)],
        [("second", FULL)],
        [("first", FULL), ("first", BIDS)],
    ]
    inbox.received(first, CHANGE)
    assert handled[-1] == ("first", CHANGE)
