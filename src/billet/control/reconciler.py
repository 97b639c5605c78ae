"""The leader's second loop: what the hosts show becomes what the ledger says (promise 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from billet.control.attendance import Attendance
from billet.control.ledger import Ledger
from billet.core.errors import Fenced, OutcomeUnknown, StoreError
from billet.core.model import Host, Observed, Placement
from billet.core.reconcile import expired, repair
from billet.core.state import Change, PutHost, PutPlacement, holds_room
from billet.ports import Clock, Inventory, Report

log = structlog.get_logger()

SWEEP_S = 30.0  # every host is looked at again this often, whether it said something or not
CHUNK = 100  # changes in one commit: these need not be written together, and a store takes only so many at once
RETRY_S = 1.0  # after the store refused


@dataclass(slots=True)
class Seen:
    """What one connected host has told."""

    host: Host
    rows: dict[str, Observed] = field(default_factory=dict)  # by uid
    creating: set[str] = field(default_factory=set)  # tokens
    dirty: set[str] = field(default_factory=set)  # uids to look at
    complete: bool = False  # a full inventory has come
    report: Report | None = None
    reported_at_s: float = 0.0  # monotonic


class Reconciler:
    """Level-triggered: it compares what is shown with what is promised, whatever was heard or missed between."""

    def __init__(self, ledger: Ledger, clock: Clock, settle_after_s: float, keep_lost_s: float) -> None:
        self.seen: dict[str, Seen] = {}
        self.ready = Attendance()
        self._ledger = ledger
        self._clock = clock
        self._settle_after_s = settle_after_s
        self._keep_lost_s = keep_lost_s
        self._dirty: set[str] = set()  # hosts to look at

    # What the link tells (ports.HostsListener).

    def joined(self, host: Host) -> None:
        """A host said hello."""
        self.seen[host.id] = Seen(host)
        self.ready.discard(host.id)
        self._look_at(host.id)

    def reported(self, host_id: str, report: Report) -> None:
        """A host measured itself."""
        seen = self.seen.get(host_id)
        if seen:
            seen.report, seen.reported_at_s = report, self._clock.monotonic_s()

    def observed(self, host_id: str, inventory: Inventory) -> None:
        """A host's microVMs changed; or, in full, this is all there is."""
        seen = self.seen.get(host_id)
        if seen is None:
            return
        if inventory.full:
            seen.dirty.update(seen.rows, self._uids_in_ledger(host_id))
            seen.rows.clear()
            seen.complete = True
        for row in inventory.seen:
            seen.rows[row.uid] = row
            seen.dirty.add(row.uid)
        for uid in inventory.gone:
            seen.rows.pop(uid, None)
            seen.dirty.add(uid)
        seen.creating = set(inventory.creating)
        self._look_at(host_id)

    def left(self, host_id: str) -> None:
        """A host's link broke. Its room stays taken, and nothing is said of its microVMs."""
        self.seen.pop(host_id, None)
        self.ready.discard(host_id)
        self._dirty.discard(host_id)

    def age_s(self, seen: Seen) -> float:
        """Seconds since a host's last report."""
        return self._clock.monotonic_s() - seen.reported_at_s

    def _look_at(self, host_id: str) -> None:
        self._dirty.add(host_id)
        self._ledger.stir.set()

    # The loop.

    async def run(self) -> None:
        """Until the reign is over."""
        next_sweep_s = self._clock.monotonic_s() + SWEEP_S
        while not self._ledger.over.is_set():
            now_s = self._clock.monotonic_s()
            sweep = now_s >= next_sweep_s
            if sweep:
                next_sweep_s = now_s + SWEEP_S
            self._ledger.stir.clear()
            refused = await self._pass(set(self.seen) if sweep else set(self._dirty), sweep)
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if refused else max(next_sweep_s - now_s, 0.0)):
                    await self._ledger.stir.wait()

    async def _pass(self, host_ids: set[str], sweep: bool) -> bool:
        """Look at these hosts, all at once. True when the store refused something, to be tried again."""
        pairs = [(host_id, self.seen[host_id]) for host_id in host_ids]
        return any(await asyncio.gather(*(self._settle_host(host_id, seen, sweep) for host_id, seen in pairs)))

    async def _settle_host(self, host_id: str, seen: Seen, sweep: bool) -> bool:
        """Bring one host's placements and what it shows together. True when the store refused."""
        uids = set(seen.dirty)
        if sweep and seen.complete:
            uids.update(seen.rows, self._uids_in_ledger(host_id))
        changes = self._changes(host_id, seen, uids, sweep)
        try:
            await self._write(changes)
        except (Fenced, OutcomeUnknown):
            return False
        except StoreError as error:
            log.warning("the store did not take what a host shows; trying again", host=host_id, error=error.text)
            return True
        seen.dirty -= uids - self._in_hand(seen, uids)
        if self.seen.get(host_id) is seen:
            if seen.complete:
                self.ready.add(host_id)
            if not seen.dirty:
                self._dirty.discard(host_id)
        return False

    def _changes(self, host_id: str, seen: Seen, uids: Iterable[str], sweep: bool) -> list[Change]:
        state, in_hand, now_s = self._ledger.state, self._ledger.in_hand, self._clock.now_s()
        changes: list[Change] = []
        known = state.hosts.get(host_id)
        host = replace(seen.host, cordoned=known.cordoned) if known else seen.host  # cordoning is the operator's
        if host != known:
            changes.append(PutHost(host))
        if seen.complete:
            changes += repair(state, host_id, seen.rows, uids, in_hand, now_s)
            if sweep:
                changes += expired(
                    state, host_id, seen.creating, in_hand, now_s, self._settle_after_s, self._keep_lost_s
                )
        return changes

    async def _write(self, changes: list[Change]) -> None:
        """New microVMs take room before they are written, what is gone gives it back after."""
        claims: list[PutPlacement] = []
        others: list[Change] = []
        for change in changes:
            if isinstance(change, PutPlacement) and self._takes_room(change.placement):
                claims.append(change)
            else:
                others.append(change)
        for start in range(0, len(others), CHUNK):
            await self._ledger.settle(others[start : start + CHUNK])
        for start in range(0, len(claims), CHUNK):
            await self._ledger.claim(claims[start : start + CHUNK])

    def _takes_room(self, placement: Placement) -> bool:
        old = self._ledger.state.placements.get(placement.id)
        return holds_room(placement) and (old is None or not holds_room(old) or old.demand != placement.demand)

    def _in_hand(self, seen: Seen, uids: set[str]) -> set[str]:
        """Those of the uids that were left alone, to be looked at when whoever has them in hand is done."""
        state, in_hand = self._ledger.state, self._ledger.in_hand
        held = set()
        for uid in uids:
            placement = state.of_uid(uid)
            row = seen.rows.get(uid)
            if (placement and placement.id in in_hand) or (row and row.token in in_hand):
                held.add(uid)
        return held

    def _uids_in_ledger(self, host_id: str) -> set[str]:
        state = self._ledger.state
        placements = (state.placements[placement_id] for placement_id in state.on_host.get(host_id, ()))
        return {placement.uid for placement in placements if placement.uid}
