"""Bids are accurate: whatever a host looks like, its bid is what a deliberately dumb second program says."""

import math

from hypothesis import given
from hypothesis import strategies as st

from billet.core.bidding import bid
from billet.core.model import Auction, Bid, Facts, Host, Reason, Refusal, Resources
from billet.core.scoring import DEFAULT_WEIGHTS, Weights, price
from tests.core.strategies import amounts, auctions, facts, hosts

weights = st.builds(Weights, st.floats(0, 2), st.floats(0, 2), st.floats(0.1, 60))


def dumb_bid(host, taken, known, auction, weights):
    """Written from docs/architecture.md, slowly, with none of the program's own functions."""
    if host.fenced:
        return "FENCED"
    if host.cordoned:
        return "CORDONED"
    if auction.provider not in ("", "firecracker", "cloudhypervisor"):
        return "PROVIDER"
    provider = host.provider if auction.provider == "" else auction.provider
    if provider == "firecracker" and auction.needs_macvtap:
        return "MACVTAP"
    if provider == "firecracker" and auction.needs_virtiofs:
        return "VIRTIOFS"
    if host.allocatable.vcpu - taken.vcpu - auction.demand.vcpu < 0:
        return "NO_VCPU"
    if host.allocatable.memory_mib - taken.memory_mib - auction.demand.memory_mib < 0:
        return "NO_MEMORY"
    if host.allocatable.disk_mib - taken.disk_mib - auction.demand.disk_mib < 0:
        return "NO_DISK"
    if host.allocatable.vms - taken.vms - auction.demand.vms < 0:
        return "NO_SLOT"
    after = [
        (taken.vcpu + auction.demand.vcpu) / host.allocatable.vcpu,
        (taken.memory_mib + auction.demand.memory_mib) / host.allocatable.memory_mib,
        (taken.disk_mib + auction.demand.disk_mib) / host.allocatable.disk_mib,
        (taken.vms + auction.demand.vms) / host.allocatable.vms,
    ]
    wait_s = known.boot_s * (known.pending + 1)
    extra = weights.pressure * known.pressure + weights.delay * (
        0 if wait_s == 0 else wait_s / (wait_s + weights.delay_half_s)
    )
    return sorted(after)[-1] + extra


@given(hosts, amounts, facts, auctions, weights)
def test_a_bid_is_what_a_dumb_second_program_says(host, taken, known, auction, weights):
    answer = bid(host, taken, known, auction, weights)
    expected = dumb_bid(host, taken, known, auction, weights)
    if isinstance(answer, Refusal):
        assert answer.reason.name == expected
    else:
        assert math.isclose(answer.score.total, expected, rel_tol=1e-12)
        assert answer.score.total >= answer.score.utilisation
        assert (answer.basis, answer.facts) == (taken, known)


@given(hosts, amounts, facts, auctions)
def test_a_fuller_host_never_bids_lower(host, taken, known, auction):
    one_more = taken.plus(Resources(1, 512, 0, 1))
    before = price(host.allocatable, taken, auction.demand, known, DEFAULT_WEIGHTS)
    after = price(host.allocatable, one_more, auction.demand, known, DEFAULT_WEIGHTS)
    assert after.total >= before.total


@given(hosts, amounts, facts, auctions)
def test_a_longer_boot_queue_never_bids_lower(host, taken, known, auction):
    queued = known._replace(pending=known.pending + 1)
    before = price(host.allocatable, taken, auction.demand, known, DEFAULT_WEIGHTS)
    after = price(host.allocatable, taken, auction.demand, queued, DEFAULT_WEIGHTS)
    assert after.total >= before.total


def test_a_refusal_says_how_much_was_wanted_and_how_much_is_free():
    host = Host("h1", Resources(8, 8192, 1000, 10), Resources(8, 8192, 1000, 10))
    answer = bid(host, Resources(5, 1024, 0, 1), Facts(), wanting(vcpu=4), DEFAULT_WEIGHTS)
    assert answer == Refusal("h1", Reason.NO_VCPU, "needs 4 vCPU, 3 free")


def test_without_a_provider_the_hosts_own_default_decides():
    firecracker = Host("fc", ROOM, ROOM, provider="firecracker")
    hypervisor = Host("ch", ROOM, ROOM, provider="cloudhypervisor")
    auction = wanting(needs_macvtap=True)
    assert bid(firecracker, Resources(), Facts(), auction, DEFAULT_WEIGHTS).reason is Reason.MACVTAP
    assert isinstance(bid(hypervisor, Resources(), Facts(), auction, DEFAULT_WEIGHTS), Bid)


ROOM = Resources(64, 65536, 100_000, 100)


def wanting(vcpu=1, memory_mib=1024, **rest):
    return Auction("a1", "ns", "vm", Resources(vcpu, memory_mib, 0, 1), **rest)
