"""What is taken of a host, as its agent counts it: the microVMs that flintlockd shows, and the creates in hand."""

from __future__ import annotations

from collections.abc import Sequence

from billet.core.boots.queue import BootQueue
from billet.core.memory import remember
from billet.core.model import ZERO, Image, Observed, Resources, VmState
from billet.ports import Clock

DELETES_REMEMBERED = 1000


class HostInventory:
    """Counts each microVM once: as a create in hand, or as a microVM that flintlockd shows.

    The leader receives its contents and changes as ports.InventoryUpdate.
    """

    def __init__(self, clock: Clock) -> None:
        self.rows: dict[str, Observed] = {}  # what flintlockd shows, by uid
        self.creating: dict[str, Resources] = {}  # creates in hand, by token
        self.deleted: dict[str, Observed] = {}  # the latest that flintlockd has accepted a Delete of, by uid
        self.taken = ZERO
        self.boot_queue = BootQueue()
        self._clock = clock
        self._booting: dict[str, None] = {}  # the microVMs that wait for their first try to boot, in order
        self._seen_s: dict[str, float] = {}  # when a row was seen last: an older List says nothing new about it
        self._listed_s = 0.0  # when the newest List that was merged began

    def begin_create(self, token: str, demand: Resources, images: tuple[Image, ...]) -> None:
        """Count a create in hand."""
        self.boot_queue.forecast(token, images, self._clock.monotonic_s())
        self.boot_queue.waits(token, images)
        self.creating[token] = demand
        self.taken = self.taken.plus(demand)

    def end_create(self, token: str) -> None:
        """Count a create in hand no longer: it has ended, or flintlockd shows its microVM already."""
        demand = self.creating.pop(token, None)
        if demand:
            self.boot_queue.waits_no_longer(token)
            self.taken = self.taken.minus(demand)

    def note_deleted(self, row: Observed) -> None:
        """Remember an accepted Delete: the leader that sent it may end before it has recorded it."""
        remember(self.deleted, row.uid, row, DELETES_REMEMBERED)

    def merge(self, rows: list[Observed], begun_s: float) -> tuple[list[Observed], list[str]]:
        """Merge a List that began at `begun_s` (monotonic); return new or changed rows, and uids that are gone.

        A List that began before the newest merged one is ignored.
        """
        if begun_s < self._listed_s:
            return [], []
        self._listed_s = begun_s
        listed = {row.uid for row in rows}
        changed = [r for r in rows if self.rows.get(r.uid) != r and self._seen_s.get(r.uid, 0.0) < begun_s]
        gone = [uid for uid in self.rows if uid not in listed and self._seen_s[uid] < begun_s]
        ended = [row for row in changed if self._has_ended(row)]
        removed = sum(_is_next(self.rows[uid], VmState.DELETING) for uid in gone)
        for row in changed:
            self.put(row)
        for uid in gone:
            self._drop(uid)
        deletes = sum(_is_next(row, VmState.DELETING) for row in self.rows.values())
        self.boot_queue.listed(deletes, removed, bool(ended), self._clock.monotonic_s())
        self.note_ended(ended)
        return changed, gone

    def _has_ended(self, row: Observed) -> bool:
        """Whether flintlockd's latest try to boot this microVM has ended since the last look, well or not."""
        old = self.rows.get(row.uid)
        if old is None or old.state is not VmState.PENDING:
            return False
        return row.state is not VmState.PENDING or row.retry > old.retry

    def note_ended(self, ended: Sequence[Observed]) -> None:
        """Teach the boot queue from the boots that have ended since the last look, successfully or not."""
        now_s = self._clock.monotonic_s()
        booted = [row for row in ended if row.state is VmState.CREATED]
        if len(booted) < len(ended):
            self.boot_queue.boots.gave_up()
        self.boot_queue.looked([(row.token, row.images) for row in booted], now_s, len(self.creating))

    def is_pending(self, uid: str) -> bool:
        """Whether flintlockd showed this microVM waiting for its boot."""
        row = self.rows.get(uid)
        return row is not None and row.state is VmState.PENDING

    def next_boots(self) -> list[str]:
        """The microVMs that flintlockd boots next, in order. One whose boot has failed waits for minutes."""
        return list(self._booting)

    def put(self, row: Observed) -> None:
        """Record one microVM as flintlockd shows it now."""
        old = self.rows.get(row.uid)
        if old:
            self._add(old, -1)
        else:
            self.end_create(row.token)
        self._seen_s[row.uid] = self._clock.monotonic_s()
        self.rows[row.uid] = row
        self._add(row, 1)
        if _is_next(row, VmState.PENDING):
            self._booting.setdefault(row.uid)
        else:
            self._booting.pop(row.uid, None)

    def _drop(self, uid: str) -> None:
        row = self.rows.pop(uid)
        del self._seen_s[uid]
        self._booting.pop(uid, None)
        self._add(row, -1)

    def _add(self, row: Observed, sign: int) -> None:
        self.taken = self.taken.plus(row.demand) if sign > 0 else self.taken.minus(row.demand)
        if row.state is not VmState.PENDING:
            return
        if row.retry:
            self.boot_queue.failed(row.token or row.uid)
        elif sign > 0:
            self.boot_queue.waits(row.token or row.uid, row.images)
        else:
            self.boot_queue.waits_no_longer(row.token or row.uid)


def _is_next(row: Observed, state: VmState) -> bool:
    """Whether a microVM is in this state and has not failed in it: after a failure it waits, and others go on."""
    return row.state is state and not row.retry
