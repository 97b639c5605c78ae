"""Accuracy: which hosts' bids are corrected, by how much, and until when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.accuracy import (
    LATE,
    LATE_END,
    NEEDED,
    UNDERSTATED,
    UNDERSTATED_END,
    WINDOW,
    Outcome,
    discount,
    errors,
)
from billet.core.auction import award
from billet.core.bidding import bid
from billet.core.corrections import NO_DISCOUNT, Discount
from billet.core.model import Auction, Facts, Forecast, Host, HostView, Resources
from billet.core.questions.record import Attempt, AuctionRecord, faithful
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.wire.auction_records import decode, decode_outcomes, encode, encode_outcome


def outcome(ratio=1.0, understated=0.0, predicted_s=2.0):
    told = Forecast(0.5, predicted_s, predicted_s * 1.5 if predicted_s else None)
    return Outcome("h", "uid", 1.0, told, ratio * (predicted_s or 1.0), 0.5 + understated, 0.5)


right = st.builds(outcome, ratio=st.floats(0.1, LATE), understated=st.floats(-0.5, UNDERSTATED))
any_ = st.builds(
    outcome, ratio=st.floats(0.1, 50), understated=st.floats(-0.5, 0.5), predicted_s=st.none() | st.just(2.0)
)


@given(st.lists(any_, max_size=60), st.lists(right, min_size=WINDOW, max_size=WINDOW))
def test_a_host_has_recovered_once_its_window_is_right(before, since):
    assert discount(before + since) == NO_DISCOUNT


@given(st.lists(any_, max_size=60))
def test_nobody_is_favoured_for_being_wrong(outcomes):
    off = discount(outcomes)
    assert off.delay >= 1.0
    assert off.utilisation >= 0.0


@given(st.floats(LATE_END + 0.01, LATE - 0.01), st.floats(UNDERSTATED_END + 0.001, UNDERSTATED - 0.001))
def test_between_the_limits_a_discount_stays_and_none_begins(ratio, low):
    """Broken on purpose (one limit for both): a host near it changes sides with each boot, ten times a second."""
    near = [outcome(ratio, low)] * WINDOW
    assert discount(near) == NO_DISCOUNT
    assert discount(near, Discount(2.0, 0.1)) == Discount(pytest.approx(ratio), pytest.approx(low))
    assert discount(near, Discount(2.0, 0.0)) == Discount(pytest.approx(ratio), 0.0)
    assert discount([outcome(LATE_END - 0.01, UNDERSTATED_END / 2)] * WINDOW, Discount(2.0, 0.1)) == NO_DISCOUNT


@given(st.floats(LATE + 0.01, 20), st.integers(NEEDED, WINDOW))
def test_seconds_count_as_many_times_as_they_were_too_few(ratio, times):
    assert discount([outcome(ratio)] * times).delay == pytest.approx(ratio)
    assert discount([outcome(ratio)] * times).utilisation == 0.0


@given(st.floats(UNDERSTATED + 0.001, 1), st.integers(NEEDED, WINDOW))
def test_a_score_is_raised_by_what_was_understated(low, times):
    assert discount([outcome(understated=low)] * times) == Discount(1.0, pytest.approx(low))


@given(st.lists(any_, max_size=NEEDED - 1))
def test_of_a_few_nothing_is_made(outcomes):
    assert discount(outcomes) == NO_DISCOUNT


@given(st.permutations(range(WINDOW)))
def test_within_the_window_the_order_does_not_matter(order):
    outcomes = [outcome(1.0 + n / 10, n / 100) for n in range(WINDOW)]
    shuffled = discount([outcomes[n] for n in order])
    assert shuffled.delay == discount(outcomes).delay
    assert shuffled.utilisation == pytest.approx(discount(outcomes).utilisation)


def test_errors_by_hand():
    found = errors([outcome(1.0), outcome(1.2), outcome(2.0, 0.04), outcome(predicted_s=None)])
    assert (found.outcomes, found.boots, found.ratio) == (4, 3, pytest.approx(1.2))
    assert found.error == pytest.approx(0.2)
    assert found.within == pytest.approx(2 / 3)
    assert (found.understated, found.worst) == (pytest.approx(0.01), pytest.approx(0.04))
    assert errors([]) is None


def test_a_discounted_host_loses_and_its_record_replays_to_the_same_award():
    room, taken = Resources(64, 65536, 0, 100), Resources(8, 8192, 0, 8)
    auction = Auction("01A", "ns", "vm", Resources(1, 1024, 0, 1))
    bids = [
        bid(Host("right", room, room), taken, Facts(pending=2, boot_s=2.0), auction, DEFAULT_WEIGHTS),
        bid(Host("wrong", room, room), taken, Facts(pending=2, boot_s=1.0), auction, DEFAULT_WEIGHTS),
    ]
    plain = {"right": HostView(room, taken), "wrong": HostView(room, taken)}
    assert award(auction, bids, plain, DEFAULT_WEIGHTS).host == "wrong"  # it predicts half of what it takes
    views = plain | {"wrong": HostView(room, taken, discount=Discount(3.0, 0.0))}
    won = award(auction, bids, views, DEFAULT_WEIGHTS)
    assert won.host == "right"
    record = decode(encode(AuctionRecord(auction, DEFAULT_WEIGHTS, 0.0, [Attempt(bids, [], views, won)])))
    assert record.attempts[0].ledger == views
    assert faithful(record)
    record.attempts[0].ledger = plain
    assert not faithful(record)


@given(st.lists(any_, max_size=5))
def test_what_was_kept_is_read_as_it_was(outcomes):
    kept = [encode_outcome(one) for one in outcomes]
    assert decode_outcomes(kept) == outcomes
    broken = [b"", b"{}", b"[1]", b'{"v":99}', encode_outcome(outcome()).replace(b'"v":2', b'"v":3')]
    assert decode_outcomes([*broken, *kept]) == outcomes
