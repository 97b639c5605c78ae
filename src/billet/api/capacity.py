"""Fleet.Capacity: how many microVMs of one shape fit now, and on which hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from billet.api.fleet_summary import host_state, put_resources
from billet.core.auction import MEMORY_MIB_LIMITS, VCPU_LIMITS, grouped, hopeless
from billet.core.bidding import PROVIDERS
from billet.core.constraints import unmet
from billet.core.errors import InvalidRequest
from billet.core.model import Auction, Reason, Refusal
from billet.core.questions.capacity import capacity, no_more
from billet.leader.leadership import Leadership
from billet.wire import flintlock as wire
from billet.wire.headers import ZONE
from billet.wire.pb import fleet_pb2 as pb

MOST = (1 << 31) - 1  # of what an int32 holds


def capacity_reply(leadership: Leadership, request: bytes, metadata: Mapping[str, str]) -> pb.CapacityReply:
    """The leader's answer. Raises InvalidRequest for a shape that no flintlockd takes."""
    wanted = wire.parse(pb.CapacityRequest, request)
    auction = wire.read_spec(wanted.microvm, "capacity", metadata.get(ZONE, ""))
    auction = replace(auction, namespace=wanted.microvm.namespace)  # without one, no groups and no quota
    if hopeless(auction):
        raise InvalidRequest(_limits())
    state, ready = leadership.ledger.state, leadership.reconciler.ready
    rows, turned_away = ready.rows(state.fleet), _turned_away(leadership, auction)
    quotas = leadership.rules.quotas if auction.namespace else {}
    found = capacity(state, rows, auction, turned_away, quotas)
    reply = pb.CapacityReply(
        fits=found.fits,
        quota_left=None if found.quota is None else min(found.quota, MOST),
        demand=put_resources(auction.demand),
    )
    for host_id, fits in sorted(found.by_host.items()):
        reply.hosts.add(host=host_id, zone=state.hosts[host_id].zone, fits=fits)
    missing = unmet(state.hosts.values(), auction.constraints)
    for text in missing:
        reply.refused.add(reason=text, hosts=len(state.hosts))
    if sum(found.by_host.values()) < wanted.count and not missing:
        for one in grouped(no_more(state, rows, auction, turned_away, found)):
            reply.refused.add(reason=one.reason.value, hosts=one.hosts, details=one.details)
    return reply


def _turned_away(leadership: Leadership, auction: Auction) -> dict[str, Refusal]:
    """The connected hosts that would refuse now: suspect ones, and those whose flintlockd does not answer."""
    state, ready = leadership.ledger.state, leadership.reconciler.ready
    down = {
        host_id: Refusal(host_id, Reason.DAEMON_AWAY)
        for host_id in ready
        if (host := state.hosts.get(host_id)) and host_state(leadership, host) == pb.DAEMON_DOWN
    }
    return leadership.health.turned_away(auction, [host_id for host_id in ready if host_id not in down]) | down


def _limits() -> str:
    return (
        f"flintlockd takes {VCPU_LIMITS[0]} to {VCPU_LIMITS[-1]} vCPU, {MEMORY_MIB_LIMITS[0]} to "
        f"{MEMORY_MIB_LIMITS[-1]} MiB of memory, and provider {' or '.join(sorted(PROVIDERS))}"
    )
