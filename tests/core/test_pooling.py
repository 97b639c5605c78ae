"""Pooling: waits are scored with pooled means, and one host at a time is the first to pull an image."""

from dataclasses import replace

import pytest

from billet.core.auction import award, updated_bid, with_room
from billet.core.bidding import bid
from billet.core.boots.pooling import HostMean, PooledMean, pool, pooled_mean
from billet.core.constraints import read
from billet.core.model import Auction, Facts, Host, HostView, Image, Resources
from billet.core.questions.shadow import shadow
from billet.core.scoring import DEFAULT_WEIGHTS, Weights

ROOM = Resources(64, 65536, 100_000, 100)
SMALL = Resources(2, 2048, 0, 1)
AUCTION = Auction("01AUCTION", "ns", "vm", SMALL, images=(Image("root"),))
KNOWN = Facts(boot_s=1.0, pull_s=20.0)


def has(name, taken=0, facts=KNOWN):
    """A host that has the images, and so many vCPU taken."""
    return made(name, taken, facts, 0, 0)


def lacks(name, taken=0, facts=KNOWN, coming=0):
    """One that does not; with `coming`, others there wait for one image of them."""
    return made(name, taken, facts, 1 - coming, coming)


def made(name, taken, facts, missing, coming):
    used = Resources(taken, 1024 * taken, 0, taken // 2)
    return bid(Host(name, ROOM, ROOM), used, facts, AUCTION, DEFAULT_WEIGHTS, missing, coming)


def winner(bids, auction=AUCTION, since=None, weights=DEFAULT_WEIGHTS):
    """Who wins, with so many microVMs awarded since the bids."""
    ledger = {b.host: HostView(ROOM, b.basis) for b in bids}
    for host, count in (since or {}).items():
        more = Resources(*(count * part for part in SMALL))
        ledger[host] = ledger[host]._replace(taken=ledger[host].taken.plus(more))
    return award(auction, bids, ledger, weights).host


def views(bids):
    return {b.host: HostView(ROOM, b.basis) for b in bids}


def bids_with_queues(*queues):
    return [has("a", 16, KNOWN._replace(pending=queues[0])), lacks("b", 2, PULLING, coming=1), lacks("c")]


def test_a_pull_is_worth_it_once_the_others_have_as_long_a_queue():
    assert winner(bids_with_queues(10)) == "a"
    assert winner(bids_with_queues(60)) == "c"


def queue(boots):
    return Facts(pending=boots, boot_s=1.0, boots_seen=20)


def test_a_wait_counts_as_far_as_another_host_would_save_it():
    """Broken on purpose (the whole wait counts; no wait up to 12.5 s counts): "b" and "a" the other way round."""
    assert winner([has("a", 0, queue(1)), has("b", 16)]) == "b", "an idle host would begin at once"
    assert winner([has("a", 0, queue(11)), has("b", 16, queue(10))]) == "a", "one second in ten is no difference"
    assert winner([has("a", 0, queue(15)), has("b", 16, queue(10))]) == "b"


def test_a_host_that_nobody_knows_gets_one_boot_and_not_every_boot():
    """Broken on purpose (an unknown boot takes no time): a large new host gets all creates at first."""
    new = Facts()
    assert winner([has("a", 0, new), has("b", 16, new)]) == "a"
    assert winner([has("a", 2, new._replace(pending=1)), has("b", 16, new)]) == "b"


PULLING = Facts(pending=1, boot_s=1.0, pull_s=20.0, ahead_s=21.0, pulls=1)


def test_the_first_to_pull_is_sent_where_it_is_emptiest_and_nobody_after_it_while_it_pulls():
    """Broken on purpose (price every pull in full): half of the fleet gets the images never.

    Broken on purpose (price no pull): a burst goes to hosts that pull for a minute.
    """
    assert winner([has("a", 16), lacks("b"), lacks("c", 8)]) == "b"
    assert winner([has("a", 16), lacks("b", 2, PULLING, coming=1), lacks("c")]) == "a"
    assert winner([has("a", 16), has("b", 8), lacks("c")]) == "c"  # the pull is done


def test_two_that_are_decided_at_the_same_moment_are_not_both_the_first():
    """Broken on purpose (look at bids only): the host that was given the first has not said so yet."""
    bids = [has("a", 16), lacks("b"), lacks("c")]
    first = winner(bids)
    assert first in ("b", "c")
    assert winner(bids, since={first: 1}) == "a"


def test_the_next_may_begin_to_pull_once_the_first_has_done_a_quarter_of_it():
    """Broken on purpose (not before the first has ended): under a stream the hosts that have the images are full
    before the others have them."""
    begun = PULLING._replace(ahead_s=21.0 - 4.0)
    assert winner([has("a", 16), lacks("b", 2, begun, coming=1), lacks("c")]) == "a"
    begun = PULLING._replace(ahead_s=21.0 - 6.0)
    assert winner([has("a", 16), lacks("b", 2, begun, coming=1), lacks("c")]) == "c"


def test_what_else_waits_or_was_awarded_is_no_pull_of_these_images():
    waiting = Facts(pending=1, boot_s=1.0, pull_s=20.0, ahead_s=21.0, pulls=1)
    assert winner([has("a", 16, waiting), lacks("b")]) == "b"
    assert winner([has("a", 16), lacks("b")], since={"a": 1}) == "b"


def test_fast_sends_nobody_first():
    assert winner([has("a", 16), lacks("b")], weights=Weights(policy="fast")) == "a"


def test_a_microvm_that_is_to_be_near_others_would_rather_wait():
    constrained = replace(AUCTION, constraints=read({"billet.io/near": "db"}))
    queue = Facts(pending=30, boot_s=1.0)
    bids = [has("a", 16), has("b", 0, queue)]
    assert winner(bids) == "a"
    assert winner(bids, constrained) == "b"


def test_a_shadow_sees_the_same_pulls():
    bids = [has("a", 16), lacks("b"), lacks("c")]
    ledger = {b.host: HostView(ROOM, b.basis) for b in bids}
    ledger["b"] = ledger["b"]._replace(taken=SMALL)
    assert shadow(AUCTION, bids, ledger, DEFAULT_WEIGHTS) == award(AUCTION, bids, ledger, DEFAULT_WEIGHTS).host == "a"
    assert [updated_bid(b, ledger[b.host]).coming for b in bids] == [0, 1, 0]


def test_hosts_that_differ_by_chance_only_are_taken_to_be_alike():
    """Means of 20 boots that vary by 30 % differ by about 7 %."""
    boots = pooled_mean([HostMean(s, 0.4, 20) for s in (0.93, 0.97, 1.0, 1.04, 1.06)])
    assert boots == PooledMean(pytest.approx(1.0), 0.0)
    assert boots.shrunk(0.93) == pytest.approx(1.0)


def test_hosts_that_do_differ_keep_what_they_know_of_themselves():
    boots = pooled_mean([HostMean(s, 0.4, 20) for s in (1.0, 1.0, 5.0)])
    assert boots.own > 0.95
    assert boots.shrunk(5.0) == pytest.approx(5.0, rel=0.05)
    assert boots.shrunk(None) == boots.mean_s


def test_a_mean_of_few_boots_is_chance_where_one_of_many_is_not():
    """Broken on purpose (each mean as one of 20): two hosts that have booted twice are priced as if they differed."""
    few, many = (pooled_mean([HostMean(s, 0.4, seen) for s in (0.8, 1.2)]) for seen in (1, 30))
    assert few.own == 0.0
    assert many.own > 0.9


@pytest.mark.parametrize(("spreads", "kept"), [((0.4, 0.5, 0.6), 0.0), ((0.2, 0.2, 2.0), 0.9)])
def test_a_host_that_was_lucky_with_its_bounds_is_not_preferred_for_them_and_one_that_is_wild_is_known(spreads, kept):
    """Broken on purpose (each host's own uncertainty): a burst goes to hosts whose bounds are narrow by chance."""
    waiting = [has(str(n), 0, KNOWN._replace(pending=20, uncertainty=spread)) for n, spread in enumerate(spreads)]
    seen = pool(waiting, views(waiting))
    priced = [seen.adjusted(one.facts, 0).uncertainty for one in waiting]
    assert max(priced) - min(priced) == pytest.approx(kept * (max(spreads) - min(spreads)), rel=0.1)
    assert sum(priced) == pytest.approx(sum(spreads))


ALONE = HostMean(3.0, 0.4, 20)


@pytest.mark.parametrize(("means", "own"), [([], None), ([ALONE], 1.0), ([ALONE] * 4, 1.0)])
def test_there_is_nothing_in_common_of_fewer_than_two_or_of_the_same(means, own):
    found = pooled_mean(means)
    assert (found and found.own) == own


def test_a_host_that_has_never_pulled_or_booted_is_priced_by_what_the_others_know():
    known, fresh = lacks("a"), lacks("b", 0, Facts(pending=2, pulls=1))
    seen = pool([known, fresh], views([known, fresh])).adjusted(fresh.facts, fresh.missing)
    assert (seen.boot_s, seen.pull_s, seen.ahead_s) == (1.0, 20.0, 2 * 1.0 + 20.0)


def test_where_nobody_has_booted_or_pulled_each_boot_and_pull_takes_its_usual_time():
    """Broken on purpose (no boot takes any time): the queues of new hosts are as short as their margins."""
    bids = [has("a", 0, Facts(pending=2)), has("b", 0, Facts(pending=3, pulls=1))]
    pooled = pool(bids, views(bids))
    assert [pooled.adjusted(bid.facts, 0).ahead_s for bid in bids] == [2 * 1.0, 3 * 1.0 + 5.0]


def test_where_nothing_waits_a_bid_stands_as_it_was_made():
    bids = [has("a"), has("b", 2, KNOWN._replace(boot_s=1.1))]
    ledger = views(bids)
    assert all(pool(bids, ledger).adjusted(b.facts, b.missing) == b.facts for b in bids)
    assert award(AUCTION, bids, ledger, DEFAULT_WEIGHTS).score == bids[0].score


def test_who_has_no_room_any_more_has_no_part_in_it():
    """Broken on purpose (all bids): the images are on full hosts only, and every pull counts as late."""
    bids = [has("a"), lacks("b", 0, PULLING, coming=1), lacks("c")]
    full = HostView(ROOM, ROOM)
    able, _ = with_room(AUCTION, bids, {"a": full, "b": full, "c": HostView(ROOM, bids[2].basis)})
    assert able == [bids[2]]
    assert award(AUCTION, bids, {"a": full, "b": full, "c": views(bids)["c"]}, DEFAULT_WEIGHTS).score.delay <= 0.05
