"""Events: what happened in the fleet, in one line each. Which change of the state is which event is decided here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import NamedTuple

from billet.core.model import Host, Placement, PlacementState, Reason
from billet.core.plural import counted
from billet.core.quotas import OVER
from billet.core.state import Change, DropHost, DropPlacement, PutHost, PutPlacement, State, holds_room

TEXT_MAX_CHARS = 500


class EventType(StrEnum):
    """The names of events. Scripts rely on them: they are never changed."""

    MICROVM_PLACED = "microvm-placed"  # a host has accepted it
    MICROVM_CREATED = "microvm-created"  # flintlockd says CREATED
    MICROVM_FAILED = "microvm-failed"  # its create, or its boot
    MICROVM_REFUSED = "microvm-refused"  # no host could take it
    MICROVM_DELETED = "microvm-deleted"  # its host no longer has it, after a Delete
    MICROVM_LOST = "microvm-lost"  # its host no longer has it, without a Delete through Billet
    MICROVM_FOUND = "microvm-found"  # one that was lost is back
    MICROVM_ADOPTED = "microvm-adopted"  # created directly on a host
    MICROVM_FENCED = "microvm-fenced"  # given up with its host
    QUOTA_HIT = "quota-hit"
    HOST_JOINED = "host-joined"  # for the first time
    HOST_AWAY = "host-away"
    HOST_BACK = "host-back"
    HOST_SUSPECT = "host-suspect"
    HOST_RECOVERED = "host-recovered"  # no longer suspect
    HOST_CORDONED = "host-cordoned"
    HOST_UNCORDONED = "host-uncordoned"
    HOST_DRAINED = "host-drained"  # cordoned, and its last microVM is gone
    HOST_FENCED = "host-fenced"
    HOST_CLEAN = "host-clean"  # fenced, and it has deleted what was given up
    HOST_REMOVED = "host-removed"
    LEADER_CHANGED = "leader-changed"
    LEADER_LOST = "leader-lost"
    STORE_TROUBLE = "store-trouble"
    STORE_BACK = "store-back"


# The events of microVMs that come and go as they should. They have a share of the log of their own: however many they
# are, they push out no other event.
ROUTINE = frozenset({EventType.MICROVM_PLACED, EventType.MICROVM_CREATED, EventType.MICROVM_DELETED})


class Event(NamedTuple):
    """One event. Fields that do not apply are empty.

    `auction` is the placement's id: the auction's, or the uid of an adopted microVM.
    """

    type: str
    at_s: float  # wall clock
    text: str  # for people
    host: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    auction: str = ""
    after_s: float | None = None  # since the award: of a CREATED microVM
    code: int = 0  # gRPC status, of a failed create
    reasons: Mapping[str, int] | None = None  # of a refusal: hosts by reason
    server: str = ""

    @property
    def microvm(self) -> str:
        """Namespace and name; "" if it is about no microVM."""
        return f"{self.namespace}/{self.name}" if self.name else ""


class Wanted(NamedTuple):
    """A filter; what is empty matches all. A type may be the beginning of one, up to a dash: microvm, host."""

    types: Collection[str] = ()
    host: str = ""
    microvm: str = ""  # uid, auction's id, name, or namespace/name

    def matches(self, event: Event) -> bool:
        """Whether an event is wanted."""
        return (
            (not self.types or any(event.type == kind or event.type.startswith(f"{kind}-") for kind in self.types))
            and self.host in ("", event.host)
            and self.microvm in ("", event.uid, event.auction, event.name, event.microvm)
        )


def unknown_types(types: Collection[str]) -> list[str]:
    """Those that match no event."""
    return [kind for kind in types if not any(known == kind or known.startswith(f"{kind}-") for known in EventType)]


def about(kind: EventType, placement: Placement, at_s: float, text: str) -> Event:
    """An event of a microVM that has a placement."""
    p = placement
    return Event(kind, at_s, text[:TEXT_MAX_CHARS], p.host, p.namespace, p.name, p.uid, p.id)


Known = Host | Placement | None


def known(state: State, change: Change) -> Known:
    """What the state has of the host or placement that a change is about."""
    match change:
        case PutPlacement(Placement(id=placement_id)) | DropPlacement(placement_id):
            return state.placements.get(placement_id)
        case PutHost(Host(id=host_id)) | DropHost(host_id):
            return state.hosts.get(host_id)
    return None


def of_change(before: Known, change: Change, at_s: float) -> Event | None:
    """The event that a change of the state is, if it is one. `before`: what was `known`."""
    match change:
        case PutPlacement(placement):
            return _of_placement(before if isinstance(before, Placement) else None, placement, at_s)
        case DropPlacement() if isinstance(before, Placement) and before.state is PlacementState.RELEASING:
            return about(EventType.MICROVM_DELETED, before, at_s, f"deleted from {before.host}")
        case PutHost(host):
            return _of_host(before if isinstance(before, Host) else None, host, at_s)
        case DropHost(host_id):
            return Event(EventType.HOST_REMOVED, at_s, "removed from the fleet", host_id)
    return None


def _of_placement(before: Placement | None, now: Placement, at_s: float) -> Event | None:
    match (before.state if before else None), now.state:
        case None, PlacementState.STARTED if now.adopted:
            return about(EventType.MICROVM_ADOPTED, now, at_s, f"created directly on {now.host}")
        case ((PlacementState.RESERVED | None), PlacementState.STARTED):
            return about(EventType.MICROVM_PLACED, now, at_s, f"{now.host} has accepted it")
        case PlacementState.LOST, PlacementState.STARTED:
            return about(EventType.MICROVM_FOUND, now, at_s, f"{now.host} has it again")
        case PlacementState.RELEASING, PlacementState.GONE:
            return about(EventType.MICROVM_DELETED, now, at_s, f"deleted from {now.host}")
        case was, PlacementState.LOST if was is not PlacementState.LOST:
            return about(EventType.MICROVM_LOST, now, at_s, f"{now.host} no longer has it")
        case was, PlacementState.FENCED if was is not PlacementState.FENCED:
            return about(EventType.MICROVM_FENCED, now, at_s, f"given up with {now.host}")
    return None


def _of_host(before: Host | None, now: Host, at_s: float) -> Event | None:
    if before is None:
        return Event(EventType.HOST_JOINED, at_s, f"joined{f' in zone {now.zone}' if now.zone else ''}", now.id)
    if before.fenced != now.fenced:
        kind, text = (
            (EventType.HOST_FENCED, "declared dead") if now.fenced
            else (EventType.HOST_CLEAN, "has deleted what was given up, and may bid again")
        )  # fmt: skip
        return Event(kind, at_s, text, now.id)
    if before.cordoned != now.cordoned:
        kind, text = (
            (EventType.HOST_CORDONED, "gets no new microVMs") if now.cordoned
            else (EventType.HOST_UNCORDONED, "may bid again")
        )  # fmt: skip
        return Event(kind, at_s, text, now.id)
    return None


def drained(state: State, before: Known, at_s: float) -> Event | None:
    """The event that the placement which has just ended was the last one of a cordoned host."""
    if not isinstance(before, Placement) or not holds_room(before):
        return None
    host = state.hosts.get(before.host)
    if host is None or not host.cordoned or host.fenced:
        return None
    left = (state.placements[placement_id] for placement_id in state.on_host.get(host.id, ()))
    if any(holds_room(placement) for placement in left):
        return None
    return Event(EventType.HOST_DRAINED, at_s, "is cordoned and has no microVM any more", host.id)


def refused(text: str, reasons: Mapping[Reason, int]) -> tuple[EventType, str]:
    """The type and the text of a create that no host could take."""
    if OVER in text:
        return EventType.QUOTA_HIT, text
    counts = sorted(reasons.items(), key=lambda pair: -pair[1])
    return EventType.MICROVM_REFUSED, "; ".join(
        f"{counted(hosts, 'host')}: {reason.value}" for reason, hosts in counts
    )
