"""A host's memory of failures: what one, two and more failures do, and what clears them."""

from __future__ import annotations

from billet.core.blame import Blame, Charges
from billet.core.health import (
    CROWD,
    FIRST_TRY_S,
    FORGET_S,
    LAST_TRY_S,
    PENALTY,
    PULL_S,
    STALL_S,
    Failure,
    Health,
    Kind,
    crowded,
    most_refusing,
    stall_limit_s,
    trouble,
    worst,
)
from billet.core.model import Facts


def failed(at_s: float, text: str = "disk full") -> Failure:
    return Failure(Kind.CREATE, at_s, text)


def test_one_failure_raises_the_price_for_a_moment_and_leaves_one_order_at_a_time() -> None:
    health = Health()
    health.failed(failed(10.0), ordered_s=9.0)
    assert not health.suspect
    assert not health.refuses(10.1)
    assert trouble(health, ["h"], "h", 10.1).penalty == PENALTY
    assert trouble(health, ["h"], "h", 10.0 + FIRST_TRY_S).penalty == 0.0
    health.takes("next", 10.2)
    assert health.refuses(10.3), "the next order is in hand"
    health.ended("another")
    assert health.refuses(10.3)
    health.ended("next")
    assert not health.refuses(10.3)


def test_two_failures_make_a_host_suspect_until_its_next_try() -> None:
    health = Health()
    health.failed(failed(10.0), ordered_s=9.0)
    health.failed(failed(10.5), ordered_s=9.1)  # was in flight: no try of its own
    assert health.suspect
    assert health.why(10.5) == "2 creates failed; next try in 2 s"
    assert health.why(10.5, in_full=True) == "2 creates failed (disk full); next try in 2 s"
    assert health.refuses(10.6)
    assert not health.refuses(13.0)
    assert health.why(13.0) == "2 creates failed; to be tried"


def test_each_failed_try_doubles_the_pause_up_to_a_limit() -> None:
    health, now_s, pauses = Health(), 0.0, []
    for _ in range(12):
        health.failed(failed(now_s), ordered_s=now_s)
        pauses.append(health.next_try_s - now_s)
        now_s = health.next_try_s
    assert pauses[:4] == [2.0, 4.0, 8.0, 16.0]
    assert pauses[-1] == LAST_TRY_S


def test_orders_that_fail_together_count_as_one_try() -> None:
    health = Health()
    for n in range(10):
        health.failed(failed(1.0 + n / 1000), ordered_s=0.5)
    assert health.next_try_s < 1.1 + FIRST_TRY_S


def test_only_a_microvm_that_was_ordered_after_a_failed_create_clears_it() -> None:
    """A full disk fails new creates while the queue of old ones still boots."""
    health = Health()
    health.failed(failed(10.0), ordered_s=9.0)
    health.failed(Failure(Kind.BOOT, 10.0, "retry 1"), ordered_s=9.0)
    health.booted(ordered_s=8.0)
    assert [failure.kind for failure in health.failures] == [Kind.CREATE]
    health.booted(ordered_s=11.0)
    assert not health.failures
    assert not health.refuses(11.0)


def test_a_memory_that_nothing_confirms_is_forgotten() -> None:
    health = Health()
    health.failed(failed(10.0), ordered_s=9.0)
    assert not health.forgotten(10.0 + FORGET_S)
    health.takes("order", 12.0)
    assert not health.forgotten(11.0 + FORGET_S), "a try is in hand"
    health.ended("order")
    assert health.forgotten(11.0 + FORGET_S)


def test_the_worst_hosts_are_suspect_first_and_never_more_than_a_share() -> None:
    memories = {}
    for n, failures in enumerate((1, 3, 2, 2)):
        memories[f"h{n}"] = health = Health()
        for k in range(failures):
            health.failed(failed(float(n + 10 * k)), ordered_s=float(n + 10 * k))
    assert worst(memories, 3) == ["h1", "h2", "h3"]
    assert [most_refusing(hosts, 0.25) for hosts in (1, 3, 4, 8, 20)] == [1, 1, 1, 2, 5]
    spared = trouble(memories["h2"], ["h1"], "h2", 1e6)
    assert spared.penalty == 2 * PENALTY, "it goes on, behind the others, the further the more has failed"


# A crowd of microVMs that do not boot, and a queue that stands still.


def test_a_host_that_boots_nothing_stands_out() -> None:
    assert crowded({"a": CROWD, "b": 0, "c": 1}) == ["a"]
    assert crowded({"a": CROWD - 1, "b": 0, "c": 0}) == []


def test_in_a_fleet_that_boots_slowly_no_host_is_crowded() -> None:
    assert crowded({f"h{n}": 12 + n % 3 for n in range(20)}) == []
    assert crowded({}) == []


def test_a_stall_is_longer_than_many_boots_and_than_a_pull_if_there_may_be_one() -> None:
    assert stall_limit_s(Facts(boot_s=0.3), may_pull=False) == STALL_S
    assert stall_limit_s(Facts(boot_s=5.0), may_pull=False) == 50.0
    assert stall_limit_s(Facts(boot_s=0.3), may_pull=True) == STALL_S + PULL_S
    assert stall_limit_s(Facts(boot_s=0.3, pull_s=100.0), may_pull=True) == STALL_S + 500.0


# Whose fault a failed boot is.


def boot(recipe: str, at_s: float = 0.0) -> Failure:
    return Failure(Kind.BOOT, at_s, f"{recipe} fails", recipe)


def hosts(charges: Charges) -> list[str]:
    return [host_id for host_id, _ in charges.charged]


def test_a_first_failure_is_charged_to_nobody() -> None:
    assert Blame().failed("h1", boot("r")).charged == ()


def test_a_recipe_that_boots_elsewhere_is_charged_to_the_host() -> None:
    blame = Blame()
    blame.succeeded("h2", "r")
    assert hosts(blame.failed("h1", boot("r"))) == ["h1"]


def test_a_recipe_that_boots_elsewhere_later_is_charged_then() -> None:
    blame = Blame()
    blame.failed("h1", boot("r"))
    assert hosts(blame.succeeded("h2", "r")) == ["h1"]
    assert blame.succeeded("h3", "r").charged == (), "once"


def test_two_broken_hosts_are_charged_together_when_the_recipe_boots_elsewhere() -> None:
    blame = Blame()
    blame.failed("h1", boot("r"))
    assert blame.failed("h2", boot("r")).charged == ()
    assert hosts(blame.succeeded("h3", "r")) == ["h1", "h2"]
    assert hosts(blame.failed("h1", boot("r"))) == ["h1"]
    assert hosts(blame.failed("h2", boot("r"))) == ["h2"], "that is no news, and lifts nothing"


def test_a_recipe_that_fails_on_a_second_host_may_be_at_fault_itself() -> None:
    blame = Blame()
    blame.succeeded("h3", "r")
    assert blame.failed("h1", boot("r")).charged
    lifted = blame.failed("h2", boot("r"))
    assert (lifted.charged, lifted.recipe, lifted.lifted) == ((), "r", ("h1",))
    for host_id in ("h4", "h5", "h6"):
        assert blame.failed(host_id, boot("r")).charged == ()
    assert blame.succeeded("h7", "r").charged == (), "it fails on five hosts and boots on two"


def test_recipes_that_have_never_booted_take_no_host_out() -> None:
    """A client can invent as many images, and as many namespaces, as it likes."""
    blame = Blame()
    for n in range(300):
        assert blame.failed(f"h{n % 3}", boot(f"r{n}")).charged == ()


def test_a_recipe_that_has_booted_on_this_host_alone_is_charged_to_it() -> None:
    blame = Blame()
    blame.succeeded("h1", "r")
    assert hosts(blame.failed("h1", boot("r"))) == ["h1"]


def test_a_host_that_boots_has_nothing_held_against_it() -> None:
    blame = Blame()
    blame.failed("h1", boot("r"))
    blame.succeeded("h1", "other")
    assert blame.succeeded("h2", "r").charged == ()


def test_a_guest_that_may_end_charges_nobody_once_it_has_lived_where_it_ended() -> None:
    blame = Blame(may_end=True)
    blame.succeeded("h2", "r")
    assert hosts(blame.failed("h1", boot("r"))) == ["h1"]
    blame.succeeded("h1", "r")
    assert blame.failed("h2", boot("r", 1.0)).charged == ()
    assert hosts(blame.failed("h2", boot("r", 1.0 + FORGET_S))), "it was the host, and has been repaired"
