"""Reconcile the ledger with what the hosts show (promise 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError
from billet.core.identity import with_marks
from billet.core.model import Host, Observed, Placement
from billet.core.reconcile import (
    expired,
    is_clean,
    is_released,
    newest_end_s,
    overdue,
    release,
    repair,
    to_delete,
    waits,
)  # fmt: skip
from billet.core.report import InventoryUpdate, Report
from billet.core.state import Change, PutPlacement, holds_room
from billet.leader.deletes import Delete, Deletes
from billet.leader.ledger import Ledger
from billet.leader.presence import Presence
from billet.leader.seen import Seen
from billet.leader.steady_clock import SteadyClock
from billet.ports import Clock

log = structlog.get_logger()

SWEEP_S = 30.0  # longest time between two looks at a host, whether it sent something or not
REPORTS_MISSED = 3  # intervals without a report after which flintlockd is taken to have hung
AT_ONCE = 50  # hosts
RETRY_S = 1.0  # pause after the store refused a commit
GATHER_S = 0.005  # what happens within this time is looked at together, and behind the replies of creates
# A living agent reconnects within this time after its link closed or a new leader was elected. Before that, a dead
# host cannot be told from one that is reconnecting.
SURELY_AWAY_S = 5.0
WATCH_S = 1.0  # how often hosts are checked for --fence-after-s


class Reconciler:
    """Level-triggered: compares what hosts show now with the ledger, so a missed event does no harm."""

    def __init__(
        self, ledger: Ledger, clock: Clock, resolve_after_s: float, keep_lost_s: float, delete: Delete,
        fence_after_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.seen: dict[str, Seen] = {}
        self.ready = Presence()
        self._ledger = ledger
        self._clock = clock
        self._steady = SteadyClock(clock, newest_end_s(ledger.state))
        self._resolve_after_s = resolve_after_s
        # Reservations expire at sweeps, so sweeps must be more frequent than the shortest expiry.
        self._sweep_s = min(SWEEP_S, max(resolve_after_s / 2, 1.0))
        self._keep_lost_s = keep_lost_s
        self._fence_after_s = fence_after_s  # 0 = only the operator fences
        self._deletes = Deletes(delete)
        self._dirty: set[str] = set()  # hosts to reconcile
        self._fencing: dict[str, asyncio.Event] = {}  # hosts to fence; set when done, or when the term is over
        self._overdue: set[str] = set()  # those that no operator wanted fenced
        self.corrected: Callable[[Sequence[Change]], None] = lambda changes: (
            None
        )  # is told what the hosts' views change
        self.fenced_itself: Callable[[str, int], None] = lambda host_id, released: None
        self._idle_since_s: dict[str, dict[str, float]] = {}  # monotonic, by host and placement
        self._begun_s = clock.monotonic_s()
        self._watch_at_s = 0.0
        self._ending: dict[str, dict[str, Observed]] = {}  # by host that is away: see Seen.ending
        self._left_s: dict[str, float] = {}  # by host: when its link closed, monotonic

    # Events from the link (ports.HostsListener).

    def joined(self, host: Host) -> None:
        """A host has connected."""
        self.seen[host.id] = Seen(host, deleted=self._ending.pop(host.id, {}))
        self.ready.expect(host.id)
        self._mark_dirty(host.id)

    def redescribe(self, host: Host) -> None:
        """The record of a connected host is to be this one."""
        self.seen[host.id].host = host
        self._mark_dirty(host.id)

    def reported(self, host_id: str, report: Report) -> None:
        """A host has sent a report."""
        seen = self.seen.get(host_id)
        if seen:
            now_s = self._clock.monotonic_s()
            late = seen.report is not None and now_s - seen.reported_at_s > REPORTS_MISSED * report.interval_s
            seen.report, seen.reported_at_s = report, now_s
            if late or not report.daemon_ok:  # flintlockd did not answer, and may have microVMs that it did not show
                self._idle_since_s.pop(host_id, None)

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """A host has sent its full inventory, or the changes since the last one."""
        seen = self.seen.get(host_id)
        if seen is None:
            return
        if inventory.full:
            seen.dirty |= self._uids_in_ledger(host_id)
        seen.take(inventory)
        self._not_idle(seen.creating & self._ledger.state.on_host.get(host_id, set()))
        self._mark_dirty(host_id)

    def left(self, host_id: str) -> None:
        """A host has disconnected. Its placements stay as they are."""
        seen = self.seen.pop(host_id, None)
        if seen and (ending := seen.ending()):
            self._ending[host_id] = ending
        self.ready.discard(host_id)
        self._dirty.discard(host_id)
        self._idle_since_s.pop(host_id, None)  # what happens there while it is away, nobody sees
        self._left_s[host_id] = self._clock.monotonic_s()

    def age_s(self, seen: Seen) -> float:
        """Seconds since a host's last report."""
        return self._clock.monotonic_s() - seen.reported_at_s

    def away_s(self, host_id: str) -> float | None:
        """Seconds since a host disconnected, or since this term began; None while it is connected."""
        if host_id in self.seen:
            return None
        return self._clock.monotonic_s() - self._left_s.get(host_id, self._begun_s)

    async def fence(self, host_id: str) -> None:
        """Fence an absent host; return once its placements are released, or when the term is over."""
        done = self._fencing.setdefault(host_id, asyncio.Event())
        self._ledger.wake.set()
        await done.wait()

    def _mark_dirty(self, host_id: str) -> None:
        self._dirty.add(host_id)
        self._ledger.wake.set()

    # The loop.

    async def run(self) -> None:
        """Reconcile until the term is over."""
        next_sweep_s = self._clock.monotonic_s() + self._sweep_s
        try:
            while not self._ledger.over.is_set():
                now_s = self._clock.monotonic_s()
                sweep = now_s >= next_sweep_s
                if sweep:
                    next_sweep_s = now_s + self._sweep_s
                self._ledger.wake.clear()
                self._not_idle(self._ledger.let_go)
                self._ledger.let_go.clear()
                self._fence_the_overdue()
                refused = await self._pass(sorted(self.seen if sweep else self._dirty), sweep)
                pause_s = RETRY_S if refused else max(next_sweep_s - now_s, 0.0)
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(pause_s, WATCH_S) if self._fence_after_s else pause_s):
                        await self._ledger.wake.wait()
                await asyncio.sleep(GATHER_S)
        finally:
            for done in self._fencing.values():
                done.set()
            await self._deletes.close()

    async def _pass(self, host_ids: list[str], sweep: bool) -> bool:
        """Reconcile these hosts, some at a time. Return True when the store refused something, so that it is retried.

        Nothing else reconciles placements, and one host is either released or reconciled, never both at once.
        """
        refused = False
        work = [self._release(host_id) for host_id in self._fencing]
        for at in range(0, max(len(host_ids), 1), AT_ONCE):
            if at:
                await asyncio.sleep(0)  # the leader's lease has to be kept alive
            some = [one for one in host_ids[at : at + AT_ONCE] if one in self.seen and one not in self._fencing]
            work += [self._reconcile_host(host_id, self.seen[host_id], sweep) for host_id in some]
            refused |= any(await asyncio.gather(*work))
            work = []
        return refused

    def _fence_the_overdue(self) -> None:
        now_s = self._clock.monotonic_s()
        if not self._fence_after_s or now_s < self._watch_at_s:
            return
        self._watch_at_s = now_s + WATCH_S  # not for every create that wakes the loop
        state = self._ledger.state
        away_s = {host_id: away for host_id in state.hosts if (away := self.away_s(host_id)) is not None}
        for host_id in overdue(state, away_s, max(self._fence_after_s, SURELY_AWAY_S)):
            if host_id not in self._fencing:
                log.warning("fencing host: away too long", host=host_id, away_s=round(away_s[host_id]))
                self._fencing[host_id] = asyncio.Event()
                self._overdue.add(host_id)

    async def _release(self, host_id: str) -> bool:
        """Fence a host: stop awards to it, then release its placements. Return True when the store refused.

        Placements in hand are released later; that is soon, because the host's link is closed.
        """
        ledger = self._ledger
        try:
            known = ledger.state.hosts.get(host_id)
            if known and not known.fenced and host_id in self.seen:
                log.warning("host not fenced: it reconnected before", host=host_id)
                self._fencing.pop(host_id).set()
                ledger.wake.set()  # it may be reconciled again
                return False
            await ledger.amend(host_id, lambda known: replace(known, fenced=True) if known else None)
            changes = release(ledger.state, host_id, ledger.in_hand, self._steady.now_s())
            await self._write(changes)
        except (StaleTerm, CommitOutcomeUnknown):
            return False
        except StoreError as error:
            log.warning("fence not written, retrying", host=host_id, error=error.text)
            return True
        if is_released(ledger.state, host_id):
            log.warning("host fenced", host=host_id, released=len(changes))
            if host_id in self._overdue:
                self._overdue.discard(host_id)
                self.fenced_itself(host_id, len(changes))
            self._fencing.pop(host_id).set()
            ledger.wake.set()  # reconcile it now if it is back already
        return False

    async def _reconcile_host(self, host_id: str, seen: Seen, sweep: bool) -> bool:
        """Reconcile one host's placements with what it shows. Return True when the store refused."""
        uids: set[str] = set()
        try:
            await self._ledger.amend(host_id, lambda known: with_marks(seen.host, known))
            if self.seen.get(host_id) is not seen:
                return False  # it has reconnected meanwhile
            fenced = self._ledger.state.hosts[host_id].fenced
            # No await from here to the computed changes: they describe the host at one moment.
            uids, seen.dirty = seen.dirty, set()
            if sweep and seen.complete:
                uids.update(seen.rows, self._uids_in_ledger(host_id))
            seen.dirty |= self._in_hand(seen, uids)
            await self._write(self._changes(host_id, seen, uids, sweep or fenced))
            for uid in uids - seen.dirty - seen.rows.keys():
                seen.deleted.pop(uid, None)  # recorded
            if fenced and seen.complete and is_clean(self._ledger.state, host_id):
                await self._ledger.amend(host_id, lambda known: replace(known, fenced=False) if known else None)
                log.info("fenced host is clean and may bid again", host=host_id)
        except (StaleTerm, CommitOutcomeUnknown):
            return False
        except StoreError as error:
            log.warning("host changes not written, retrying", host=host_id, error=error.text)
            seen.dirty |= uids
            return True
        if self.seen.get(host_id) is seen:
            self._follow_up(host_id, seen, uids)
            if not seen.dirty:
                self._dirty.discard(host_id)
        return False

    def _follow_up(self, host_id: str, seen: Seen, uids: Iterable[str]) -> None:
        """Request deletes and let the host bid, now that the ledger agrees with what it shows."""
        state, in_hand = self._ledger.state, self._ledger.in_hand
        if not seen.complete:
            return
        self._deletes.want(host_id, to_delete(state, host_id, seen.rows, sorted(uids), in_hand))
        host = state.hosts.get(host_id)
        if host and not host.fenced:
            self.ready.add(host_id)

    def _changes(self, host_id: str, seen: Seen, uids: Iterable[str], expire: bool) -> list[Change]:
        if not seen.complete:
            return []
        state, in_hand, now_s = self._ledger.state, self._ledger.in_hand, self._steady.now_s()
        changes = repair(state, host_id, seen.rows, sorted(uids), in_hand, now_s, seen.deleted)
        if expire and (seen.report is None or seen.report.daemon_ok):
            changes += expired(
                state,
                host_id,
                seen.rows,
                seen.creating,
                in_hand,
                self._idle_s(host_id, seen),
                now_s,
                self._resolve_after_s,
                self._keep_lost_s,
            )
        return changes

    def _not_idle(self, placement_ids: Iterable[str]) -> None:
        """Somebody works, or has just worked, on these placements: their idle time begins anew."""
        for placement_id in placement_ids:
            placement = self._ledger.state.placements.get(placement_id)
            if placement and placement.host in self._idle_since_s:
                self._idle_since_s[placement.host].pop(placement_id, None)

    def _idle_s(self, host_id: str, seen: Seen) -> dict[str, float]:
        """Seconds for which each placement that waits has been idle in this term: no server or agent works on it."""
        state, now_s = self._ledger.state, self._clock.monotonic_s()
        before = self._idle_since_s.get(host_id, {})
        since = self._idle_since_s[host_id] = {
            placement_id: before.get(placement_id, now_s)
            for placement_id in state.on_host.get(host_id, ())
            if waits(state.placements[placement_id])
            and placement_id not in self._ledger.in_hand
            and placement_id not in seen.creating
        }
        shown_s = seen.reported_at_s if seen.report else now_s  # a List is seconds older; a hanging one stops reports
        return {placement_id: shown_s - since_s for placement_id, since_s in since.items()}

    async def _write(self, changes: list[Change]) -> None:
        """Write changes: those that take room through claim(), all others first, through finish().

        Nothing may be awaited between the computing of the changes and this call.
        """
        claims: list[PutPlacement] = []
        others: list[Change] = []
        for change in changes:
            if isinstance(change, PutPlacement) and self._takes_room(change.placement):
                claims.append(change)
            else:
                others.append(change)
        with self._ledger.writing(changes):
            await self._ledger.finish_each(others)
            await self._ledger.claim_each(claims)
        self.corrected(changes)

    def _takes_room(self, placement: Placement) -> bool:
        old = self._ledger.state.placements.get(placement.id)
        if old and old.host != placement.host:
            log.warning(
                "microVM shown by another host: was the host renamed, or has one flintlockd two agents?",
                uid=placement.uid, before=old.host, now=placement.host,
            )  # fmt: skip
        known = old and holds_room(old) and (old.host, old.demand) == (placement.host, placement.demand)
        return holds_room(placement) and not known

    def _in_hand(self, seen: Seen, uids: set[str]) -> set[str]:
        """The uids that a create or delete is working on. They are reconciled once that is done."""
        state, in_hand = self._ledger.state, self._ledger.in_hand
        held = set()
        for uid in uids:
            placement = state.of_uid(uid)
            row = seen.rows.get(uid) or seen.deleted.get(uid)
            if (placement and placement.id in in_hand) or (row and row.token in in_hand):
                held.add(uid)
        return held

    def _uids_in_ledger(self, host_id: str) -> set[str]:
        state = self._ledger.state
        placements = (state.placements[placement_id] for placement_id in state.on_host.get(host_id, ()))
        return {placement.uid for placement in placements if placement.uid}
