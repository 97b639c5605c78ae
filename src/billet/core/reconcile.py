"""Reconciliation of placements (the store) with running microVMs (the hosts, the source of truth; promise 6).

docs/reconciler.md lists every case in a table; a test walks through it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from billet.core.model import REQUESTED, Observed, Placement, PlacementState, VmState
from billet.core.state import Change, DropPlacement, PutPlacement, State

# A server that loses the leader sends a create to the next one, until it has had that create for this long. A leader
# that was lost may have carried it out, and a client that saw its microVM in a list may have deleted that: the next
# leader must still know the token then. The difference is for calls on their way.
RESEND_S = 120.0
KEEP_DELETED_S = RESEND_S + 30.0
# What a Delete may end that the ledger has not recorded: also a create whose uid no leader has learned.
DELETABLE = (PlacementState.RESERVED, PlacementState.STARTED, PlacementState.LOST)


def repair(
    state: State,
    host_id: str,
    rows: Mapping[str, Observed],
    uids: Iterable[str],
    in_hand: Collection[str],
    now_s: float,
    deleted: Mapping[str, Observed] = MappingProxyType({}),
) -> list[Change]:
    """The changes that bring the placements of these uids in line with what the host lists.

    `rows` is everything that the host lists now, by uid. Placements in hand (a create or a delete is under way) are
    skipped: that operation finishes them, and they are reconciled afterwards. `deleted` is what the host has deleted
    by a leader's order, by uid; an earlier leader may have ended before it recorded that.
    """
    changes: list[Change] = []
    for uid in uids:
        row, ended = rows.get(uid), deleted.get(uid)
        known = row or ended
        placement = state.of_uid(uid) or (by_token(state, known) if known else None)
        if (placement and placement.id in in_hand) or (known and known.token in in_hand):
            continue
        if placement is None and (uid in state.placements or uid.startswith(REQUESTED)):
            continue  # no uid of flintlockd: adopted, it would replace that placement, or answer a request id
        change = _appeared(placement, host_id, row, now_s) if row else _vanished(placement, host_id, ended, now_s)
        if change:
            changes.append(change)
    return changes


def by_token(state: State, row: Observed) -> Placement | None:
    """The placement that waits for this microVM: it has the token, the same name, and no uid so far.

    A token proves little. It is visible in flintlockd's metadata, so a spec that was copied carries it too: a
    placement that has its microVM keeps it, and another one with the same token is a microVM of its own.
    """
    placement = state.placements.get(row.token)
    if placement and not placement.uid and (placement.namespace, placement.name) == (row.namespace, row.name):
        return placement
    return None


def _appeared(placement: Placement | None, host_id: str, row: Observed, now_s: float) -> Change | None:
    """A host lists a microVM: adopt it, resolve its reservation, or update its placement."""
    state = PlacementState.RELEASING if row.state is VmState.DELETING else PlacementState.STARTED
    if placement and placement.state is PlacementState.FENCED:
        return _released_and_here(placement, host_id, row)
    # An acknowledged delete stays acknowledged, whatever a host lists at the moment.
    if placement and placement.uid == row.uid and placement.state in (PlacementState.RELEASING, PlacementState.GONE):
        state = PlacementState.RELEASING
    if placement and placement.uid == row.uid and placement.host != host_id:
        # The same microVM: its host came back under another name, or has two agents.
        return PutPlacement(replace(placement, host=host_id, state=state, demand=row.demand, changed_at_s=now_s))
    if placement is None or placement.host != host_id:
        return PutPlacement(
            Placement(
                # Not its token: that would replace a placement of this id, or answer a request id of a client.
                id=row.uid,
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
    if (placement.state, placement.uid, placement.demand) == (state, row.uid, row.demand):
        return None
    return PutPlacement(replace(placement, state=state, uid=row.uid, demand=row.demand, changed_at_s=now_s))


def answered(state: State, made: Placement) -> list[Change] | None:
    """The changes that end a create, `made` by its host's answer. None: the uid is another placement's.

    If the reservation had expired before the host showed the microVM, that was adopted: then it becomes the create's.
    """
    owner = state.of_uid(made.uid)
    if owner is None or owner.id == made.id:
        return [PutPlacement(made)]
    return [DropPlacement(owner.id), PutPlacement(made)] if owner.adopted and owner.host == made.host else None


def _released_and_here(placement: Placement, host_id: str, row: Observed) -> Change | None:
    """A host lists a placement that a fence released: note its uid, for `to_delete`; never adopt it."""
    if placement.uid or placement.host != host_id:
        return None
    return PutPlacement(replace(placement, uid=row.uid))  # only its token was known


def _vanished(placement: Placement | None, host_id: str, deleted: Observed | None, now_s: float) -> Change | None:
    """A host no longer lists a microVM: its delete is complete, the fenced host is clean of it, or it is lost."""
    if placement is None or placement.host != host_id:
        return None
    state = placement.state
    recorded = state in (PlacementState.RELEASING, PlacementState.FENCED)
    if recorded or (deleted and state in DELETABLE):
        if placement.adopted:
            return DropPlacement(placement.id)  # no create can be sent again
        uid = deleted.uid if deleted else placement.uid
        return PutPlacement(replace(placement, state=PlacementState.GONE, uid=uid, changed_at_s=now_s))
    if state is PlacementState.STARTED:
        return PutPlacement(replace(placement, state=PlacementState.LOST, changed_at_s=now_s))
    return None


def expired(
    state: State,
    host_id: str,
    rows: Mapping[str, Observed],
    creating: Collection[str],
    in_hand: Collection[str],
    idle_s: Mapping[str, float],
    now_s: float,
    resolve_after_s: float,
    keep_lost_s: float,
) -> list[Change]:
    """The changes that drop this host's failed reservations, and ended placements that were kept long enough.

    A reservation that a fence released ends in the same way. `rows` is everything that the host lists; placements in
    it are left to `repair`. `creating` are the tokens of creates that the host's agent has in hand. `idle_s` is how
    long each placement that `waits` has not been in hand. It is not computed from `changed_at_s`, a wall clock that
    may have been set since or be another server's: room that is given back too early cannot be taken back.
    """
    changes: list[Change] = []
    busy = {*in_hand, *creating}
    shown = {(row.token, row.namespace, row.name) for row in rows.values()}
    for placement_id in sorted(state.on_host.get(host_id, ())):
        placement = state.placements[placement_id]
        known = placement.uid in rows or (placement_id, placement.namespace, placement.name) in shown
        if known or placement_id in busy:
            continue
        if waits(placement):
            limit_s = resolve_after_s if is_reservation(placement) else KEEP_DELETED_S
            over = idle_s.get(placement_id, 0.0) >= limit_s
        else:
            over = placement.state in REMEMBERED and now_s - placement.changed_at_s >= keep_lost_s
        if over:
            changes.append(DropPlacement(placement_id))
    return changes


REMEMBERED = (PlacementState.LOST, PlacementState.GONE)


def newest_end_s(state: State) -> float | None:
    """The newest time at which a placement that is still remembered has ended; None if there is none."""
    return max((p.changed_at_s for p in state.placements.values() if p.state in REMEMBERED), default=None)


def is_reservation(placement: Placement) -> bool:
    """Whether no host has listed the placement's microVM so far."""
    return placement.state is PlacementState.RESERVED or (
        placement.state is PlacementState.FENCED and not placement.uid
    )


def waits(placement: Placement) -> bool:
    """Whether a placement ends after it was idle for a while: a reservation, or a deleted one without request id."""
    return is_reservation(placement) or (
        placement.state is PlacementState.GONE and not placement.id.startswith(REQUESTED)
    )


def to_delete(
    state: State, host_id: str, rows: Mapping[str, Observed], uids: Iterable[str], in_hand: Collection[str]
) -> list[str]:
    """Those of these uids that the host lists and must delete.

    Either a fence released the microVM (the host may be back under another name), or a client's Delete was
    acknowledged and the host's flintlockd has lost it.
    """
    doomed = []
    for uid in uids:
        row = rows.get(uid)
        if row is None or row.state is VmState.DELETING:
            continue
        placement = state.of_uid(uid)
        if placement is None or placement.id in in_hand:
            continue
        deleted = placement.state is PlacementState.RELEASING and (placement.host, placement.uid) == (host_id, uid)
        if deleted or placement.state is PlacementState.FENCED:
            doomed.append(uid)
    return doomed


# Fencing.


def release(state: State, host_id: str, in_hand: Collection[str], now_s: float) -> list[Change]:
    """The changes of a fence: all of the host's placements become FENCED, except those in hand."""
    placements = (state.placements[placement_id] for placement_id in sorted(state.on_host.get(host_id, ())))
    return [
        PutPlacement(replace(placement, state=PlacementState.FENCED, changed_at_s=now_s))
        for placement in placements
        if placement.state not in (PlacementState.FENCED, PlacementState.GONE) and placement.id not in in_hand
    ]


def is_released(state: State, host_id: str) -> bool:
    """Whether a fence has released all placements of this host."""
    released = (PlacementState.FENCED, PlacementState.GONE)
    return all(state.placements[id_].state in released for id_ in state.on_host.get(host_id, ()))


def is_clean(state: State, host_id: str) -> bool:
    """Whether a host has deleted everything that a fence released, so that it may bid again."""
    return not any(state.placements[id_].state is PlacementState.FENCED for id_ in state.on_host.get(host_id, ()))


def overdue(state: State, away_s: Mapping[str, float], fence_after_s: float) -> list[str]:
    """The hosts to fence: away for `fence_after_s` or longer. `away_s` has all hosts that are not connected.

    None while more than half of the fleet is away: then the leader itself is probably cut off, and fencing would
    delete every microVM once the network is back.
    """
    standing = {host_id for host_id, host in state.hosts.items() if not host.fenced}
    if 2 * len(standing & away_s.keys()) > len(standing):
        return []
    return [
        host_id
        for host_id, seconds in away_s.items()
        if seconds >= fence_after_s and (host_id in standing or not is_released(state, host_id))
    ]
