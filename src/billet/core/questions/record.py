"""The record of an auction: everything that is needed to replay its decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.auction import award, forecast_of, scores, with_room
from billet.core.boots.pooling import pool
from billet.core.constraints import Crowding, crowding
from billet.core.model import (
    FORMULA,
    Auction,
    Award,
    Bid,
    Forecast,
    HostView,
    Refusal,
    Resources,
    Score,
    Unplaced,
)
from billet.core.scoring import Weights

ANOTHER_SCORE = frozenset(range(1, FORMULA))  # versions of records whose score had another formula than today's
LAYOUT = 3  # of a record as it is stored; one more when a field or the text of a Reason is renamed


@dataclass(slots=True)
class Attempt:
    """One decision: the answers, the ledger's view of the hosts that gave them, and the award (None: no host won).

    `together` is the number of auctions that were cleared as one batch, this one included; `slot` the number of this
    decision in the leader's term.
    """

    bids: list[Bid]
    refusals: list[Refusal]
    ledger: dict[str, HostView]
    award: Award | None
    together: int = 1
    slot: int = 0  # 0 in records from before it was stored
    shadow: str = ""  # the host that the shadow policy would have taken, "" = none
    after_ms: float = 0.0  # time of the decision, counted from the record's at_s


def attempt_of(
    answers: Sequence[Bid | Refusal], ledger: Mapping[str, HostView], decision: Award | Unplaced
) -> Attempt:
    """A decision together with everything that it depends on."""
    return Attempt(
        bids=[answer for answer in answers if isinstance(answer, Bid)],
        refusals=[answer for answer in answers if isinstance(answer, Refusal)],
        ledger=dict(ledger),
        award=decision if isinstance(decision, Award) else None,
    )


class Called(NamedTuple):
    """Which hosts took part, called for bids or by their standing bids.

    `fleet` is the number of hosts. On a small fleet (`most` is 0) all but those `absent` took part; on a large one
    the `most` best ones with room, and a few drawn at random.
    """

    fleet: int = 0  # 0 = unknown: the record is older than this field
    most: int = 0
    absent: tuple[str, ...] = ()


@dataclass(slots=True)
class AuctionRecord:
    """One auction from request to outcome. Times are wall-clock seconds, durations of legs milliseconds."""

    layout: int = field(default=LAYOUT, kw_only=True)  # first, so that a stored record begins with it
    auction: Auction
    weights: Weights
    at_s: float
    attempts: list[Attempt] = field(default_factory=list)
    outcome: str = ""  # created, denied, unplaced, unknown, cancelled, failed
    host: str = ""
    uid: str = ""
    code: int = 0
    text: str = ""
    legs_ms: dict[str, float] = field(default_factory=dict)
    v: int = FORMULA
    called: Called = field(default_factory=Called)
    shadow: str = ""  # the shadow policy, which decides for the record only; "" = none


class Gone(NamedTuple):
    """A placement that has ended; its room is free. `id` is the auction's, or the uid of an adopted microVM."""

    id: str
    host: str
    demand: Resources
    at_s: float  # wall clock


def replay(record: AuctionRecord) -> list[Award | Unplaced]:
    """Every decision of the record, repeated by today's `award`; may differ for a record of ANOTHER_SCORE."""
    return [award(record.auction, [*a.bids, *a.refusals], a.ledger, record.weights) for a in record.attempts]


def faithful(record: AuctionRecord) -> bool:
    """Whether a replay gives the recorded awards."""
    replayed = [a if isinstance(a, Award) else None for a in replay(record)]
    return replayed == [attempt.award for attempt in record.attempts]


def prices(record: AuctionRecord, attempt: Attempt) -> Mapping[str, Score | Refusal]:
    """The score of each bid in this award, by host, or why the ledger excluded it.

    In a record of ANOTHER_SCORE only the winner's score is known.
    """
    bids, refusals = with_room(record.auction, attempt.bids, attempt.ledger)
    excluded = {refusal.host: refusal for refusal in refusals}
    if record.v in ANOTHER_SCORE:
        return excluded | ({attempt.award.host: attempt.award.score} if attempt.award else {})
    return excluded | scores(bids, record.auction, attempt.ledger, record.weights)


def crowdings(record: AuctionRecord, attempt: Attempt) -> Mapping[str, Crowding]:
    """How crowded each host is with the groups to be spread, by host; none if that did not count in this award."""
    if record.v in ANOTHER_SCORE:
        return {}
    counts = {host_id: crowding(view.peers, record.weights) for host_id, view in attempt.ledger.items()}
    return counts if any(map(any, counts.values())) else {}


class Priced(NamedTuple):
    """An attempt as a person reads it, with everything that follows from the record but is not stored in it."""

    scores: Mapping[str, Score]  # by host
    refusals: Sequence[Refusal]  # the hosts' own, then those of the ledger
    forecasts: Mapping[str, Forecast]  # by host; none for a host that the ledger did not know
    pulling: Sequence[str]  # hosts that were pulling images of this microVM
    crowding: Mapping[str, Crowding]  # by host; counts before the score


def priced(record: AuctionRecord, attempt: Attempt) -> Priced:
    """Work out the scores, refusals and forecasts that this attempt was decided by."""
    by_host = prices(record, attempt)
    bids, _ = with_room(record.auction, attempt.bids, attempt.ledger)
    return Priced(
        scores={host_id: price for host_id, price in by_host.items() if isinstance(price, Score)},
        refusals=[*attempt.refusals, *(price for price in by_host.values() if isinstance(price, Refusal))],
        forecasts={
            bid.host: forecast_of(bid, record.auction, view)
            for bid in attempt.bids
            if (view := attempt.ledger.get(bid.host))
        },
        pulling=pool(bids, attempt.ledger).pulling,
        crowding=crowdings(record, attempt),
    )
