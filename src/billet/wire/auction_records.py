"""The record of an auction as bytes: compact to keep, readable to show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from billet.core.accuracy import Outcome
from billet.core.auction import forecast_of, with_room
from billet.core.boots.pooling import pool
from billet.core.errors import StoreCorrupt
from billet.core.model import FORMULA, NO_CONSTRAINTS, Auction, Bid, Forecast, HostView, Refusal, Score
from billet.core.questions.record import Attempt, AuctionRecord, Gone, prices

VERSION = FORMULA  # of others the prices are not known any more (core/questions/record.py:ANOTHER_SCORE)
OUTCOME_VERSION = 1
WITHOUT_SHAPE = 1  # records of this version were decided by the dominant share alone

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(AuctionRecord)
_gone_decoder = msgspec.json.Decoder(Gone)


def encode(record: AuctionRecord) -> bytes:
    """To keep: NamedTuples as arrays, so that 36 bids take about 5 KiB."""
    return _encoder.encode(record)


def decode(data: bytes) -> AuctionRecord:
    """A record that was kept. Raises StoreCorrupt when it is none, or of a newer Billet."""
    try:
        record = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"the record of an auction cannot be read: {error}") from error
    if record.v > VERSION:
        raise StoreCorrupt(
            f"the record of an auction has version {record.v}; this Billet reads {VERSION}: upgrade it"
        )
    if record.v <= WITHOUT_SHAPE:
        record.weights = record.weights._replace(shape=0.0)
    return record


def encode_gone(gone: Gone) -> bytes:
    """To keep beside the records."""
    return _encoder.encode(gone)


def decode_gone(data: bytes) -> Gone:
    """What was kept. Raises StoreCorrupt when it is none."""
    try:
        return _gone_decoder.decode(data)
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"the end of a microVM cannot be read: {error}") from error


def encode_outcome(outcome: Outcome) -> bytes:
    """To keep beside the records, and to send: with every field named, so that later versions can add some."""
    named = outcome._asdict() | {"forecast": outcome.forecast._asdict()}
    return _encoder.encode({"v": OUTCOME_VERSION, **named})


def decode_outcomes(kept: Iterable[bytes]) -> list[Outcome]:
    """What was kept; what cannot be read, or is of a newer Billet, is left out: an audit goes on without it."""
    outcomes = []
    for data in kept:
        with suppress(msgspec.DecodeError, TypeError, KeyError, AttributeError):
            fields = msgspec.json.decode(data)
            if fields.pop("v") <= OUTCOME_VERSION:
                outcomes.append(Outcome(**fields | {"forecast": Forecast(**fields["forecast"])}))
    return outcomes


def readable(data: bytes) -> bytes:
    """The same with every field named, and with what each bid counted for when the award was made."""
    record = decode(data)
    auction: dict[str, Any] = msgspec.to_builtins(record.auction)
    auction["demand"] = record.auction.demand._asdict()
    constraints = record.auction.constraints._asdict()
    auction["constraints"] = {
        preference: value for preference, value in constraints.items() if value != getattr(NO_CONSTRAINTS, preference)
    }
    auction["images"] = [image._asdict() for image in record.auction.images]
    outcome = {
        "kind": record.outcome,
        "host": record.host,
        "uid": record.uid,
        "code": record.code,
        "text": record.text,
    }
    return _encoder.encode(
        {
            "v": record.v,
            "auction": auction,
            "weights": record.weights._asdict(),
            "called": record.called._asdict(),
            "shadow": record.shadow,
            "at_s": record.at_s,
            "attempts": [_attempt(record, attempt) for attempt in record.attempts],
            "outcome": outcome,
            "legs_ms": record.legs_ms,
        }
    )


def _attempt(record: AuctionRecord, attempt: Attempt) -> dict[str, Any]:
    priced = prices(record, attempt)
    refusals = [*attempt.refusals, *(price for price in priced.values() if isinstance(price, Refusal))]
    award = attempt.award
    return {
        "bids": [_bid(bid, record.auction, attempt.ledger) for bid in attempt.bids],
        "refusals": [{"host": r.host, "reason": r.reason.name, "detail": r.detail} for r in refusals],
        "ledger": {
            host_id: {
                "allocatable": view.allocatable._asdict(),
                "taken": view.taken._asdict(),
                "peers": [peers._asdict() for peers in view.peers],
                "discount": view.discount._asdict(),
            }
            for host_id, view in attempt.ledger.items()
        },
        "pulling": _pulling(record, attempt),
        "priced": {host_id: price._asdict() for host_id, price in priced.items() if isinstance(price, Score)},
        "award": award._asdict() | {"score": award.score._asdict()} if award else None,
        "together": attempt.together,
        "slot": attempt.slot,
        "shadow": attempt.shadow,
    }


def _pulling(record: AuctionRecord, attempt: Attempt) -> tuple[str, ...]:
    bids, _ = with_room(record.auction, attempt.bids, attempt.ledger)
    return pool(bids, attempt.ledger, record.weights.delay_half_s).pulling


def _bid(bid: Bid, auction: Auction, ledger: Mapping[str, HostView]) -> dict[str, Any]:
    view = ledger.get(bid.host)
    return {
        "host": bid.host,
        "score": bid.score._asdict(),
        "basis": bid.basis._asdict(),
        "facts": bid.facts._asdict(),
        "missing": bid.missing,
        "coming": bid.coming,
        "formula": bid.formula,
        "forecast": forecast_of(bid, auction, view)._asdict() if view else None,
    }
