"""What spreading CAPMVM's clusters by default gains and costs: unequal hosts, three zones, machines in any order."""

from __future__ import annotations

from collections import Counter
from random import Random
from statistics import mean, pstdev
from typing import NamedTuple

from billet.core.auction import award
from billet.core.bidding import bid
from billet.core.constraints import CLUSTER_LABEL, read
from billet.core.model import ZERO, Auction, Facts, Host, Placement, PlacementState, Resources
from billet.core.scoring import DEFAULT_WEIGHTS, Weights, utilisation
from billet.core.state import PutHost, PutPlacement, State, apply

HOSTS, CLUSTERS, PLANES, WORKERS = 20, 30, 3, 7
SEEDS = range(1, 11)


class Outcome(NamedTuple):
    cov: float  # of the hosts' dominant shares
    sharing_host: int  # clusters of which two control planes are on one host
    sharing_zone: int  # or in one zone
    worst: float  # the largest share of a cluster that is on one host, mean of the clusters


def fleet(chance: Random) -> State:
    state = State()
    for n in range(HOSTS):
        vcpu = chance.choice((32, 64, 128))
        room = Resources(vcpu, vcpu * 4096, 1 << 20, 1000)
        apply(state, PutHost(Host(f"h{n}", room, room, "abc"[n % 3])))
    return state


def machines(chance: Random) -> list[tuple[str, str, Resources]]:
    made = []
    for cluster in (f"c{n}" for n in range(CLUSTERS)):
        made += [(cluster, f"{cluster}-control-plane-{n}", Resources(2, 4096, 0, 1)) for n in range(PLANES)]
        sizes = [Resources(chance.choice((2, 4)), chance.choice((4096, 16384)), 0, 1) for _ in range(WORKERS)]
        made += [(cluster, f"{cluster}-md-{n}", size) for n, size in enumerate(sizes)]
    chance.shuffle(made)
    return made


def fill(weights: Weights, seed: int) -> Outcome:
    chance = Random(seed)
    state = fleet(chance)
    for n, (cluster, name, demand) in enumerate(machines(chance)):
        labels = {CLUSTER_LABEL: cluster}
        auction = Auction(f"a{n}", "ns", name, demand, labels=labels, constraints=read(labels, name))
        bids = [bid(host, state.taken.get(host.id, ZERO), Facts(), auction, weights) for host in state.hosts.values()]
        winner = award(auction, bids, state.views(state.hosts, auction), weights).host
        placement = Placement(f"a{n}", "ns", name, demand, winner, PlacementState.STARTED, f"u{n}", labels)
        apply(state, PutPlacement(placement))
    return outcome(state)


def outcome(state: State) -> Outcome:
    shares = [utilisation(host.allocatable, state.taken.get(host.id, ZERO), ZERO) for host in state.hosts.values()]
    sharing_host = sharing_zone = 0
    worst = []
    for cluster in (f"c{n}" for n in range(CLUSTERS)):
        mine = [p for p in state.placements.values() if p.labels[CLUSTER_LABEL] == cluster]
        planes = [p.host for p in mine if "-control-plane-" in p.name]
        sharing_host += len(set(planes)) < PLANES
        sharing_zone += len({state.zone(host) for host in planes}) < PLANES
        worst.append(max(Counter(p.host for p in mine).values()) / len(mine))
    return Outcome(pstdev(shares) / mean(shares), sharing_host, sharing_zone, mean(worst))


def run(weights: Weights) -> Outcome:
    rows = [fill(weights, seed) for seed in SEEDS]
    return Outcome(mean(r.cov for r in rows), sum(r.sharing_host for r in rows), sum(r.sharing_zone for r in rows),
                   mean(r.worst for r in rows))  # fmt: skip


def test_clusters_are_spread_and_hosts_stay_even():
    without, spread = run(DEFAULT_WEIGHTS._replace(cluster=0.0)), run(DEFAULT_WEIGHTS)
    assert without.sharing_host > 0
    assert without.sharing_zone > CLUSTERS
    assert (spread.sharing_host, spread.sharing_zone) == (0, 0)
    assert spread.worst < 0.7 * without.worst
    assert spread.cov < without.cov + 0.01


if __name__ == "__main__":  # the second table of docs/lab/cluster-spreading.md
    for cluster in (0.0, 0.05, 0.1, 0.2):
        print(cluster, run(DEFAULT_WEIGHTS._replace(cluster=cluster)))
