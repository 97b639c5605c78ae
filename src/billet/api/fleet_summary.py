"""The fleet in a few numbers: hosts and microVMs by state, and what is taken. For `billet status` and the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from billet.core.model import ZERO, Host, Observed, Placement, PlacementState, Resources
from billet.leader.leadership import Leadership
from billet.wire.pb import fleet_pb2 as pb

UNREACHABLE = "UNREACHABLE"  # not a state of flintlockd: the host is not connected


def fleet_summary(leadership: Leadership, server: str) -> pb.FleetSummary:
    """The numbers. May run in a thread beside the event loop: it copies each dict before it goes through it."""
    state = leadership.ledger.state
    hosts = list(state.hosts.values())
    return pb.FleetSummary(
        server=server,
        term=leadership.ledger.term.number,
        hosts=hosts_by_state(leadership, hosts),
        microvms=microvms_by_state(leadership),
        allocatable=put_resources(total(host.allocatable for host in hosts)),
        taken=put_resources(total(state.taken.get(host.id, ZERO) for host in hosts)),
        not_joined=len(leadership.admission.not_joined()),
    )


def hosts_by_state(leadership: Leadership, hosts: Iterable[Host]) -> Counter[str]:
    """How many of these hosts are in each state."""
    return Counter(pb.HostState.Name(host_state(leadership, host)) for host in hosts)


def microvms_by_state(leadership: Leadership) -> Counter[str]:
    """How many microVMs are in each state: flintlockd's if it is known, else the placement's."""
    known = (one for one in list(leadership.ledger.state.placements.values()) if one.state is not PlacementState.GONE)
    return Counter(
        (one.state is PlacementState.STARTED and vm_state(leadership, one)) or one.state.value for one in known
    )


def total(amounts: Iterable[Resources]) -> Resources:
    """The sum."""
    sums = [sum(column) for column in zip(*amounts, strict=True)]
    return Resources(*sums) if sums else ZERO


def host_state(leadership: Leadership, host: Host) -> pb.HostState.ValueType:
    """The state of a host."""
    seen = leadership.reconciler.seen.get(host.id)
    if host.fenced:
        return pb.FENCED
    if seen is None:
        return pb.AWAY
    if not seen.complete or (seen.report and not seen.report.daemon_ok):
        return pb.DAEMON_DOWN
    if host.cordoned:
        return pb.CORDONED
    return pb.SUSPECT if leadership.health.suspects(host.id) else pb.READY


def shown_row(leadership: Leadership, placement: Placement) -> Observed | None:
    """What the placement's host shows of its microVM."""
    seen = leadership.reconciler.seen.get(placement.host)
    return seen.rows.get(placement.uid) if seen else None


def vm_state(leadership: Leadership, placement: Placement) -> str:
    """flintlockd's state of a placement's microVM, UNREACHABLE, or "" if there is none yet."""
    if placement.host not in leadership.reconciler.seen:
        return UNREACHABLE
    row = shown_row(leadership, placement)
    return row.state.name if row else ""


def put_resources(value: Resources) -> pb.Resources:
    """Resources as a message."""
    return pb.Resources(vcpu=value.vcpu, memory_mib=value.memory_mib, disk_mib=value.disk_mib, vms=value.vms)
