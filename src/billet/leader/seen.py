"""What one connected host has reported, as the reconciler compares it with the ledger."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from billet.core.model import Host, Observed, VmState
from billet.core.report import InventoryUpdate, Report
from billet.core.state import State


@dataclass(slots=True)
class Seen:
    """What one connected host has reported."""

    host: Host
    rows: dict[str, Observed] = field(default_factory=dict)  # by uid
    creating: set[str] = field(default_factory=set)  # tokens of creates in hand
    deleted: dict[str, Observed] = field(default_factory=dict)  # by uid: the ledger may not have these Deletes
    dirty: set[str] = field(default_factory=set)  # uids to reconcile
    complete: bool = False  # a full inventory has arrived
    reconciled: bool = False  # its record and its full inventory are in the ledger
    report: Report | None = None
    reported_at_s: float = 0.0  # monotonic

    def take(self, inventory: InventoryUpdate) -> None:
        """Take over an inventory, and note what is to be reconciled."""
        if inventory.full:
            self.dirty.update(self.rows, self.deleted)
            self.rows.clear()
            self.complete, self.reconciled = True, False
        for row in inventory.seen:
            self.rows[row.uid] = row
            self.dirty.add(row.uid)
        for uid in inventory.gone:
            self.rows.pop(uid, None)
            self.dirty.add(uid)
        self.creating = set(inventory.creating)
        for row in inventory.deleted:
            if inventory.full or row.uid in self.dirty:
                self.deleted[row.uid] = row
                self.dirty.add(row.uid)

    def in_hand(self, uids: set[str], state: State, in_hand: Collection[str]) -> set[str]:
        """The uids of those placements `in_hand` that a create or delete works on: reconciled once that is done."""
        held = set()
        for uid in uids:
            placement = state.of_uid(uid)
            row = self.rows.get(uid) or self.deleted.get(uid)
            if (placement and placement.id in in_hand) or (row and row.token in in_hand):
                held.add(uid)
        return held

    def ending(self) -> dict[str, Observed]:
        """What the ledger may still have once this host is back, and its agent may have forgotten: see `deleted`."""
        deleting = {uid: row for uid, row in self.rows.items() if row.state is VmState.DELETING and row.token}
        return {**self.deleted, **deleting}
