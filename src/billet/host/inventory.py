"""What is taken of a host, as its agent counts it: what flintlockd shows, and the creates in hand."""

from __future__ import annotations

from collections.abc import Sequence

from billet.core.boots.queue import BootQueue
from billet.core.model import ZERO, Image, Observed, Resources, VmState
from billet.ports import Clock


class HostInventory:
    """Each microVM is counted once: as a create in hand, or as what flintlockd shows."""

    def __init__(self, clock: Clock) -> None:
        self.rows: dict[str, Observed] = {}  # what flintlockd shows, by uid
        self.creating: dict[str, Resources] = {}  # creates in hand, by token
        self.taken = ZERO
        self.boot_queue = BootQueue()
        self._clock = clock
        self._seen_s: dict[str, float] = {}  # when a row was seen last: a List begun earlier tells nothing new
        self._listed_s = 0.0  # when the newest List that was taken over was begun

    def take_in_hand(self, token: str, demand: Resources, images: tuple[Image, ...]) -> None:
        """A create has begun."""
        self.boot_queue.forecast(token, images, self._clock.monotonic_s())
        self.boot_queue.waits(token, images)
        self.creating[token] = demand
        self.taken = self.taken.plus(demand)

    def merge(self, rows: list[Observed], begun_s: float) -> tuple[list[Observed], list[str]]:
        """Take over a List that was begun then; return what is new or other, and what is gone."""
        if begun_s < self._listed_s:
            return [], []  # it was slow, and a newer one has been taken over
        self._listed_s = begun_s
        listed = {row.uid for row in rows}
        changed = [r for r in rows if self.rows.get(r.uid) != r and self._seen_s.get(r.uid, 0.0) < begun_s]
        gone = [uid for uid in self.rows if uid not in listed and self._seen_s[uid] < begun_s]
        ended = [row for row in changed if row.state is not VmState.PENDING and self.is_pending(row.uid)]
        for row in changed:
            self.put(row)
        for uid in gone:
            self._drop(uid)
        self.looked(ended)
        return changed, gone

    def looked(self, ended: Sequence[Observed]) -> None:
        """What flintlockd shows was looked at and taken over: these wait for their boot no longer."""
        now_s = self._clock.monotonic_s()
        booted = [row for row in ended if row.state is VmState.CREATED]
        if len(booted) < len(ended):
            self.boot_queue.boots.gave_up()
        self.boot_queue.looked([(row.token, row.images) for row in booted], now_s, len(self.creating))

    def is_pending(self, uid: str) -> bool:
        """Whether it was seen waiting for its boot."""
        row = self.rows.get(uid)
        return row is not None and row.state is VmState.PENDING

    def put(self, row: Observed) -> None:
        """Take over what flintlockd shows of one microVM."""
        old = self.rows.get(row.uid)
        if old:
            self._add(old, -1)
        else:
            self.no_longer_in_hand(row.token)
        self._seen_s[row.uid] = self._clock.monotonic_s()
        self.rows[row.uid] = row
        self._add(row, 1)

    def no_longer_in_hand(self, token: str) -> None:
        """A create has ended, or flintlockd shows its microVM already: either way it is counted once."""
        demand = self.creating.pop(token, None)
        if demand:
            self.boot_queue.waits_no_longer(token)
            self.taken = self.taken.minus(demand)

    def _drop(self, uid: str) -> None:
        row = self.rows.pop(uid)
        del self._seen_s[uid]
        self._add(row, -1)

    def _add(self, row: Observed, sign: int) -> None:
        self.taken = self.taken.plus(row.demand) if sign > 0 else self.taken.minus(row.demand)
        if row.state is VmState.PENDING and sign > 0:
            self.boot_queue.waits(row.token or row.uid, row.images)
        elif row.state is VmState.PENDING:
            self.boot_queue.waits_no_longer(row.token or row.uid)
