"""The award: the lowest bid that the ledger has room for, and the same one in every replay."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.auction import award, explain_unplaced
from billet.core.bidding import bid
from billet.core.model import (
    FORMULA,
    ZERO,
    Auction,
    Award,
    Bid,
    Facts,
    Host,
    HostView,
    Reason,
    Refusal,
    Resources,
    Unplaced,
)
from billet.core.questions.record import AuctionRecord, attempt_of, faithful
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.wire.auction_records import decode, encode, readable
from tests.core.strategies import amounts, auctions, capacities, facts, hosts

ROOM = Resources(16, 16384, 100_000, 100)
AUCTION = Auction("01AUCTION", "ns", "vm", Resources(2, 2048, 0, 1))


def host(name, room=ROOM):
    return Host(name, room, room)


def bids_of(auction, *machines):
    return [bid(machine, taken, Facts(), auction, DEFAULT_WEIGHTS) for machine, taken in machines]


def ledger_of(*machines):
    return {machine.id: HostView(machine.allocatable, taken) for machine, taken in machines}


def test_the_emptiest_host_wins_and_the_next_is_the_runner_up():
    machines = [
        (host("a"), Resources(8, 0, 0, 1)),
        (host("b"), Resources(2, 0, 0, 1)),
        (host("c"), Resources(4, 0, 0, 1)),
    ]
    decision = award(AUCTION, bids_of(AUCTION, *machines), ledger_of(*machines), DEFAULT_WEIGHTS)
    assert (decision.host, decision.runner_up, decision.repriced) == ("b", "c", False)


@pytest.mark.parametrize("formula", [0, FORMULA - 1, FORMULA + 1])
def test_a_bid_by_another_formula_is_priced_anew(formula):
    """Agents are upgraded in any order. Broken on purpose (compare its score): all go to hosts of the older Billet,
    whose scores are lower, until these are full."""
    machines = [(host("old"), Resources(2, 2048, 0, 1)), (host("new"), ZERO)]
    ledger = ledger_of(*machines)
    old, new = bids_of(AUCTION, *machines)
    old = old._replace(score=old.score._replace(total=old.score.utilisation, shape=0.0), formula=formula)
    assert old.score.total < new.score.total
    decision = award(AUCTION, [old, new], ledger, DEFAULT_WEIGHTS)
    assert (decision.host, decision.runner_up, decision.repriced) == ("new", "old", False)
    assert award(AUCTION, [old], ledger, DEFAULT_WEIGHTS).repriced
    kept = AuctionRecord(AUCTION, DEFAULT_WEIGHTS, 1.0, [attempt_of([old, new], ledger, decision)])
    assert faithful(decode(encode(kept)))


def test_promise_1_a_bid_is_priced_anew_when_the_ledger_has_moved_since():
    """Broken on purpose (compare the stale score): the second of two auctions piles onto the same host."""
    machines = [(host("a"), ZERO), (host("b"), Resources(1, 0, 0, 1))]
    answers = bids_of(AUCTION, *machines)
    moved = [(host("a"), Resources(8, 8192, 0, 4)), machines[1]]
    decision = award(AUCTION, answers, ledger_of(*moved), DEFAULT_WEIGHTS)
    assert decision.host == "b"


def test_promise_1_a_bid_never_overcommits_a_host_that_the_ledger_counts_as_full():
    answers = bids_of(AUCTION, (host("a"), ZERO))
    decision = award(AUCTION, answers, ledger_of((host("a"), Resources(15, 0, 0, 9))), DEFAULT_WEIGHTS)
    assert decision == Unplaced((Refusal("a", Reason.NO_VCPU, "needs 2 vCPU, 1 free"),))


@pytest.mark.parametrize(("mark", "reason"), [("cordoned", Reason.CORDONED), ("fenced", Reason.FENCED)])
def test_a_host_that_was_closed_after_its_bid_wins_nothing(mark, reason):
    """Broken on purpose (trust the bid): a fenced host gets a microVM that nobody will find."""
    answers = bids_of(AUCTION, (host("a"), ZERO))
    ledger = {"a": HostView(ROOM, ZERO, **{mark: True})}
    assert award(AUCTION, answers, ledger, DEFAULT_WEIGHTS) == Unplaced((Refusal("a", reason),))


def test_awards_since_the_bid_count_as_waiting_for_their_boot():
    """Two hosts alike, one emptier when they bid: three awards later its queue tells.

    Broken on purpose (the facts of the bid as they were): "emptier" wins again."""
    used, booted = Resources(4, 4096, 0, 2), Facts(boot_s=5.0, boots_seen=20)
    bids = [
        bid(host(name), taken, booted, AUCTION, DEFAULT_WEIGHTS) for name, taken in (("emptier", ZERO), ("b", used))
    ]
    ledger = {"emptier": HostView(ROOM, ZERO), "b": HostView(ROOM, used)}
    assert award(AUCTION, bids, ledger, DEFAULT_WEIGHTS).host == "emptier"
    ledger["emptier"] = HostView(ROOM, Resources(0, 0, 0, 3))
    repriced = award(AUCTION, bids, ledger, DEFAULT_WEIGHTS)
    assert (repriced.host, repriced.score.delay) == ("b", 0.0)


@st.composite
def a_load(draw):
    """A room, what is taken of it when the host bids, and by now."""
    room = draw(capacities)
    then, now = (Resources(*(size * draw(st.integers(0, 100)) // 100 for size in room)) for _ in range(2))
    return room, then, now


def test_ties_favour_no_host_for_its_name():
    machines = [(host(name), ZERO) for name in "abcd"]
    wins = Counter()
    for n in range(2000):
        auction = replace(AUCTION, id=f"01TIE{n}")
        wins[award(auction, bids_of(auction, *machines), ledger_of(*machines), DEFAULT_WEIGHTS).host] += 1
    assert all(400 < count < 600 for count in wins.values())


@given(st.lists(st.tuples(hosts, amounts, facts), max_size=6, unique_by=lambda t: t[0].id), auctions, st.randoms())
def test_neither_the_order_of_the_bids_nor_of_the_ledger_matters(machines, auction, shuffler):
    answers = [bid(machine, taken, known, auction, DEFAULT_WEIGHTS) for machine, taken, known in machines]
    ledger = {m.id: HostView(m.allocatable, taken, m.cordoned, m.fenced) for m, taken, _ in machines}
    first = award(auction, answers, ledger, DEFAULT_WEIGHTS)
    shuffler.shuffle(answers)
    backwards = dict(reversed(ledger.items()))
    assert award(auction, answers, backwards, DEFAULT_WEIGHTS) == first


@given(st.lists(st.tuples(hosts, amounts, amounts, facts), max_size=6, unique_by=lambda t: t[0].id), auctions)
def test_the_winner_always_has_room_and_nobody_with_room_was_cheaper(machines, auction):
    """The oracle: look at every host that has room, price it, take the lowest."""
    answers = [bid(machine, then, known, auction, DEFAULT_WEIGHTS) for machine, then, _, known in machines]
    ledger = {m.id: HostView(m.allocatable, now, m.cordoned, m.fenced) for m, _, now, _ in machines}
    decision = award(auction, answers, ledger, DEFAULT_WEIGHTS)
    able = [
        a for a in answers
        if isinstance(a, Bid) and ledger[a.host].allocatable.minus(ledger[a.host].taken).covers(auction.demand)
    ]  # fmt: skip
    assert isinstance(decision, Award) == bool(able)
    if isinstance(decision, Award):
        assert decision.host in {a.host for a in able}


pulls = st.tuples(st.integers(0, 2), st.integers(0, 2))


@given(st.lists(st.tuples(hosts, a_load(), facts, pulls), max_size=6, unique_by=lambda t: t[0].id), auctions)
def test_promise_7_a_record_replays_to_the_same_award(rows, auction):
    """Broken on purpose (keep a bid without `coming`): the replay sends another one to pull."""
    machines = [(replace(host, allocatable=room), then, now, known) for host, (room, then, now), known, _ in rows]
    answers = [
        bid(machine, then, known, auction, DEFAULT_WEIGHTS, *images)
        for (machine, then, _, known), (*_, images) in zip(machines, rows, strict=True)
    ]
    ledger = {m.id: HostView(m.allocatable, now, m.cordoned, m.fenced) for m, _, now, _ in machines}
    decision = award(auction, answers, ledger, DEFAULT_WEIGHTS)
    attempt = attempt_of(answers, ledger, decision)
    kept = encode(AuctionRecord(auction, DEFAULT_WEIGHTS, 1.0, [attempt]))
    assert decode(kept).attempts[0].bids == attempt.bids
    assert faithful(decode(kept))
    assert readable(kept)


def test_a_record_of_another_score_shows_what_its_winner_counted_for_and_no_other_price():
    """The formula of that time is gone: to price its bids anew would tell of an auction that never was."""
    machines = [(host("h0"), ZERO), (host("h1"), ZERO)]
    bids, ledger = bids_of(AUCTION, *machines), ledger_of(*machines)
    moved = {name: view._replace(taken=Resources(1, 1024, 0, 1)) for name, view in ledger.items()}
    decision = award(AUCTION, bids, moved, DEFAULT_WEIGHTS)
    then = decision._replace(score=decision.score._replace(total=0.77))
    kept = AuctionRecord(AUCTION, DEFAULT_WEIGHTS, 1.0, [attempt_of(bids, moved, then)])
    for version, priced in ((2, {then.host}), (5, {then.host}), (kept.v, {"h0", "h1"})):
        kept.v = version
        shown = json.loads(readable(encode(kept)))["attempts"][0]["priced"]
        assert set(shown) == priced
        assert (shown[then.host]["total"] == 0.77) == (version < FORMULA)


def test_a_no_counts_its_reasons_and_gives_an_example():
    full = [Refusal(f"h{n}", Reason.NO_VCPU, f"needs 2 vCPU, {n} free") for n in range(2)]
    text = explain_unplaced(AUCTION, Unplaced((*full, Refusal("h9", Reason.CORDONED))))
    assert text == (
        "no host can take ns/vm (2 vCPU, 2048 MiB): "
        "2 hosts: not enough vCPU (e.g. h0: needs 2 vCPU, 0 free); 1 host: is cordoned"
    )
    assert "not found" not in text
