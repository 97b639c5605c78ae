"""HealthTracker: what it learns from orders and inventories, and what auctions hear of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from billet.core.bidding import bid
from billet.core.health import CROWD, FIRST_TRY_S, FORGET_S, PENALTY, PULL_S, STALL_S, worst
from billet.core.model import (
    ZERO,
    Auction,
    Bid,
    Constraints,
    Facts,
    Host,
    Observed,
    Placement,
    PlacementState,
    Reason,
    Refusal,
    Resources,
    VmState,
)
from billet.core.report import InventoryUpdate, Report
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.core.state import DropPlacement, PutHost, PutPlacement, State, apply
from billet.core.vmm import Vmm
from billet.leader.health import HealthTracker
from billet.leader.vmms import LIVES_S
from billet.ports import Created, Denied, Failed, Outcome, Unknown
from tests.leader.test_accuracy import Clock, Inner

ROOM, SHAPE = Resources(10, 10_240, 0, 10), Resources(1, 1024, 0, 1)
FAILED = Failed(2, "creating microvm: saving microvm spec: no space left on device")
CREATED = Created("uid", b"")
HOSTS = tuple(f"h{n}" for n in range(8))


def auction(name: str, recipe: str = "r", namespace: str = "ns", constraints: Constraints | None = None) -> Auction:
    return Auction(name, namespace, name, SHAPE, constraints=constraints or Constraints(), recipe=recipe)


class Rig:
    """A tracker of eight hosts that are connected; h0 is in a zone of its own."""

    def __init__(self) -> None:
        self.state, self.clock, self.inner = State(), Clock(), Inner()
        self.health = HealthTracker(self.state, self.clock, 0.25, self.inner)
        for name in HOSTS:
            host = Host(name, ROOM, ROOM, zone="z0" if name == "h0" else "z1")
            apply(self.state, PutHost(host))
            self.health.joined(host)

    def answers(self) -> list[Bid | Refusal]:
        return [bid(self.state.hosts[name], ZERO, Facts(), auction("any"), DEFAULT_WEIGHTS) for name in HOSTS]

    def refused(self, constraints: Constraints | None = None) -> dict[str, str]:
        """The hosts whose bids are replaced, with the text."""
        found = self.health.screened(auction("any", constraints=constraints), self.answers(), HOSTS)
        return {a.host: a.detail for a in found if isinstance(a, Refusal) and a.reason is Reason.SUSPECT}

    def penalties(self) -> dict[str, float]:
        views = self.health.troubled(self.state.views(HOSTS, auction("any")))
        return {host_id: view.trouble.penalty for host_id, view in views.items() if view.trouble.penalty}

    def order(
        self, name: str, outcome: Outcome | None = CREATED, host: str = "h0", recipe: str = "r", ns: str = "ns"
    ) -> None:
        wanted = auction(name, recipe, ns)
        with self.health.order(wanted, host):
            if isinstance(outcome, Created | Unknown):
                placement = Placement(name, ns, name, SHAPE, host, PlacementState.RESERVED)
                apply(self.state, PutPlacement(placement))
            if outcome:
                self.health.answered(name, host, outcome)

    def shows(self, name: str, state: VmState, retry: int = 0, host: str = "h0") -> None:
        row = Observed(f"U-{name}", "ns", name, SHAPE, state, name, retry)
        self.health.observed(host, InventoryUpdate(False, [row], [], []))

    def gone(self, name: str, host: str = "h0") -> None:
        self.health.observed(host, InventoryUpdate(False, [], [f"U-{name}"], []))

    def boots(self, name: str, host: str = "h0", recipe: str = "r") -> None:
        self.order(name, host=host, recipe=recipe)
        self.shows(name, VmState.PENDING, host=host)
        self.shows(name, VmState.CREATED, host=host)

    def reports(self, seconds: float, host: str = "h0", facts: Facts | None = None, ok: bool = True) -> None:
        """A report every 2 s."""
        for _ in range(int(seconds / 2)):
            self.clock.at_s += 2.0
            known = facts or Facts(boot_s=0.3, boots_seen=20.0)
            self.health.reported(host, Report(known, 0.0, 0, 0, 0, 0, ok, 2.0))

    def suspects(self) -> Sequence[str]:
        return [name for name in HOSTS if self.health.suspects(name)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_failed_create_leaves_the_host_one_order_at_a_high_price(rig: Rig) -> None:
    rig.order("a", FAILED)
    assert rig.penalties() == {"h0": PENALTY}
    assert rig.refused() == {}
    with rig.health.order(auction("b"), "h0"):
        assert list(rig.refused()) == ["h0"], "one order at a time"
    assert rig.refused() == {}, "it was not sent"


def test_two_failed_creates_make_the_host_suspect(rig: Rig) -> None:
    rig.order("a", FAILED)
    rig.order("b", FAILED)
    assert rig.suspects() == ["h0"]
    assert rig.refused() == {"h0": "2 creates failed; next try in 4 s"}
    rig.clock.at_s += 2 * FIRST_TRY_S
    assert rig.refused() == {}
    rig.order("c")  # the try is accepted, and not booted yet
    assert rig.refused() == {"h0": "2 creates failed; being tried"}
    assert rig.health.trouble("h0").why == f"2 creates failed ({FAILED.text}); being tried", "for operators"
    rig.shows("c", VmState.PENDING)
    rig.shows("c", VmState.CREATED)
    assert rig.refused() == {}
    assert rig.suspects() == []


def test_a_host_that_leaves_and_comes_back_has_not_recovered(rig: Rig) -> None:
    rig.order("a", FAILED)
    rig.order("b", FAILED)
    rig.health.left("h0")
    assert rig.suspects() == []
    rig.health.joined(rig.state.hosts["h0"])
    assert rig.suspects() == ["h0"]


def test_a_create_that_flintlockd_fails_unclearly_is_a_failure(rig: Rig) -> None:
    for name in "ab":
        rig.order(name, Unknown("flintlockd did not confirm the create (committing content to store)", fault=True))
    assert rig.suspects() == ["h0"]
    assert "2 creates failed" in rig.refused()["h0"]
    for name in "ab":
        apply(rig.state, DropPlacement(name))
    rig.reports(2.0)
    assert "2 creates failed" in rig.health.trouble("h0").why, "counted once"


def test_a_verdict_on_the_request_is_no_failure_of_the_host(rig: Rig) -> None:
    for name in "abc":
        rig.order(name, Denied(2, "creating microvm: validation failures found"))
    rig.order("d", Unknown("connection lost"))
    assert rig.penalties() == {}


STRANGE = Denied(2, "containerd shim is gone", unclear=True)


def test_an_unknown_error_text_counts_if_the_recipe_is_created_elsewhere(rig: Rig) -> None:
    rig.order("a", STRANGE)
    rig.order("b", STRANGE)
    assert rig.penalties() == {}
    rig.order("good", host="h1")
    assert rig.suspects() == ["h0"]
    rig.clock.at_s += 2 * FIRST_TRY_S
    rig.order("c")
    assert rig.suspects() == [], "it creates"


def test_an_unknown_error_text_on_every_host_is_a_verdict_on_the_spec(rig: Rig) -> None:
    rig.order("good", recipe="good", host="h1")
    for n in range(40):
        rig.order(f"bad-{n}", STRANGE, host=HOSTS[n % 8], recipe="bad")
    assert rig.penalties() == {}


def test_at_most_a_share_of_the_hosts_is_suspect(rig: Rig) -> None:
    for name in HOSTS:
        rig.order(f"a-{name}", FAILED, host=name)
        rig.order(f"b-{name}", FAILED, host=name)
    assert rig.suspects() == ["h0", "h1"], "25 % of 8"
    assert list(rig.refused()) == ["h0", "h1"]
    assert sorted(rig.penalties()) == list(HOSTS), "the others are still asked"


def test_the_last_host_of_a_required_zone_still_serves_it(rig: Rig) -> None:
    rig.order("a", FAILED)
    rig.order("b", FAILED)
    assert list(rig.refused()) == ["h0"]
    assert rig.refused(Constraints(zone="z0")) == {}
    assert rig.refused(Constraints(host="h0")) == {}


def test_a_host_whose_boots_fail_is_charged_when_the_image_boots_elsewhere(rig: Rig) -> None:
    rig.boots("good", host="h1")
    for name in "ab":
        rig.order(name)
        rig.shows(name, VmState.PENDING)
        rig.shows(name, VmState.PENDING, retry=1)
        rig.shows(name, VmState.PENDING, retry=2)
    assert rig.suspects() == ["h0"]
    assert rig.refused() == {"h0": "2 boots failed; next try in 4 s"}, "no names for other clients"
    assert "2 boots failed (ns/b is PENDING, retry 1)" in rig.health.trouble("h0").why


def test_an_image_that_does_not_exist_takes_no_host_out(rig: Rig) -> None:
    for n in range(300):
        host, name = HOSTS[n % len(HOSTS)], f"bad-{n}"
        rig.order(name, host=host, recipe="missing", ns="bad")
        rig.shows(name, VmState.PENDING, retry=1, host=host)
        rig.boots(f"good-{n}", host=host)
        assert rig.suspects() == []
    assert rig.penalties() == {}


def test_two_hosts_whose_boots_fail_do_not_protect_each_other(rig: Rig) -> None:
    for n in range(4):
        for host in ("h0", "h1"):
            rig.order(f"{host}-{n}", host=host)
            rig.shows(f"{host}-{n}", VmState.PENDING, retry=1, host=host)
    assert rig.suspects() == []
    rig.boots("good", host="h2")
    assert rig.suspects() == ["h0", "h1"]


def test_recipes_of_many_namespaces_that_never_boot_take_no_host_out(rig: Rig) -> None:
    for n in range(100):
        rig.order(f"x{n}", recipe=f"x{n}", ns=f"n{n}")
        rig.shows(f"x{n}", VmState.PENDING, retry=1)
    assert rig.suspects() == []
    assert rig.penalties() == {"h0": PENALTY}, "a crowd"
    rig.boots("good")
    assert rig.penalties() == {}


# Hosts that accept and boot nothing.


def test_a_host_with_a_crowd_that_does_not_boot_ranks_behind(rig: Rig) -> None:
    for n in range(CROWD - 1):
        rig.order(f"a{n}")
    assert rig.penalties() == {}
    rig.order("last")
    assert rig.penalties() == {"h0": PENALTY}
    assert rig.refused() == {}, "a price, no exclusion"
    rig.shows("a0", VmState.PENDING)
    rig.shows("a0", VmState.CREATED)
    assert rig.penalties() == {}, "it boots"


def test_a_crowd_that_was_deleted_is_none(rig: Rig) -> None:
    for n in range(CROWD):
        rig.order(f"a{n}")
        rig.shows(f"a{n}", VmState.PENDING)
    rig.gone("a0")
    assert rig.penalties() == {}


def test_creates_that_turn_out_not_to_exist_are_failures_and_no_crowd(rig: Rig) -> None:
    for n in range(CROWD):
        rig.order(f"a{n}", Unknown("no trace"))
    rig.reports(2.0)
    assert rig.penalties() == {"h0": PENALTY}
    for n in range(CROWD):
        apply(rig.state, DropPlacement(f"a{n}"))  # as the reconciler does when its host shows no trace of it
    rig.reports(2.0)
    assert rig.suspects() == ["h0"]
    assert "8 creates failed (no trace)" in rig.health.trouble("h0").why
    rig.clock.at_s += 2 * FIRST_TRY_S
    assert rig.penalties() == {}
    assert rig.refused() == {}


def test_a_create_without_a_trace_is_no_failure_of_a_host_that_has_booted_since(rig: Rig) -> None:
    for name in "ab":
        rig.order(name, Unknown("no trace"))
    rig.boots("c")
    for name in "ab":
        apply(rig.state, DropPlacement(name))
    rig.reports(2.0)
    assert rig.penalties() == {}


def test_a_try_that_turns_out_not_to_exist_is_followed_by_another(rig: Rig) -> None:
    rig.order("a", FAILED)
    rig.order("b", FAILED)
    rig.clock.at_s += 2 * FIRST_TRY_S
    rig.order("c", Unknown("connection lost"))
    rig.reports(2.0)
    assert list(rig.refused()) == ["h0"]
    apply(rig.state, DropPlacement("c"))
    rig.reports(2.0)
    assert "3 creates failed (connection lost); next try in 8 s" in rig.health.trouble("h0").why
    rig.clock.at_s += 4 * FIRST_TRY_S
    assert rig.refused() == {}


def test_a_queue_that_stands_still_makes_the_host_suspect_with_the_cure(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a")
    rig.shows("a", VmState.PENDING)
    rig.reports(STALL_S)
    assert rig.suspects() == []
    rig.reports(4.0)
    assert rig.suspects() == ["h0"]
    assert "restart its flintlockd" in rig.refused()["h0"]
    assert "1 microVM waiting" in rig.refused()["h0"]
    rig.shows("a", VmState.CREATED)
    assert rig.refused() == {}


def test_a_stalled_host_gets_one_order_per_pause_and_the_pause_doubles(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a")
    rig.shows("a", VmState.PENDING)
    tried_s: list[float] = []
    while rig.clock.at_s < 2000.0 + FORGET_S:
        if rig.suspects() and not rig.refused():
            name = f"try-{len(tried_s)}"
            rig.order(name)
            rig.shows(name, VmState.PENDING)
            tried_s.append(rig.clock.at_s)
        rig.reports(2.0)
    pauses_s = [later - earlier for earlier, later in pairwise(tried_s)]
    assert pauses_s[0] > 2 * STALL_S
    assert pauses_s[:4] == sorted(pauses_s[:4])
    assert min(pauses_s[4:]) > PULL_S, "it is not forgotten while it stands still"
    rig.shows("try-0", VmState.CREATED)
    assert rig.refused() == {}


def test_a_microvm_that_later_ones_overtook_is_no_stall(rig: Rig) -> None:
    """flintlockd lost the event of its create, and boots it at its next resync."""
    rig.boots("before")
    rig.order("lost")
    rig.shows("lost", VmState.PENDING)
    rig.boots("later")
    for _ in range(4):
        rig.shows("lost", VmState.PENDING)
        rig.reports(STALL_S)
    assert rig.suspects() == []
    rig.order("next")
    rig.shows("next", VmState.PENDING)
    rig.reports(STALL_S + 4.0)
    assert rig.suspects() == ["h0"]


def test_a_link_that_drops_often_hides_no_stall(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a")
    rig.shows("a", VmState.PENDING)
    for _ in range(4):
        rig.reports(6.0)
        rig.health.left("h0")
        rig.clock.at_s += 1.0
        rig.health.joined(rig.state.hosts["h0"])
    assert rig.suspects() == ["h0"]


def test_the_time_while_a_host_is_away_is_no_stall(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a")
    rig.shows("a", VmState.PENDING)
    rig.reports(4.0)
    rig.health.left("h0")
    rig.clock.at_s += 600.0
    rig.health.joined(rig.state.hosts["h0"])
    rig.reports(8.0)
    assert rig.suspects() == []


def test_who_is_refused_is_looked_at_anew_only_when_a_memory_changes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each create asks several times; with many failing hosts a look takes milliseconds."""
    looks: list[int] = []
    monkeypatch.setattr("billet.leader.memories.worst", lambda *rest: looks.append(1) or worst(*rest))
    rig.order("a", FAILED)
    rig.order("b", FAILED)
    for _ in range(10):
        assert list(rig.refused()) == ["h0"]
        assert rig.suspects() == ["h0"]
        assert rig.penalties() == {"h0": 2 * PENALTY}
    assert len(looks) == 1


def test_a_stalled_host_whose_queue_was_deleted_is_tried_again(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a")
    rig.shows("a", VmState.PENDING)
    rig.reports(STALL_S + 4.0)
    rig.gone("a")
    rig.clock.at_s += 2 * STALL_S
    assert rig.refused() == {}
    assert rig.suspects() == ["h0"]


def test_a_host_that_may_be_pulling_has_not_stalled(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a", recipe="new")
    rig.shows("a", VmState.PENDING)
    rig.reports(PULL_S)
    assert rig.suspects() == []
    rig.reports(STALL_S + 2.0)
    assert rig.suspects() == ["h0"]


def test_a_queue_that_moves_has_not_stalled(rig: Rig) -> None:
    rig.boots("before")
    for n in range(20):
        rig.order(f"a{n}")
        rig.shows(f"a{n}", VmState.PENDING)
    for n in range(19):
        rig.reports(10.0)
        rig.shows(f"a{n}", VmState.CREATED)
    assert rig.suspects() == []


def test_a_flintlockd_that_was_away_has_not_stalled(rig: Rig) -> None:
    rig.boots("before")
    rig.order("a")
    rig.shows("a", VmState.PENDING)
    rig.reports(60.0, ok=False)
    rig.reports(STALL_S)
    assert rig.suspects() == []


def test_everything_is_passed_on(rig: Rig) -> None:
    rig.shows("a", VmState.PENDING)
    rig.reports(2.0)
    rig.health.left("h0")
    assert rig.inner.heard[-3:] == ["observed", "reported", "left"]


# VMMs that die at once, though flintlockd says CREATED.


def starts(rig: Rig, name: str, vmm: Vmm, host: str = "h0", recipe: str = "r") -> None:
    rig.order(name, host=host, recipe=recipe)
    shows_vmm(rig, name, vmm, host)


def shows_vmm(rig: Rig, name: str, vmm: Vmm, host: str = "h0") -> None:
    row = Observed(f"U-{name}", "ns", name, SHAPE, VmState.CREATED, name, vmm=vmm)
    rig.health.observed(host, InventoryUpdate(False, [row], [], []))


def test_vmms_that_die_at_once_are_charged_when_they_live_elsewhere(rig: Rig) -> None:
    starts(rig, "good", Vmm.RUNS, host="h1")
    rig.reports(LIVES_S + 2.0, host="h1")
    starts(rig, "a", Vmm.DEAD)
    assert not rig.suspects()
    starts(rig, "b", Vmm.RUNS)
    shows_vmm(rig, "b", Vmm.DEAD)
    assert rig.suspects() == ["h0"]
    assert rig.refused() == {"h0": "2 VMMs failed; next try in 4 s"}
    assert "(the VMM of ns/b died at once)" in rig.health.trouble("h0").why
    rig.clock.at_s += 2 * FIRST_TRY_S
    starts(rig, "c", Vmm.RUNS)
    assert rig.suspects() == ["h0"], "it has not lived yet"
    rig.reports(LIVES_S + 2.0)
    assert rig.suspects() == []


def test_a_copied_token_charges_no_other_host(rig: Rig) -> None:
    starts(rig, "good", Vmm.RUNS, host="h1")
    rig.reports(LIVES_S + 2.0, host="h1")
    for name in "ab":
        starts(rig, name, Vmm.RUNS)
        shows_vmm(rig, name, Vmm.DEAD, host="h7")  # where a client has created a microVM with its token
    assert not rig.suspects()


def test_a_name_in_a_failure_says_no_microvm_is_gone(rig: Rig) -> None:
    rig.boots("good", host="h1")
    starts(rig, "vm", Vmm.RUNS, host="h1")
    rig.reports(LIVES_S + 2.0, host="h1")
    for name in ("a not found", "x" * 1000):
        rig.order(name)
        rig.shows(name, VmState.PENDING, retry=1)
        assert "not found" not in rig.health.trouble("h0").why
    assert len(rig.refused()["h0"]) < 300
    starts(rig, "b not found", Vmm.DEAD)
    assert "not found" not in rig.health.trouble("h0").why


def test_a_kernel_that_runs_nowhere_takes_no_host_out(rig: Rig) -> None:
    for n in range(40):
        starts(rig, f"bad-{n}", Vmm.DEAD, host=HOSTS[n % 8], recipe="wrong kernel")
        assert not any(rig.health.suspects(host) for host in HOSTS)


def test_guests_that_power_off_at_once_take_no_host_out(rig: Rig) -> None:
    """Half of the microVMs of one recipe end by themselves, as their metadata tells them."""
    for name in ("a", "b"):
        starts(rig, f"lives-{name}", Vmm.RUNS)
        starts(rig, f"ends-{name}", Vmm.RUNS)
        shows_vmm(rig, f"ends-{name}", Vmm.DEAD)
    rig.reports(LIVES_S + 2.0)
    assert rig.penalties() == {}
    starts(rig, "ends", Vmm.DEAD, host="h1")
    starts(rig, "lives", Vmm.RUNS, host="h1")
    rig.reports(LIVES_S + 2.0, host="h1")
    for name in "cdef":
        starts(rig, name, Vmm.DEAD)
    assert rig.suspects() == []


def test_a_vmm_that_ends_later_is_no_failure(rig: Rig) -> None:
    starts(rig, "good", Vmm.RUNS, host="h1")
    starts(rig, "a", Vmm.RUNS)
    rig.reports(LIVES_S + 2.0, host="h1")
    rig.reports(2.0)
    shows_vmm(rig, "a", Vmm.DEAD)
    assert rig.penalties() == {}
