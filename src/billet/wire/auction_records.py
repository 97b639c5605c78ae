"""Auction records as bytes: compact for the store, with named fields for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec

from billet.core.accuracy import Outcome
from billet.core.errors import StoreCorrupt
from billet.core.model import FORMULA, NO_CONSTRAINTS, Auction, Bid, Forecast, HostView, Refusal
from billet.core.questions.record import LAYOUT, Attempt, AuctionRecord, Gone, Priced, priced

VERSION = (
    FORMULA  # prices of records with another one are not known any more (core/questions/record.py:ANOTHER_SCORE)
)
OUTCOME_VERSION = 2
WITHOUT_SHAPE = 1  # records of this version were decided by the dominant share alone
# ValueError: msgspec does not say DecodeError for a key that is not UTF-8.
UNREADABLE = (msgspec.DecodeError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)

# Names in older layouts. Layout 1 is that of records without the field `layout`.
OLD_REASONS = {
    "is not in the wished zone": "is not in the required zone",
    "is not the wished host": "is not the required host",
    "lacks a wished label": "lacks a required label",
    "has a label to be avoided": "has a label that the request avoids",
    "has one of a group that is kept apart": "has another microVM of the apart group",
    "took back its bid": "withdrew its bid",
}


class _Header(msgspec.Struct):
    """The part of a stored record that says how to read the rest."""

    layout: int = 1


_encoder = msgspec.json.Encoder()
_NEWEST = b'{"layout":%d,' % LAYOUT  # how the encoder begins a record; saves a look at the header
_header_decoder = msgspec.json.Decoder(_Header)
_decoder = msgspec.json.Decoder(AuctionRecord)
_gone_decoder = msgspec.json.Decoder(Gone)


def encode(record: AuctionRecord) -> bytes:
    """A record for the store: NamedTuples as arrays, so that 36 bids take about 5 KiB."""
    return _encoder.encode(record)


def decode(data: bytes) -> AuctionRecord:
    """A stored record. Raises StoreCorrupt when it is malformed, or was written by a newer Billet."""
    try:
        layout = LAYOUT if data.startswith(_NEWEST) else _header_decoder.decode(data).layout
        if layout > LAYOUT:
            raise _newer("layout", layout, LAYOUT)
        record = _decoder.decode(data) if layout == LAYOUT else _decode_older(data)
    except UNREADABLE as error:
        raise StoreCorrupt(f"cannot read the record of an auction: {error}") from error
    if record.v > VERSION:
        raise _newer("version", record.v, VERSION)
    if record.v <= WITHOUT_SHAPE:
        record.weights = record.weights._replace(shape=0.0)
    return record


def _newer(what: str, found: int, known: int) -> StoreCorrupt:
    return StoreCorrupt(
        f"the record of an auction has {what} {found}; this Billet reads up to {known}: upgrade Billet"
    )


def _decode_older(data: bytes) -> AuctionRecord:
    """A record of layout 1 or 2, with the names of today, and without `delay_half_s` among the weights."""
    record = msgspec.json.decode(data)
    del record["weights"][2:3]
    _rename(record["auction"], "wishes", "constraints")
    for attempt in record["attempts"]:
        _rename(attempt, "turn", "slot")
        for refusal in attempt["refusals"]:
            _rename_reason(refusal)
        for view in attempt["ledger"].values():
            for refusal in view[4:5]:
                _rename_reason(refusal)
    return msgspec.convert(record, AuctionRecord)


def _rename(fields: dict[str, Any], old: str, new: str) -> None:
    if old in fields:
        fields[new] = fields.pop(old)


def _rename_reason(refusal: list[Any] | None) -> None:
    if refusal:
        refusal[1] = OLD_REASONS.get(refusal[1], refusal[1])


def encode_gone(gone: Gone) -> bytes:
    """The end of a placement, for the store."""
    return _encoder.encode(gone)


def decode_gone(data: bytes) -> Gone:
    """A stored end of a placement. Raises StoreCorrupt when it is malformed."""
    try:
        return _gone_decoder.decode(data)
    except UNREADABLE as error:
        raise StoreCorrupt(f"cannot read the record of a deleted microVM: {error}") from error


def encode_outcome(outcome: Outcome) -> bytes:
    """An outcome, for the store and for clients: every field is named, so that later versions can add some."""
    named = outcome._asdict() | {"forecast": outcome.forecast._asdict()}
    return _encoder.encode({"v": OUTCOME_VERSION, **named})


def decode_outcomes(stored: Iterable[bytes]) -> list[Outcome]:
    """The outcomes that can be read; malformed ones and those of a newer Billet are left out."""
    outcomes = []
    for data in stored:
        with suppress(*UNREADABLE):
            fields = msgspec.json.decode(data)
            version = fields.pop("v")
            if version == 1:
                _rename(fields, "foretold", "forecast")
            if version <= OUTCOME_VERSION:
                outcomes.append(Outcome(**fields | {"forecast": Forecast(**fields["forecast"])}))
    return outcomes


def readable(data: bytes, about: Callable[[str], Iterable[bytes]] = lambda auction: ()) -> bytes:
    """A stored record as JSON with every field named, and with the scores that counted in each award.

    Raises StoreCorrupt.

    `about`: the stored events of an auction's microVM.
    """
    record = decode(data)
    try:
        attempts = [_attempt(attempt, priced(record, attempt)) for attempt in record.attempts]
    except OverflowError as error:
        raise StoreCorrupt(f"cannot read an auction record: {error}") from None
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
            "auction": _auction(record.auction),
            "weights": record.weights._asdict(),
            "called": record.called._asdict(),
            "shadow": record.shadow,
            "at_s": record.at_s,
            "attempts": attempts,
            "outcome": outcome,
            "legs_ms": record.legs_ms,
            "events": [msgspec.Raw(event) for event in about(record.auction.id)],
        }
    )


def _auction(auction: Auction) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(auction)
    fields["demand"] = auction.demand._asdict()
    constraints = auction.constraints._asdict()
    fields["constraints"] = {
        name: value for name, value in constraints.items() if value != getattr(NO_CONSTRAINTS, name)
    }
    fields["images"] = [image._asdict() for image in auction.images]
    return fields


def _attempt(attempt: Attempt, view: Priced) -> dict[str, Any]:
    award = attempt.award
    return {
        "bids": [_bid(bid, view.forecasts.get(bid.host)) for bid in attempt.bids],
        "refusals": [_refusal(refusal) for refusal in view.refusals],
        "ledger": {host_id: _host_view(counted) for host_id, counted in attempt.ledger.items()},
        "pulling": view.pulling,
        "priced": {host_id: score._asdict() for host_id, score in view.scores.items()},
        "crowding": {host_id: counts._asdict() for host_id, counts in view.crowding.items()},
        "award": award._asdict() | {"score": award.score._asdict()} if award else None,
        "together": attempt.together,
        "slot": attempt.slot,
        "shadow": attempt.shadow,
    }


def _refusal(refusal: Refusal) -> dict[str, str]:
    return {"host": refusal.host, "reason": refusal.reason.name, "detail": refusal.detail}


def _host_view(view: HostView) -> dict[str, Any]:
    return {
        "allocatable": view.allocatable._asdict(),
        "taken": view.taken._asdict(),
        "peers": [peers._asdict() for peers in view.peers],
        "discount": view.discount._asdict(),
        "trouble": view.trouble._asdict(),
        "scarcity": view.scarcity._asdict(),
    }


def _bid(bid: Bid, forecast: Forecast | None) -> dict[str, Any]:
    return {
        "host": bid.host,
        "score": bid.score._asdict(),
        "basis": bid.basis._asdict(),
        "facts": bid.facts._asdict(),
        "missing": bid.missing,
        "coming": bid.coming,
        "formula": bid.formula,
        "age_s": bid.age_s,
        "forecast": forecast._asdict() if forecast else None,
    }
