"""The host's side of an auction: a bid with its score, or a refusal with its reason."""

from __future__ import annotations

from billet.core.constraints import violation
from billet.core.model import Auction, Bid, Facts, Host, HostView, Reason, Refusal, Resources
from billet.core.scoring import Weights, price

FIRECRACKER = "firecracker"
PROVIDERS = frozenset({FIRECRACKER, "cloudhypervisor"})
CAPABILITY_REASONS = frozenset({Reason.PROVIDER, Reason.MACVTAP, Reason.VIRTIOFS})


def bid(
    host: Host,
    taken: Resources,
    facts: Facts,
    auction: Auction,
    weights: Weights,
    missing: int = 0,
    coming: int = 0,
) -> Bid | Refusal:
    """A host's answer to a call for bids, from what it counts as taken and its own facts.

    `missing` is the number of images that it would have to pull for this microVM, `coming` the number of those that
    it is already pulling for others.
    """
    refusal = cannot(host, auction) or no_room(host.id, host.allocatable, taken, auction.demand)
    if refusal:
        return refusal
    weights = weights.under(auction.constraints.policy)
    score = price(host.allocatable, taken, auction.demand, facts, weights, missing)
    return Bid(host.id, score, taken, facts, missing, coming)


def cannot(host: Host, auction: Auction) -> Refusal | None:
    """Why a host cannot run this microVM even if it is empty; None if it can.

    An empty provider means the host's default. If that is unknown too, flintlockd decides.
    """
    refusal = closed(host.id, host) or violation(host, auction.constraints)
    if refusal:
        return refusal
    provider = auction.provider or host.provider
    reason = incapable(provider, auction)
    return Refusal(host.id, reason, provider) if reason else None


def incapable(provider: str, auction: Auction) -> Reason | None:
    """Why a provider cannot run this microVM; None if it can. Provider "" is unknown and may be any."""
    if provider == FIRECRACKER and auction.needs_macvtap:
        return Reason.MACVTAP
    if provider == FIRECRACKER and auction.needs_virtiofs:
        return Reason.VIRTIOFS
    return Reason.PROVIDER if auction.provider and provider not in PROVIDERS else None


def closed(host_id: str, host: Host | HostView) -> Refusal | None:
    """Why a host takes no new microVMs at all: it is fenced or cordoned. None if it is open."""
    if host.fenced:
        return Refusal(host_id, Reason.FENCED)
    return Refusal(host_id, Reason.CORDONED) if host.cordoned else None


_SHORTAGES = (
    (Reason.NO_VCPU, "vCPU"),
    (Reason.NO_MEMORY, "MiB memory"),
    (Reason.NO_DISK, "MiB disk"),
    (Reason.NO_SLOT, "microVM slots"),
)


def no_room(host_id: str, allocatable: Resources, taken: Resources, demand: Resources) -> Refusal | None:
    """The first resource that a host lacks, with the amounts needed and free; None if there is room."""
    if allocatable.has_room(taken, demand):  # the usual case, without building the difference
        return None
    for (reason, unit), wanted, free in zip(_SHORTAGES, demand, allocatable.minus(taken), strict=True):
        if wanted > free:
            return Refusal(host_id, reason, f"needs {wanted} {unit}, {max(free, 0)} free")
    return None
