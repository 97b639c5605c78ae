"""The fleet priced in columns: the same score on each row as a host computes for itself."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from billet.core.boots.forecast import behind
from billet.core.columns import Columns
from billet.core.corrections import NO_DISCOUNT
from billet.core.groups import Counted
from billet.core.model import ZERO, Facts, Group, GroupKind, Host, Resources
from billet.core.pricing import prices
from billet.core.scoring import Weights, price, wait_s

SMALL = Resources(1, 1, 1, 1)
amounts = st.builds(
    Resources, st.integers(0, 256), st.integers(0, 1 << 20), st.integers(0, 1 << 22), st.integers(0, 1000)
)
demands = st.builds(Resources, st.integers(1, 64), st.integers(1024, 32768), st.integers(0, 1 << 16), st.just(1))
seconds = st.floats(0.0, 1000.0)
facts_said = st.builds(
    Facts, st.none() | st.floats(0.0, 1.0), st.integers(0, 50), seconds, st.none() | seconds, st.none() | seconds,
    st.floats(0.0, 3.0), st.integers(0, 9), st.floats(0.0, 39.0), st.floats(0.0, 39.0),
)  # fmt: skip
weights_set = st.builds(
    Weights, st.floats(0.0, 1.0), st.floats(0.0, 2.0),
    st.sampled_from(["spread", "pack", "fast"]), st.floats(0.0, 2.0),
)  # fmt: skip


@given(st.lists(st.tuples(amounts, amounts, facts_said, st.integers(0, 3)), max_size=5), demands, weights_set)
def test_each_row_has_the_price_that_its_host_would_bid(
    hosts: list[tuple[Resources, Resources, Facts, int]], demand: Resources, weights: Weights
) -> None:
    """As the leader would price it beside the others.

    Broken on purpose (SIZE without the cube; awards since the last word forgotten; the shortest wait of all rows, not
    of those that are compared): another price.
    """
    fleet, missing = Columns(), np.zeros(64)
    for n, (allocatable, taken, facts, to_pull) in enumerate(hosts):
        first = allocatable if n else SMALL
        fleet.put(Host(f"h{n}", first, first), taken)
        said = ZERO._replace(vms=max(0, taken.vms - n))
        fleet.hear(f"h{n}", facts, said, 0.0, 1.0)
        missing[n] = to_pull
    prices(fleet, demand, weights)
    if hosts:  # what is kept of a demand must not outlive a host's record
        fleet.put(Host("h0", hosts[0][0], hosts[0][0]), hosts[0][1])
    room = fleet.with_room(demand)
    found = prices(fleet, demand, weights, missing[: len(fleet.ids)], room & fleet.open)
    since = [min(n, taken.vms) for n, (_, taken, _, _) in enumerate(hosts)]
    now = [behind(facts, more) for more, (_, _, facts, _) in zip(since, hosts, strict=True)]
    able = [n for n in range(len(hosts)) if room[fleet.rows[f"h{n}"]]]
    soonest_s = min((wait_s(now[n], hosts[n][3]) for n in able), default=0.0)
    for n, (allocatable, taken, _, to_pull) in enumerate(hosts):
        row = fleet.rows[f"h{n}"]
        assert room[row] == allocatable.has_room(taken, demand)
        if room[row] and allocatable.vcpu and allocatable.memory_mib:
            expected = price(allocatable, taken, demand, now[n], weights, to_pull, NO_DISCOUNT, soonest_s)
            assert math.isclose(found[row], expected.total, rel_tol=1e-9, abs_tol=1e-9), (row, found[row], expected)


def test_a_thousand_hosts_that_come_and_go_keep_their_own_rows() -> None:
    fleet, room = Columns(), Resources(4, 4096, 0, 10)
    for n in range(1000):
        fleet.put(Host(f"h{n}", room, room, zone=f"z{n % 3}", labels={"even": str(n % 2 == 0)}), Resources(n % 4))
    for n in range(0, 1000, 3):
        fleet.drop(f"h{n}")
    for n in range(1000, 1100):
        fleet.put(Host(f"h{n}", room, room, zone="new"), ZERO)
    free = fleet.with_room(Resources(4)) & fleet.open
    assert sorted(fleet.ids[row] for row in np.flatnonzero(free)) == sorted(
        [f"h{n}" for n in range(1000) if n % 3 and n % 4 == 0] + [f"h{n}" for n in range(1000, 1100)]
    )
    assert int(fleet.in_zone("new").sum()) == 100
    assert not fleet.in_zone("z0")[fleet.open].any()
    assert int((fleet.labelled("even", "True") & fleet.open).sum()) == sum(
        n % 2 == 0 and n % 3 > 0 for n in range(1000)
    )
    counted = Counted(
        "spread", Group("ns", GroupKind.GROUP, "g"), {"h1001": {"id": "name"}}, {"new": 7, "nowhere": 1}, 8
    )
    here, in_zone = fleet.crowd(counted)
    assert (here[fleet.rows["h1000"]], in_zone[fleet.rows["h1000"]]) == (0, 7)
    assert here[fleet.rows["h1001"]] == here.sum() == 1
