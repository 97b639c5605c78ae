"""Which hosts are asked: all of a small fleet, a shortlist of a large one. Every host has a reason when none bids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from billet.core.constraints import read
from billet.core.model import (
    Auction,
    Bid,
    Facts,
    Host,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
    Score,
    Unplaced,
)
from billet.core.questions.record import Called
from billet.core.shortlist import AskLimits, all_refusals, called, next_call, shortlist, to_ask_again
from billet.core.state import PutHost, PutPlacement, State, apply, load

ROOM = Resources(4, 8192, 0, 10)
VM = Resources(2, 1024, 0, 1)
ONE, ALL = AskLimits(hosts=1, random=0), AskLimits(hosts=0)


class Watched:
    """The ready hosts, and which of them were looked up."""

    def __init__(self, host_ids: Iterable[str]) -> None:
        self._host_ids = dict.fromkeys(host_ids)
        self.looked_up: list[str] = []

    def __contains__(self, host_id: object) -> bool:
        self.looked_up.append(str(host_id))
        return host_id in self._host_ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._host_ids)

    def __len__(self) -> int:
        return len(self._host_ids)


def fleet(*hosts: str, taken: Iterable[str] = (), zones: str = "") -> State:
    """Hosts alike, one zone letter for each; those in `taken` are full."""
    zones = zones or " " * len(hosts)
    state = load(PutHost(Host(name, ROOM, ROOM, zone.strip())) for name, zone in zip(hosts, zones, strict=True))
    for name in taken:
        apply(state, PutPlacement(Placement(f"on-{name}", "ns", "x", ROOM, name, PlacementState.STARTED)))
    return state


def auction(name: str = "vm", **labels: str) -> Auction:
    wanted = {f"billet.io/{key}": value for key, value in labels.items()}
    return Auction(name, "ns", name, VM, labels=wanted, constraints=read(wanted, name))


def test_a_small_fleet_is_asked_whole_but_for_hosts_that_are_away_or_were_asked() -> None:
    assert next_call(fleet("a", "b", "c"), ["a", "c"], auction(), {"c"}, ALL) == (["a"], [])


def test_the_ledger_answers_for_hosts_that_violate_a_constraint() -> None:
    host_ids, refusals = next_call(fleet("a", "b", zones="xy"), ["a", "b"], auction(zone="x"), (), ALL)
    assert (host_ids, [(no.host, no.reason) for no in refusals]) == (["a"], [("b", Reason.ZONE)])


def test_a_large_fleet_is_asked_by_a_shortlist_of_hosts_with_room() -> None:
    state = fleet("a", "b", "c", taken=["a"])
    assert next_call(state, ["a", "b", "c"], auction(), (), ONE) == (["b"], [])
    assert next_call(state, ["a", "b", "c"], auction(), {"b"}, ONE) == (["c"], [])
    assert next_call(state, ["a", "b", "c"], auction(), {"b", "c"}, ONE) == ([], [])


def test_a_required_host_is_looked_at_and_no_other() -> None:
    """Broken on purpose (search for it from the emptiest host on): all three are looked at."""
    ready = Watched("abc")
    assert shortlist(fleet("a", "b", "c"), ready, auction(host="c"), (), ONE) == ["c"]
    assert ready.looked_up == ["c"]


def test_the_policy_of_the_auction_decides_which_hosts_come_first() -> None:
    state = fleet("a", "b")
    apply(state, PutPlacement(Placement("p", "ns", "p", VM, "b", PlacementState.STARTED)))
    for limits, labels, first in (
        (ONE, {}, "a"),
        (ONE, {"policy": "pack"}, "b"),
        (ONE._replace(policy="pack"), {}, "b"),
    ):
        assert shortlist(state, "ab", auction(**labels), (), limits) == [first]


def test_hosts_of_the_group_to_be_near_come_first_and_one_more_is_asked() -> None:
    state = fleet("a", "b", "c")
    peer = Placement(
        "db", "ns", "db", Resources(0, 1, 0, 1), "c", PlacementState.STARTED, labels=auction(near="g").labels
    )
    apply(state, PutPlacement(peer))
    assert shortlist(state, "abc", auction(near="g"), (), ONE)[0] == "c"
    assert len(shortlist(state, "abc", auction(near="g"), (), ONE)) == 2


def test_what_is_to_be_spread_is_asked_in_every_zone() -> None:
    state = fleet("a", "b", "c", "d", zones="xxxy")
    assert sorted(shortlist(state, "abcd", auction(spread="g"), (), AskLimits(2, 0))) == ["a", "d"]


def test_only_silent_hosts_that_are_ready_and_have_room_are_asked_again_and_not_twice() -> None:
    state = fleet("a", "b", "c", "d", taken=["b"])
    silent = [Refusal(name, Reason.SILENT) for name in "abc"]
    bid = Bid("d", Score(0.0, 0.0, 0.0, 0.0), Resources(), Facts())
    assert to_ask_again(state, "abc", auction(), [*silent, bid], ()) == ["a", "c"]
    assert to_ask_again(state, "abc", auction(), [*silent, bid], {"a"}) == ["c"]
    assert to_ask_again(state, "bc", auction(), [*silent, bid], ()) == ["c"], (
        "a has connected again, its inventory is missing"
    )
    assert to_ask_again(state, "abc", auction(), [Refusal("a", Reason.NO_VCPU)], ()) == []


def test_the_record_names_absent_hosts_of_a_small_fleet_and_the_limit_on_a_large_one() -> None:
    state = fleet("a", "b", "c")
    assert called(state, ["a", "c"], ALL) == Called(3, 0, ("b",))
    assert called(state, ["a", "c"], ONE) == Called(3, 1)


def test_every_host_has_a_reason_and_the_ledgers_own_where_the_host_did_not_answer() -> None:
    state = fleet("a", "b", "c", taken=["b"])
    unplaced = all_refusals(state, auction(), Unplaced((Refusal("a", Reason.NO_DISK), Refusal("b", Reason.SILENT))))
    assert [(no.host, no.reason) for no in unplaced.refusals] == [
        ("a", Reason.NO_DISK), ("b", Reason.NO_VCPU), ("c", Reason.AWAY),
    ]  # fmt: skip
