"""How many microVMs of one shape fit: as many as auctions place one after another, until none can be placed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from billet.core.auction import award, grouped
from billet.core.bidding import bid
from billet.core.columns import Mask
from billet.core.constraints import read
from billet.core.model import (
    ZERO,
    Auction,
    Award,
    Facts,
    Host,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
)  # fmt: skip
from billet.core.questions.capacity import Capacity, capacity, no_more
from billet.core.quotas import Quota, Quotas, exceeded
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.core.state import PutHost, PutPlacement, State, apply, load

VM = Resources(2, 2048, 100, 1)
LABELS = (
    {},
    {"zone": "a"},
    {"apart": "g"},
    {"spread": "g"},
    {"require.gpu": "yes"},
    {"avoid.gpu": "yes"},
    {"host": "h1"},
)

NO_QUOTAS: Quotas = {}
NO_LABELS: Mapping[str, str] = {}

rooms = st.builds(Resources, *map(st.sampled_from, ((9, 5, 1), (9000, 5000), (500, 99), (4, 1))))
hosts = st.builds(
    Host, id=st.just(""), capacity=rooms, allocatable=rooms, zone=st.sampled_from(["", "a", "b"]),
    labels=st.sampled_from([{}, {"gpu": "yes"}]), cordoned=st.sampled_from([False, False, False, True]),
    provider=st.sampled_from(["", "firecracker"]),
)  # fmt: skip
auctions = st.builds(
    lambda labels, macvtap, disk_mib: auction(labels, macvtap, VM._replace(disk_mib=disk_mib)),
    st.sampled_from(LABELS), st.booleans(), st.sampled_from([0, 100]),
)  # fmt: skip


def auction(labels: Mapping[str, str] = NO_LABELS, macvtap: bool = False, demand: Resources = VM) -> Auction:
    wanted = {f"billet.io/{key}": value for key, value in labels.items()}
    return Auction("x", "ns", "x", demand, needs_macvtap=macvtap, labels=wanted, constraints=read(wanted))


def fleet(found: Sequence[Host]) -> State:
    """The hosts h0, h1, ..., each with one microVM of the group g if it has room for one."""
    state = load(PutHost(replace(host, id=f"h{n}")) for n, host in enumerate(found))
    for host_id, host in list(state.hosts.items()):
        if host.allocatable.covers(VM) and host.zone == "b":
            apply(state, PutPlacement(placement(replace(auction({"apart": "g"}), id=f"old-{host_id}"), host_id)))
    return state


def placement(one: Auction, host_id: str) -> Placement:
    return Placement(one.id, one.namespace, one.id, one.demand, host_id, PlacementState.RESERVED, labels=one.labels)


def placed_by_auctions(state: State, ready: Sequence[str], like: Auction, quotas: Quotas) -> Counter[str]:
    """Where auctions put copies, one after another, until one is refused."""
    where: Counter[str] = Counter()
    while not exceeded(quotas, "ns", state.in_namespace("ns"), like.demand):
        one = replace(like, id=f"copy-{where.total()}")
        answers = [
            bid(state.hosts[name], state.taken.get(name, ZERO), Facts(), one, DEFAULT_WEIGHTS) for name in ready
        ]
        decision = award(one, answers, state.views(ready, one), DEFAULT_WEIGHTS)
        if not isinstance(decision, Award):
            break
        where[decision.host] += 1
        apply(state, PutPlacement(placement(one, decision.host)))
    return where


def asked(
    state: State, ready: Sequence[str], like: Auction, quotas: Quotas = NO_QUOTAS, turned_away: Sequence[str] = ()
) -> tuple[Capacity, dict[Reason, int]]:
    rows: Mask = state.fleet.mask(ready)
    away = {name: Refusal(name, Reason.SUSPECT) for name in turned_away}
    found = capacity(state, rows, like, away, quotas)
    return found, {one.reason: one.hosts for one in grouped(no_more(state, rows, like, away, found))}


@given(st.lists(hosts, max_size=5), auctions, st.data())
@settings(max_examples=200, deadline=None)
def test_as_many_fit_as_auctions_place(found: Sequence[Host], like: Auction, data: st.DataObject) -> None:
    """Broken on purpose, each fails: `apart` counts as any other label; the slots are left out of the room; what is
    taken already is left out; hosts that are not ready count.
    """
    state = fleet(found)
    absent = data.draw(st.sets(st.sampled_from(sorted(state.hosts)), max_size=2)) if found else set()
    ready = [host_id for host_id in state.hosts if host_id not in absent]
    fits, refused = asked(state, ready, like)
    assert sum(refused.values()) == len(state.hosts)
    assert dict(placed_by_auctions(state, ready, like, {})) == fits.by_host
    assert fits.fits == sum(fits.by_host.values())


@given(st.builds(Quota, vcpu=st.none() | st.integers(0, 9), vms=st.none() | st.integers(0, 9)))
@settings(deadline=None)
def test_a_quota_limits_what_fits(quota: Quota) -> None:
    """Broken on purpose (the quota is left out of `fits`; what the namespace has already is): fails."""
    room = Resources(8, 1 << 20, 1 << 20, 100)
    state = fleet([Host("", room, room, zone="b"), Host("", room, room, zone="b")])
    fits, _ = asked(state, ["h0", "h1"], auction(), {"ns": quota})
    assert fits.by_host == {"h0": 3, "h1": 3}
    assert fits.fits == placed_by_auctions(state, ["h0", "h1"], auction(), {"ns": quota}).total()


def test_each_host_has_the_reason_why_it_takes_no_more() -> None:
    """Broken on purpose (the microVMs that fit are not taken off the room first): h0 has no reason, an error."""
    room, small = Resources(4, 1 << 20, 1 << 20, 100), Resources(1, 1 << 20, 1 << 20, 100)
    state = fleet([Host("", one, one, zone=zone) for one, zone in ((room, ""), (small, ""), (room, ""), (room, "a"))])
    fits, refused = asked(state, ["h0", "h1", "h3"], auction(), turned_away=["h3"])
    assert fits.by_host == {"h0": 2}
    assert refused == {Reason.NO_VCPU: 2, Reason.AWAY: 1, Reason.SUSPECT: 1}
    fits, refused = asked(state, ["h0", "h1", "h3"], auction({"apart": "g"}))
    assert fits.by_host == {"h0": 1, "h3": 1}
    assert refused == {Reason.APART: 2, Reason.NO_VCPU: 1, Reason.AWAY: 1}
