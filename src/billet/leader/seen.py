"""What one connected host has reported, as the reconciler compares it with the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from billet.core.model import Host, Observed, VmState
from billet.core.report import InventoryUpdate, Report


@dataclass(slots=True)
class Seen:
    """What one connected host has reported."""

    host: Host
    rows: dict[str, Observed] = field(default_factory=dict)  # by uid
    creating: set[str] = field(default_factory=set)  # tokens of creates in hand
    deleted: dict[str, Observed] = field(default_factory=dict)  # by uid: the ledger may not have these Deletes
    dirty: set[str] = field(default_factory=set)  # uids to reconcile
    complete: bool = False  # a full inventory has arrived
    report: Report | None = None
    reported_at_s: float = 0.0  # monotonic

    def take(self, inventory: InventoryUpdate) -> None:
        """Take over an inventory, and note what is to be reconciled."""
        if inventory.full:
            self.dirty.update(self.rows, self.deleted)
            self.rows.clear()
            self.complete = True
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

    def ending(self) -> dict[str, Observed]:
        """What the ledger may still have once this host is back, and its agent may have forgotten: see `deleted`."""
        deleting = {uid: row for uid, row in self.rows.items() if row.state is VmState.DELETING and row.token}
        return {**self.deleted, **deleting}
