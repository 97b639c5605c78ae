"""The chronicle of one term: turns what happens into events, and hands them to the archive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from billet.core.errors import StoreError
from billet.core.events import (
    Event,
    EventType,
    Known,
    about,
    drained,
    of_change,
    refused,
)
from billet.core.memory import remember
from billet.core.model import Host, Observed, Placement, PlacementState, VmState
from billet.core.plural import counted
from billet.core.report import InventoryUpdate, Report
from billet.core.state import Change, PutPlacement
from billet.leader.archive import Archive
from billet.leader.health import HealthTracker
from billet.leader.ledger import Ledger
from billet.leader.reconciler import SURELY_AWAY_S, Reconciler
from billet.leader.recorder import AuctionRecorder
from billet.ports import Clock

LOOK_S = 1.0  # between two looks at what nobody reports: hosts that do not come back, hosts that are suspect
RECENT_S = 600.0  # boots that an earlier leader may not have seen the end of are looked for this far back
RECENT = 5_000  # the same in events
AWAY_TYPES = (EventType.HOST_AWAY, EventType.HOST_BACK, EventType.HOST_REMOVED)
BOOT_TYPES = (
    EventType.MICROVM_PLACED,
    EventType.MICROVM_CREATED,
    EventType.MICROVM_FAILED,
    EventType.MICROVM_DELETED,
)


class Chronicle:
    """Hears everything that hosts send, passes it on to `inner` (the reconciler), and writes the events of a term."""

    def __init__(self, ledger: Ledger, clock: Clock, archive: Archive, inner: Reconciler) -> None:
        self.health: HealthTracker | None = None  # set once it exists: it hears the hosts before this does
        self._ledger = ledger
        self._clock = clock
        self._archive = archive
        self._inner = inner
        self._begun_s = clock.monotonic_s()
        self._booting: dict[str, float] = {}  # by token: when its microVM was awarded, monotonic
        self._failing: dict[str, None] = {}  # tokens whose boot has failed; flintlockd may try again
        self._early: dict[str, Observed] = {}  # CREATED before their host had answered the order
        self._away: set[str] = set()  # hosts that are away, by the last event
        self._suspect: set[str] = set()  # hosts that are suspect, by the last event; the next leader begins anew
        self._restored = False  # what earlier leaders have written is known
        self.store_trouble: Callable[[], str] = lambda: ""  # why the store is not serving, by other calls to it
        self._refused = ""  # what the store has answered to the last commit, if that was an error
        self._in_trouble = False  # the store is, by the last event
        ledger.changed = self.changed
        ledger.stored = self.stored

    def add(self, event: Event) -> None:
        """Write an event."""
        self._archive.add_event(event)

    # What happens in the ledger.

    def changed(self, before: Known, change: Change) -> None:
        """The state has changed, and the store has it."""
        now_s = self._clock.now_s()
        if event := of_change(before, change, now_s):
            self.add(event)
        if isinstance(change, PutPlacement):
            self._placed(change.placement)
        if event := drained(self._ledger.state, before, now_s):
            self.add(event)

    def _placed(self, placement: Placement) -> None:
        if placement.state is PlacementState.RESERVED:
            remember(self._booting, placement.id, self._clock.monotonic_s())
        elif placement.state is PlacementState.STARTED and (row := self._early.pop(placement.id, None)):
            self._row(placement.host, row)

    def stored(self, error: StoreError | None) -> None:
        """The store has answered a commit; None = it has taken it."""
        if error or self._refused:
            self._refused = error.text if error else ""
            self._look_at_store()

    def _look_at_store(self) -> None:
        why = self._refused or self.store_trouble()
        if bool(why) == self._in_trouble:
            return
        self._in_trouble = bool(why)
        kind = EventType.STORE_TROUBLE if why else EventType.STORE_BACK
        self.add(Event(kind, self._clock.now_s(), why or "the store is serving"))

    def recorded(self, recorder: AuctionRecorder) -> None:
        """An auction has ended."""
        self._archive.add_auction(recorder)
        record, auction = recorder.record, recorder.record.auction
        if record.outcome == "created":
            return
        kind, text = EventType.MICROVM_FAILED, record.text
        if record.outcome == "unplaced" or recorder.reasons:
            kind, text = refused(record.text, recorder.reasons)
        self.add(
            Event(
                kind, self._clock.now_s(), text or record.outcome, "", auction.namespace, auction.name,
                auction=auction.id, code=record.code,
                reasons={reason.name: hosts for reason, hosts in recorder.reasons.items()} or None,
            )
        )  # fmt: skip

    # HostsListener.

    def joined(self, host: Host) -> None:
        """See HostsListener."""
        self._inner.joined(host)
        if host.id in self._away:
            self._away.discard(host.id)
            self.add(Event(EventType.HOST_BACK, self._clock.now_s(), "is connected again", host.id))

    def left(self, host_id: str) -> None:
        """See HostsListener."""
        self._inner.left(host_id)
        if not self._ledger.over.is_set() and host_id in self._ledger.state.hosts and host_id not in self._away:
            self._went(host_id, "has lost its connection")

    def reported(self, host_id: str, report: Report) -> None:
        """See HostsListener."""
        self._inner.reported(host_id, report)

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """See HostsListener."""
        self._inner.observed(host_id, inventory)
        for row in inventory.seen:
            if row.token in self._booting:
                self._row(host_id, row)
            elif row.token and row.state is VmState.PENDING:  # awarded by an earlier leader
                remember(self._booting, row.token, self._clock.monotonic_s())

    def _row(self, host_id: str, row: Observed) -> None:
        """What a host shows of a microVM whose boot has not ended."""
        placement = self._ledger.state.placements.get(row.token)
        if placement is None or placement.host != host_id or placement.uid not in ("", row.uid):
            return
        now_s = self._clock.now_s()
        if row.state is VmState.CREATED:
            if placement.state is PlacementState.RESERVED:
                remember(self._early, row.token, row)
                return
            after_s = self._clock.monotonic_s() - self._booting.pop(row.token, self._begun_s)
            self._failing.pop(row.token, None)
            self.add(
                about(EventType.MICROVM_CREATED, placement, now_s, "CREATED")._replace(after_s=round(after_s, 3))
            )
        elif (row.state is VmState.FAILED or row.retry) and row.token not in self._failing:
            remember(self._failing, row.token, None)
            text = f"did not boot on {host_id}: {row.state.name}, retry {row.retry}"
            self.add(about(EventType.MICROVM_FAILED, placement, now_s, text))
        elif row.state is VmState.DELETING:
            self._booting.pop(row.token, None)

    def _went(self, host_id: str, text: str) -> None:
        self._away.add(host_id)
        self.add(Event(EventType.HOST_AWAY, self._clock.now_s(), text, host_id))

    # What nobody tells.

    async def run(self) -> None:
        """Write that this server leads, look for what only time shows, and write when the term is over."""
        ledger, state = self._ledger, self._ledger.state
        text = f"leads, with {counted(len(state.hosts), 'host')} and {counted(len(state.placements), 'placement')}"
        leader = ledger.term.leader.id
        self.add(Event(EventType.LEADER_CHANGED, self._clock.now_s(), text, server=leader))
        try:
            await self._restore()
            while not ledger.over.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await ledger.over.wait()
                        return
                self._look()
        finally:
            text = f"no longer leads: {ledger.why}"
            self.add(Event(EventType.LEADER_LOST, self._clock.now_s(), text, server=leader))

    async def _restore(self) -> None:
        """Take up what earlier leaders have written: trouble of the store, hosts that are away, boots in progress."""
        for event in await self._archive.events((EventType.STORE_TROUBLE, EventType.STORE_BACK), 0.0, 1):
            self._in_trouble = self._in_trouble or event.type == EventType.STORE_TROUBLE
        for event in await self._archive.events(AWAY_TYPES, 0.0, RECENT):
            (self._away.add if event.type == EventType.HOST_AWAY else self._away.discard)(event.host)
        for host_id in sorted(self._away & self._inner.seen.keys()):
            self._away.discard(host_id)
            self.add(Event(EventType.HOST_BACK, self._clock.now_s(), "is connected again", host_id))
        boots: dict[str, Event] = {}
        since_s = self._clock.now_s() - RECENT_S
        for event in await self._archive.events(BOOT_TYPES, since_s, RECENT):
            if event.type == EventType.MICROVM_PLACED:
                boots[event.auction] = event
            elif event.type == EventType.MICROVM_FAILED:
                remember(self._failing, event.auction, None)
            else:
                boots.pop(event.auction, None)
        self._restored = True
        for token, event in boots.items():
            ago_s = max(self._clock.now_s() - event.at_s, 0.0)
            self._booting[token] = min(self._booting.get(token, self._begun_s), self._clock.monotonic_s() - ago_s)
            seen = self._inner.seen.get(event.host)
            if seen and (row := seen.rows.get(event.uid)) and row.token == token:
                self._row(event.host, row)

    def _look(self) -> None:
        state = self._ledger.state
        self._look_at_store()
        if self._restored and self._clock.monotonic_s() - self._begun_s > SURELY_AWAY_S:
            for host_id in sorted(state.hosts.keys() - self._inner.seen.keys() - self._away):
                self._went(host_id, "has not connected to this leader")
        if self.health is None:
            return
        suspect = {host_id for host_id in self._inner.seen if self.health.suspects(host_id)}
        for host_id in sorted(suspect - self._suspect):
            why = self.health.trouble(host_id).why
            self.add(Event(EventType.HOST_SUSPECT, self._clock.now_s(), why, host_id))
        for host_id in sorted((self._suspect - suspect) & self._inner.seen.keys()):
            self.add(Event(EventType.HOST_RECOVERED, self._clock.now_s(), "is no longer suspect", host_id))
        self._suspect = suspect | (self._suspect - self._inner.seen.keys())
