"""Auction records that older versions of Billet stored are read, and mean the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from billet.core.constraints import read
from billet.core.errors import StoreCorrupt
from billet.core.model import Award, Forecast, Reason, Refusal, Resources
from billet.core.questions.record import AuctionRecord, Gone, faithful, replay
from billet.wire.auction_records import decode, decode_gone, decode_outcomes, encode, encode_outcome, readable

HERE = Path(__file__).parent
OLD, LAYOUT_2 = HERE / "47881c4", HERE / "layout-2"
ADDED_SINCE = (Reason.FAULT, Reason.SUSPECT)  # reasons that no stored record of that time can have


def stored(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


@pytest.mark.parametrize("folder", [OLD, LAYOUT_2], ids=lambda folder: folder.name)
def test_a_stored_auction_replays_to_the_same_winner_with_its_constraints(folder: Path) -> None:
    record = decode(stored(folder, "auction-awarded.json"))
    auction, (attempt,) = record.auction, record.attempts
    assert auction.constraints == read(auction.labels, auction.name)
    assert (auction.constraints.apart, auction.constraints.priority) == ("web", 3)
    assert (attempt.slot, attempt.together, attempt.shadow) == (7, 3, "h0")
    assert [(no.host, no.reason) for no in attempt.refusals] == [("h3", Reason.LABEL), ("h4", Reason.SILENT)]
    assert attempt.ledger["h1"].excluded_by == Refusal("h1", Reason.APART, "already has ns/web-0 of group web")
    assert [peers.preference for peers in attempt.ledger["h2"].peers] == ["spread", "cluster"]
    for award in (attempt.award, *replay(record)):  # the replay has another score: formula 7 has come since
        assert isinstance(award, Award)
        assert (award.host, award.runner_up) == ("h0", "h2")


@pytest.mark.parametrize("folder", [OLD, LAYOUT_2], ids=lambda folder: folder.name)
def test_every_reason_of_a_stored_refusal_is_known(folder: Path) -> None:
    """Fails when the text of a Reason changes: then a new LAYOUT is due, and the old text in OLD_REASONS."""
    record = decode(stored(folder, "auction-unplaced.json"))
    (attempt,) = record.attempts
    known = [reason for reason in Reason if reason not in ADDED_SINCE]
    assert [no.reason for no in attempt.refusals if no.host.startswith("x")] == known
    assert record.auction.constraints.zone == "z"
    assert faithful(record)


def test_an_old_record_is_the_same_once_it_is_stored_again() -> None:
    for name in ("auction-awarded.json", "auction-unplaced.json"):
        record: AuctionRecord = decode(stored(OLD, name))
        assert decode(encode(record)) == record
        shown = json.loads(readable(stored(OLD, name)))
        assert shown["auction"]["constraints"]
        assert shown["attempts"][0]["slot"] == 7


@pytest.mark.parametrize("folder", [OLD, LAYOUT_2], ids=lambda folder: folder.name)
def test_a_stored_outcome_keeps_its_forecast(folder: Path) -> None:
    (outcome,) = decode_outcomes([stored(folder, "outcome.json")])
    assert outcome.forecast == Forecast(0.125, 17.5, 24.45053954740206)
    assert decode_outcomes([encode_outcome(outcome)]) == [outcome]


@pytest.mark.parametrize("folder", [OLD, LAYOUT_2], ids=lambda folder: folder.name)
def test_a_stored_end_of_a_placement_is_read(folder: Path) -> None:
    assert decode_gone(stored(folder, "gone.json")) == Gone(
        "token-1", "h0", Resources(2, 2048, 0, 1), 1_790_000_060.0
    )


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"auction": 1}', b'{"auction": {}, "attempts": [{}]}', b'{"layout": "x"}']
)
def test_a_malformed_record_is_said_to_be_corrupt(data: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="cannot read the record of an auction"):
        decode(data)


def test_a_record_of_a_newer_billet_asks_for_an_upgrade() -> None:
    newer = (
        stored(LAYOUT_2, "auction-awarded.json")
        .replace(b'"layout":2', b'"layout":99')
        .replace(b'"bids"', b'"offers"')
    )
    with pytest.raises(StoreCorrupt, match="upgrade Billet"):
        decode(newer)
