"""Calls and bids survive encoding and decoding, lot by lot."""

from __future__ import annotations

import pytest

from billet.core.bidding import bid
from billet.core.constraints import read
from billet.core.model import ZERO, Auction, Bid, Facts, Host, Reason, Refusal, Resources
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.link import bid_messages as link
from billet.link.messages import get_outcome, put_outcome
from billet.ports import Denied, Ended, Failed, Unknown
from billet.wire.pb import link_pb2 as pb

ROOM = Resources(16, 16384, 100_000, 100)
SHAPE = Resources(2, 2048, 0, 1)
HOST = Host("h1", ROOM, ROOM)


def auction(**labels: str) -> Auction:
    named = {f"billet.io/{preference}": value for preference, value in labels.items()}
    return Auction("01A", "ns", "vm", SHAPE, labels=named, constraints=read(named))


def test_each_lot_of_a_round_is_priced_by_its_own_policy() -> None:
    """Broken on purpose (one delay for all lots of a round): the second lot's total is the first one's."""
    lots = [auction(), auction(policy="fast"), auction(policy="pack")]
    called = link.get_call(pb.Call.FromString(link.put_call(7, enumerate(lots)).SerializeToString()))
    facts = Facts(0.1, 30, 2.5, 75.5, 4.0, 0.7, 2, 12.0, 6.0)
    assert len(set(facts)) == len(Facts._fields)  # all differ, so none can be lost or swapped unnoticed
    answers = [(lot, bid(HOST, ZERO, facts, sent, DEFAULT_WEIGHTS)) for lot, sent in called]
    heard = dict(link.get_bids("h1", pb.Bids.FromString(link.put_bids(7, answers).SerializeToString())))
    for lot, wanted in enumerate(lots):
        asked = bid(HOST, ZERO, facts, wanted, DEFAULT_WEIGHTS)
        assert isinstance(asked, Bid)
        assert heard[lot] == asked
    assert len({answer.score.delay for answer in heard.values()}) == 3


def test_of_constraints_and_preferences_hosts_see_only_the_policy() -> None:
    wanted = auction(zone="b", apart="web", near="db", policy="pack", priority="3")
    ((_, sent),) = link.get_call(link.put_call(1, [(0, wanted)]))
    assert sent == Auction("", "", "", SHAPE, constraints=read({"billet.io/policy": "pack"}))


def test_older_leaders_and_older_agents_are_understood() -> None:
    """Servers and agents may be upgraded in any order, so columns may be missing on either side."""
    call = link.put_call(7, [(0, auction()), (1, auction())])
    call.ClearField("policy")
    call.ClearField("images")
    called = link.get_call(pb.Call.FromString(call.SerializeToString()))
    assert [sent for _, sent in called] == [Auction("", "", "", SHAPE)] * 2
    bids = link.put_bids(7, [(lot, bid(HOST, ZERO, Facts(), sent, DEFAULT_WEIGHTS)) for lot, sent in called])
    bids.ClearField("delay")
    bids.ClearField("missing")
    bids.ClearField("coming")
    bids.ClearField("formula")
    heard = link.get_bids("h1", pb.Bids.FromString(bids.SerializeToString()))
    todays = bid(HOST, ZERO, Facts(), auction(), DEFAULT_WEIGHTS)
    assert isinstance(todays, Bid)
    assert heard == [(lot, todays._replace(formula=0)) for lot in (0, 1)]


def test_a_leader_that_does_not_know_that_a_microvm_can_be_deleted_before_its_answer_takes_it_for_unknown() -> None:
    answer = pb.Answer.FromString(put_outcome(7, Ended("U1")).SerializeToString())
    assert get_outcome("h1", answer) == Ended("U1")
    answer.ClearField("uid")  # which that leader does not look at
    assert isinstance(get_outcome("h1", answer), Unknown)


def test_a_leader_that_does_not_know_that_a_host_can_fail_passes_its_text_on() -> None:
    failed = Failed(2, "creating microvm: checking to see if spec exists: unavailable", (("k", "v"),))
    answer = pb.Answer.FromString(put_outcome(7, failed).SerializeToString())
    assert get_outcome("h1", answer) == failed
    answer.ClearField("kind")  # those leaders compare it with the two kinds that they know
    assert get_outcome("h1", answer) == Denied(*failed)


def test_a_verdict_whose_text_the_agent_does_not_know_says_so() -> None:
    for unclear in (True, False):
        answer = pb.Answer.FromString(put_outcome(7, Denied(2, "strange", (), unclear)).SerializeToString())
        assert get_outcome("h1", answer) == Denied(2, "strange", (), unclear)
    assert get_outcome("h1", pb.Answer(code=2, text="strange")) == Denied(2, "strange"), "of an older agent"


def test_a_failure_without_a_code_proves_nothing() -> None:
    assert isinstance(get_outcome("h1", pb.Answer(kind=pb.Answer.FAILED)), Unknown)
    assert isinstance(get_outcome("h1", pb.Answer(kind=pb.Answer.FAILED, uid="01U")), Unknown)


def test_pulls_of_an_older_agent_count_as_pulls_of_this_lots_images() -> None:
    facts = Facts(0.1, 3, 2.0, 9.0, 4.0, pulls=2)
    bids = link.put_bids(7, [(0, bid(HOST, ZERO, facts, auction(), DEFAULT_WEIGHTS, 0, 1))])
    ((_, said),) = link.get_bids("h1", pb.Bids.FromString(bids.SerializeToString()))
    bids.ClearField("coming")
    ((_, silent),) = link.get_bids("h1", pb.Bids.FromString(bids.SerializeToString()))
    assert isinstance(said, Bid)
    assert isinstance(silent, Bid)
    assert (said.coming, silent.coming) == (1, 2)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("part", "amount"),
    [("utilisation", NAN), ("utilisation", INF), ("utilisation", -1.0), ("shape", NAN), ("delay", -INF)],
)
def test_a_bid_with_an_invalid_number_becomes_a_refusal(part: str, amount: float) -> None:
    """A NaN is neither lower nor higher than any other bid, so the auction could not be decided."""
    good = bid(HOST, ZERO, Facts(0.1, 3, 2.0), auction(), DEFAULT_WEIGHTS)
    message = link.put_bids(1, [(0, good), (1, good)])
    getattr(message, part)[1] = amount
    assert link.get_bids("h1", message) == [(0, good), (1, Refusal("h1", Reason.DECLINED, link.NO_SENSE))]


@pytest.mark.parametrize(
    "facts",
    [Facts(NAN), Facts(0.0, 1, INF), Facts(0.0, -1, 1.0), Facts(pulls=-3), Facts(0.0, 1, 1e200)],
)
def test_a_bid_with_invalid_facts_becomes_a_refusal(facts: Facts) -> None:
    """The last one is finite, but its square is not: it would raise in the auction."""
    good = bid(HOST, ZERO, Facts(), auction(), DEFAULT_WEIGHTS)
    assert isinstance(good, Bid)
    message = link.put_bids(1, [(0, good._replace(facts=facts))])
    assert link.get_bids("h1", message) == [(0, Refusal("h1", Reason.DECLINED, link.NO_SENSE))]


@pytest.mark.parametrize("fault", [False, True])
def test_an_unknown_outcome_says_whether_flintlockd_has_answered_with_an_error(fault: bool) -> None:
    unknown = Unknown("may have it", fault)
    answer = pb.Answer.FromString(put_outcome(7, unknown).SerializeToString())
    assert get_outcome("h1", answer) == unknown
