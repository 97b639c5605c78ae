"""Over many auctions: equal hosts get equal shares, unequal ones by their room, nobody starves, order is nothing."""

import random

from billet.core.auction import award
from billet.core.bidding import bid
from billet.core.model import ZERO, Auction, Facts, Host, HostView, Resources
from billet.core.scoring import DEFAULT_WEIGHTS, Weights

SMALL = Resources(1, 2048, 0, 1)
SIZES = (SMALL, Resources(2, 4096, 0, 1), Resources(4, 8192, 0, 1), Resources(2, 16384, 0, 1))
ALL_ASKED = 40


def room(vcpu, gib=4):
    return Resources(vcpu, vcpu * gib * 1024, 0, 1000)


def fill(rooms, demands, weights=DEFAULT_WEIGHTS, count=None):
    """Auction after auction over all hosts; what each host has taken in the end."""
    hosts = {name: Host(name, size, size) for name, size in rooms.items()}
    taken = dict.fromkeys(hosts, ZERO)
    for n in range(count or len(demands)):
        auction = Auction(f"a{n}", "ns", f"vm{n}", demands[n % len(demands)])
        answers = [bid(host, taken[name], Facts(), auction, weights) for name, host in hosts.items()]
        views = {name: HostView(host.allocatable, taken[name]) for name, host in hosts.items()}
        winner = award(auction, answers, views, weights).host
        taken[winner] = taken[winner].plus(auction.demand)
    return taken


def test_equal_hosts_get_equal_shares_within_one_microvm():
    """Broken on purpose (ties go to the first name, or share before placement): some host gets two more."""
    for count in range(1, 90, 7):
        got = [taken.vms for taken in fill({f"h{n}": room(32) for n in range(8)}, [SMALL], count=count).values()]
        assert max(got) - min(got) <= 1


def test_equal_hosts_stay_equal_with_microvms_of_all_sizes():
    taken = fill({f"h{n}": room(64) for n in range(5)}, SIZES, count=120)
    shares = [max(t.vcpu / 64, t.memory_mib / room(64).memory_mib) for t in taken.values()]
    assert max(shares) - min(shares) <= max(size.memory_mib for size in SIZES) / room(64).memory_mib


def test_unequal_hosts_get_microvms_in_proportion_to_their_room():
    """Within one and a half microVMs up to half full, as by utilisation alone; `spread` within three
    above, where it keeps some room on large hosts.

    Broken on purpose (SIZE that does not grow with the load): a small host gets 4 too many of the first 8.
    """
    rooms = {"s": room(32), "m": room(64), "l": room(128)}

    def off(count, weights):
        got = fill(rooms, [SMALL], weights, count)
        return max(abs(got[name].vms - count * size.vcpu / 224) for name, size in rooms.items())

    for count in range(8, 210, 8):
        assert off(count, Weights(shape=0.0)) <= 1.5
        assert off(count, DEFAULT_WEIGHTS) <= (1.5 if count <= 112 else 3), count


def test_no_host_starves_over_10_000_auctions():
    """Microvms come and go, 10,000 of them: every host, however small, wins its part of the vCPUs."""
    rooms = {f"h{n:02}": room((16, 32, 64, 128)[n % 4], (2, 4, 8)[n % 3]) for n in range(12)}
    hosts = {name: Host(name, size, size) for name, size in rooms.items()}
    taken, won, living = dict.fromkeys(hosts, ZERO), dict.fromkeys(hosts, 0), []
    for n in range(10_000):
        demand = SIZES[n * 7 % len(SIZES)]
        auction = Auction(f"a{n}", "ns", f"vm{n}", demand)
        answers = [bid(host, taken[name], Facts(), auction, DEFAULT_WEIGHTS) for name, host in hosts.items()]
        views = {name: HostView(host.allocatable, taken[name]) for name, host in hosts.items()}
        winner = award(auction, answers, views, DEFAULT_WEIGHTS).host
        taken[winner] = taken[winner].plus(demand)
        won[winner] += demand.vcpu
        living.append((winner, demand))
        if len(living) > 100:
            name, old = living.pop(n * 31 % len(living))
            taken[name] = taken[name].minus(old)
    whole = sum(size.vcpu for size in rooms.values())
    for name, size in rooms.items():
        assert won[name] / sum(won.values()) > 0.3 * size.vcpu / whole, name


def test_the_order_of_the_hosts_never_matters():
    """Nor that of the answers. Broken on purpose (ties go to the one that answered first): they differ."""
    rooms = {f"h{n}": room(16 * (n % 3 + 1), 4) for n in range(9)}  # some alike, so that they tie
    for policy in ("spread", "pack", "fast"):
        weights = Weights(policy=policy)
        once = fill(rooms, SIZES, weights, count=60)
        for seed in range(3):
            names = random.Random(seed).sample(sorted(rooms), len(rooms))
            assert fill({name: rooms[name] for name in names}, SIZES, weights, count=60) == once


def test_pack_fills_one_host_before_it_opens_the_next():
    taken = fill({f"h{n}": room(32) for n in range(4)}, [SMALL], Weights(policy="pack"), count=64)
    assert sorted(t.vms for t in taken.values()) == [0, 0, 32, 32]


def test_fast_goes_where_the_boot_is_soonest_and_spread_where_there_is_room_unless_the_queue_is_long():
    auction = Auction("a", "ns", "vm", SMALL)
    hosts = {name: Host(name, room(32), room(32)) for name in ("quick", "slow")}
    taken = {"quick": Resources(16, 32768, 0, 16), "slow": ZERO}
    for policy, queue, expected in (("fast", 0, "quick"), ("spread", 0, "slow"), ("spread", 3, "quick")):
        facts = {"quick": Facts(boot_s=0.5), "slow": Facts(boot_s=8.0, pending=queue)}
        weights = Weights(policy=policy)
        answers = [bid(hosts[name], taken[name], facts[name], auction, weights) for name in hosts]
        views = {name: HostView(hosts[name].allocatable, taken[name]) for name in hosts}
        assert award(auction, answers, views, weights).host == expected
