"""Bringing together what was promised (the store) and what runs (the hosts, the source of truth; promise 6)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from billet.core.model import Observed, Placement, PlacementState, VmState
from billet.core.state import Change, DropPlacement, PutPlacement, State


def repair(
    state: State,
    host_id: str,
    rows: Mapping[str, Observed],
    uids: Iterable[str],
    in_hand: Collection[str],
    now_s: float,
) -> list[Change]:
    """The changes that make the placements of these uids say what the host shows.

    `rows` is everything that the host shows now, by uid. Placements in hand (a create or a delete is under way) are
    left alone: whoever has them in hand finishes them, and they are looked at again afterwards.
    """
    changes: list[Change] = []
    for uid in uids:
        row = rows.get(uid)
        placement = state.of_uid(uid) or (state.placements.get(row.token) if row else None)
        if placement and placement.id in in_hand:
            continue
        change = _appeared(placement, host_id, row, now_s) if row else _vanished(placement, host_id, now_s)
        if change:
            changes.append(change)
    return changes


def _appeared(placement: Placement | None, host_id: str, row: Observed, now_s: float) -> Change | None:
    """A microVM is there: adopt it, settle its reservation, or correct what is known of it."""
    state = PlacementState.RELEASING if row.state is VmState.DELETING else PlacementState.STARTED
    if placement is None or placement.host != host_id:
        return PutPlacement(
            Placement(
                # A second copy elsewhere must not replace the placement that its token names.
                id=row.uid if placement or not row.token else row.token,
                namespace=row.namespace,
                name=row.name,
                demand=row.demand,
                host=host_id,
                state=state,
                uid=row.uid,
                adopted=True,
                changed_at_s=now_s,
            )
        )
    # A delete that was acknowledged stays so, whatever the host shows for the moment.
    if placement.state is PlacementState.RELEASING:
        state = PlacementState.RELEASING
    if (placement.state, placement.uid, placement.demand) == (state, row.uid, row.demand):
        return None
    return PutPlacement(replace(placement, state=state, uid=row.uid, demand=row.demand, changed_at_s=now_s))


def _vanished(placement: Placement | None, host_id: str, now_s: float) -> Change | None:
    """A microVM is gone: its delete is complete, or it is lost."""
    if placement is None or placement.host != host_id:
        return None
    match placement.state:
        case PlacementState.RELEASING:
            return DropPlacement(placement.id)
        case PlacementState.STARTED:
            return PutPlacement(replace(placement, state=PlacementState.LOST, changed_at_s=now_s))
        case _:
            return None


def expired(
    state: State,
    host_id: str,
    creating: Collection[str],
    in_hand: Collection[str],
    now_s: float,
    settle_after_s: float,
    keep_lost_s: float,
) -> list[Change]:
    """Reservations of this host that came to nothing, and LOST placements that were shown long enough.

    Only for a host whose microVMs are all known: a reservation whose token it shows has been settled before.
    `creating` are the tokens of creates that the host's agent still has in hand.
    """
    changes: list[Change] = []
    for placement_id in state.on_host.get(host_id, ()):
        placement = state.placements[placement_id]
        if placement_id in in_hand or placement_id in creating:
            continue
        age_s = now_s - placement.changed_at_s
        limit_s = {PlacementState.RESERVED: settle_after_s, PlacementState.LOST: keep_lost_s}.get(placement.state)
        if limit_s is not None and age_s >= limit_s:
            changes.append(DropPlacement(placement_id))
    return changes
