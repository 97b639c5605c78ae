"""What is kept of an auction, enough to replay its decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from billet.core.auction import award, scores, with_room
from billet.core.model import FORMULA, Auction, Award, Bid, HostView, Refusal, Resources, Score, Unplaced
from billet.core.scoring import Weights

ANOTHER_SCORE = frozenset(range(1, FORMULA))  # versions of records that were decided by other formulas than today's


@dataclass(slots=True)
class Attempt:
    """One decision: the answers, what the ledger counted of the hosts that gave them, and who won (None: nobody).

    `together` auctions were cleared at this moment, the largest first; 1 is this one alone. It was decision number
    `slot` of the leader's reign.
    """

    bids: list[Bid]
    refusals: list[Refusal]
    ledger: dict[str, HostView]
    award: Award | None
    together: int = 1
    slot: int = 0  # 0 in records from before it was kept
    shadow: str = ""  # whom the policy in the shadow would have taken
    after_ms: float = 0.0  # when it was made, since the record's at_s


def attempt_of(
    answers: Sequence[Bid | Refusal], ledger: Mapping[str, HostView], decision: Award | Unplaced
) -> Attempt:
    """A decision, with everything that it was made from."""
    return Attempt(
        bids=[answer for answer in answers if isinstance(answer, Bid)],
        refusals=[answer for answer in answers if isinstance(answer, Refusal)],
        ledger=dict(ledger),
        award=decision if isinstance(decision, Award) else None,
    )


class Called(NamedTuple):
    """Whom the call for bids went to: all of the `fleet` but those `absent`, or on a large one the `most` emptiest
    with room (0 = all) and a few drawn."""

    fleet: int = 0  # 0 = not known: the record is older than this
    most: int = 0
    absent: tuple[str, ...] = ()


@dataclass(slots=True)
class AuctionRecord:
    """The story of one auction. Times are wall-clock seconds and leg durations in milliseconds."""

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
    shadow: str = ""  # the policy that decides in the shadow of the real one; "" = none


class Gone(NamedTuple):
    """A placement has ended, and its room is free; kept beside the records. `id` is as a rule its auction's."""

    id: str
    host: str
    demand: Resources
    at_s: float  # wall clock


def replay(record: AuctionRecord) -> list[Award | Unplaced]:
    """Every decision of the record, made again by the same pure function; of ANOTHER_SCORE it is not the same."""
    return [award(record.auction, [*a.bids, *a.refusals], a.ledger, record.weights) for a in record.attempts]


def faithful(record: AuctionRecord) -> bool:
    """Whether replaying gives the awards that were made."""
    again = [a if isinstance(a, Award) else None for a in replay(record)]
    return again == [attempt.award for attempt in record.attempts]


def prices(record: AuctionRecord, attempt: Attempt) -> Mapping[str, Score | Refusal]:
    """What each bid counted for when the award was made; of ANOTHER_SCORE only what is known of it: the winner's."""
    bids, refusals = with_room(record.auction, attempt.bids, attempt.ledger)
    ruled_out = {refusal.host: refusal for refusal in refusals}
    if record.v in ANOTHER_SCORE:
        return ruled_out | ({attempt.award.host: attempt.award.score} if attempt.award else {})
    return ruled_out | scores(bids, record.auction, attempt.ledger, record.weights)
