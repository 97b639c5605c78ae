"""Watch flintlockd: keep the host's inventory up to date and tell the leader what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from billet.core.model import Observed, VmState
from billet.core.report import InventoryUpdate, Report
from billet.host.flintlockd import CONNECT_S, Daemon, Listed
from billet.host.inventory import HostInventory
from billet.host.verdicts import why_no_list
from billet.ports import Clock, Flintlock

log = structlog.get_logger()

LIST_INTERVALS = 5  # timeout of one List, and longest time between the beginnings of two, in report intervals
LONGEST_S = 5.0  # between the beginnings of two, unless a List or an interval takes longer
RESTS = 10  # pause after a List, and between Gets of what boots, in the time that they took: their specs may be large
BOOTS_AT_ONCE = 8  # when this many boots may have ended, one List is cheaper than a Get for each


class Uplink(Protocol):
    """The agent's connection to the leader. A new connection always begins with the full inventory."""

    def report(self, report: Report) -> None:
        """Send a report."""

    def inventory(self, inventory: InventoryUpdate) -> None:
        """Send what changed on the host."""


class Watcher:
    """Lists flintlockd's microVMs every interval, and looks more often at the one that is booting."""

    def __init__(
        self,
        host_id: str,
        flintlock: Flintlock,
        daemon: Daemon,
        clock: Clock,
        interval_s: float,
        report: Callable[[], Report],
        namespace: str,
    ) -> None:
        """`report` makes the host's current report, which is sent every interval.

        `namespace` is flintlockd's in containerd.
        """
        self.uplink: Uplink | None = None  # None while no leader is connected; updates are dropped then
        self.inventory = HostInventory(clock)
        self.known = False  # the last List was answered, so the inventory is current
        # Of the unbroken row of answered Lists: when the first was answered, and when the latest began.
        self.known_since_s: float | None = None
        self.known_until_s = 0.0
        self.trouble = ""  # why the last List failed, and what helps; "" = it did not fail, or nobody knows
        self._namespace = namespace
        self._missed = False  # the last List was not answered, and that was logged
        self._host_id = host_id
        self._flintlock = flintlock
        self._daemon = daemon
        self._clock = clock
        self._interval_s = interval_s
        self._report = report
        self._changed = asyncio.Event()
        self._boots = asyncio.Event()  # a microVM waits for its boot

    async def run(self) -> None:
        """Watch for ever: a report every interval, and a List, or as soon as look_soon() is called.

        After a List that took long the next ones are left out: large specs must not keep the host busy.
        """
        boots = asyncio.create_task(self._watch_boots())
        rests_until_s = 0.0
        try:
            while True:
                begun_s = self._clock.monotonic_s()
                if begun_s >= rests_until_s or self._changed.is_set():
                    self._changed.clear()
                    answered = await self.refresh()
                    pause_s = (self._clock.monotonic_s() - begun_s) * (1 + RESTS)
                    longest_s = min(self._interval_s * LIST_INTERVALS, LONGEST_S)
                    rests_until_s = begun_s + min(pause_s, longest_s) if answered else 0.0
                if self.uplink:
                    self.uplink.report(self._report())
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._changed.wait()
        finally:
            boots.cancel()

    def look_soon(self) -> None:
        """List at once instead of at the end of the interval."""
        self._changed.set()

    async def refresh(self) -> bool:
        """List all microVMs and tell the leader what changed. Return False when flintlockd does not answer."""
        begun_s = self._clock.monotonic_s()
        listed = await self._list()
        if listed.rows is None and await self._flintlock.ready(CONNECT_S):  # one failed List proves nothing
            begun_s = self._clock.monotonic_s()
            listed = await self._list()
        rows = listed.rows
        self.trouble = "" if rows is not None else why_no_list(listed.code, listed.text, self._namespace)
        if rows is None:
            if not self._missed:
                why = {"why": self.trouble} if self.trouble else {}
                log.warning("flintlockd not responding, this host does not bid", host=self._host_id, **why)
            self.known, self._missed = False, True
            self.known_since_s = None
            return False
        self.known_until_s = begun_s
        if not self.known:
            if self._missed:
                log.info("flintlockd responding again", host=self._host_id)
            self.known, self._missed = True, False
            self.known_since_s = self._clock.monotonic_s()
            self.inventory.merge(rows, begun_s)
            if self.uplink:
                self.uplink.inventory(self.everything())
        else:
            self._tell(*self.inventory.merge(rows, begun_s))
        self._boots.set()
        return True

    async def _list(self) -> Listed:
        return await self._daemon.list_all(self._interval_s * LIST_INTERVALS)

    def everything(self) -> InventoryUpdate:
        """The full inventory, as of the last refresh()."""
        inventory = self.inventory
        rows, creating = list(inventory.rows.values()), list(inventory.creating)
        return InventoryUpdate(True, rows, [], creating, tuple(inventory.deleted.values()))

    def created(self, row: Observed) -> None:
        """Add a microVM that flintlockd has just created."""
        if self.inventory.rows.get(row.uid) != row:
            self.inventory.put(row)
            self.inventory.note_ended([])
            self._tell([row], [])
            self._boots.set()

    def tell_creating(self) -> None:
        """Tell the leader which creates are still in hand: it keeps the reservations of those."""
        if self.uplink:
            self.uplink.inventory(InventoryUpdate(False, [], [], list(self.inventory.creating)))

    def _tell(self, seen: list[Observed], gone: list[str]) -> None:
        if (seen or gone) and self.uplink:
            deleted = tuple(self.inventory.deleted[uid] for uid in gone if uid in self.inventory.deleted)
            self.uplink.inventory(InventoryUpdate(False, seen, gone, list(self.inventory.creating), deleted))

    async def _watch_boots(self) -> None:
        """Poll the microVM that is booting, while there is one. flintlockd boots one at a time, in order."""
        rest_s = 0.0
        while True:
            if not (self.known and self.inventory.next_boots()):
                self._boots.clear()
                await self._boots.wait()
                continue
            await asyncio.sleep(min(max(self.inventory.boot_queue.look_every_s, rest_s), self._interval_s))
            begun_s = self._clock.monotonic_s()
            waiting = self.inventory.next_boots() if self.known else []
            ended = []
            for uid in waiting[:BOOTS_AT_ONCE]:
                row = await self._daemon.look_at(uid, self._interval_s)
                if row is None or (row.state is VmState.PENDING and not row.retry):
                    break
                ended.append(row)
            rest_s = (self._clock.monotonic_s() - begun_s) * RESTS
            if len(ended) == BOOTS_AT_ONCE:
                self.look_soon()
            elif ended:
                self._boots_ended(ended)

    def _boots_ended(self, rows: list[Observed]) -> None:
        """Record microVMs whose boot has ended, except those that a List has already updated."""
        news = [row for row in rows if self.inventory.is_pending(row.uid)]
        for row in news:
            self.inventory.put(row)
        self.inventory.note_ended(news)
        self._tell(news, [])
        if self.uplink:
            self.uplink.report(self._report())
