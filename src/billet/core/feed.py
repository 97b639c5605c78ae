"""The feed of records, and positions in it: how far a server's copy has come, term by term (docs/adr/0045).

The leader of a term numbers its records 1, 2, 3, ... Nobody else writes to that term, so a copy is described by the
highest number that it has of each term, and two copies compare what they have by these numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

Positions = Mapping[int, int]  # by term: the highest number that is there

OWN = 0  # the term of records that belong to one server alone, such as those of an older Billet
NEWEST = 256  # terms that are compared; what is older is left as it is


class Kind(IntEnum):
    """Of a record. The numbers are sent between servers."""

    POSITION = 0  # no record: what is before it has been dropped, or was never kept
    AUCTION = 1
    END = 2  # of a microVM
    OUTCOME = 3  # of a winning bid
    EVENT = 4


class Record(NamedTuple):
    """One record of the feed. Only the fields that its kind has are set."""

    kind: Kind
    payload: bytes
    term: int = OWN
    number: int = 0
    names: tuple[str, ...] = ()  # by which an auction is found
    host: str = ""  # of an outcome
    type: str = ""  # of an event, as are the next two
    about: str = ""  # the auction
    at_s: float = 0.0


def newest(positions: Positions, most: int = NEWEST) -> dict[int, int]:
    """The positions of the newest `most` terms, the oldest first. Those of OWN are nobody else's business."""
    terms = sorted(term for term in positions if term != OWN)
    return {term: positions[term] for term in terms[-most:]}


def ahead(mine: Positions, theirs: Positions, most: int = NEWEST) -> dict[int, int]:
    """What `mine` has and `theirs` lacks: by term, the oldest first, the number after which to begin.

    If `theirs` has `most` terms, it has been cut to the newest, and terms before those are left out.
    """
    begin = min(theirs) if len(theirs) >= most else OWN + 1
    lacking = (term for term, number in mine.items() if term >= begin and number > theirs.get(term, 0))
    return {term: theirs.get(term, 0) for term in sorted(lacking)}


def raised(positions: Positions, others: Positions) -> dict[int, int]:
    """The higher position of each term."""
    return {term: max(positions.get(term, 0), others.get(term, 0)) for term in (*positions, *others)}


def written(positions: Positions) -> str:
    """Positions as a text that a client sends back."""
    return ",".join(f"{term}.{number}" for term, number in positions.items())


def read(text: str) -> dict[int, int]:
    """The positions in a text from `written`. Raises ValueError."""
    parts: Iterable[tuple[str, str, str]] = (part.partition(".") for part in text.split(",") if part)
    positions = {_natural(term): _natural(number) for term, _, number in parts}
    if len(positions) > NEWEST:
        raise ValueError(text)
    return positions


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(text)
    return int(text)
