"""The checker for quotas: a leader promises a namespace no more than its quota."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from billet.core.model import Placement, PlacementState
from billet.core.quotas import Quota
from billet.core.state import DropPlacement, PutPlacement
from billet.sim.checker_state import Violation, takes_room, total
from billet.sim.history import Committed, Event, QuotaSet


def quotas_kept(history: Sequence[Event]) -> Iterator[Violation]:
    """No new reservation takes a namespace beyond its quota.

    Billet refuses new microVMs only: those that were made on a host directly, or that were lost and are back, count
    and may exceed the quota. The checker leaves them out.
    """
    quotas: dict[str, Quota] = {}
    placements: dict[str, Placement] = {}
    lost: set[str] = set()  # ids of placements that were LOST at any time
    for event in history:
        if isinstance(event, QuotaSet):
            quotas[event.namespace] = event.quota
        if not isinstance(event, Committed):
            continue
        for change in event.changes:
            if isinstance(change, DropPlacement):
                placements.pop(change.placement_id, None)
            if not isinstance(change, PutPlacement):
                continue
            new = change.placement
            if new.state is PlacementState.LOST:
                lost.add(new.id)
            reserves = new.state is PlacementState.RESERVED and new.id not in placements
            placements[new.id] = new
            if reserves and new.namespace in quotas:
                counted = (p for p in placements.values() if takes_room(p) and not p.adopted and p.id not in lost)
                taken = total(p.demand for p in counted if p.namespace == new.namespace)
                if any(
                    limit is not None and used > limit
                    for limit, used in zip(quotas[new.namespace], taken, strict=True)
                ):
                    yield Violation(
                        1, event.at_s, f"namespace {new.namespace} was promised {taken}, beyond its quota"
                    )
