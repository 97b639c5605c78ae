"""What the leader adds to a host's bids: for inaccurate ones, and for what has failed on the host."""

from __future__ import annotations

from typing import NamedTuple


class Discount(NamedTuple):
    """The correction of a host's inaccurate bids (core/accuracy.py): `delay` multiplies the predicted seconds,
    `utilisation` is added to the score."""

    delay: float = 1.0
    utilisation: float = 0.0


NO_DISCOUNT = Discount()


class Trouble(NamedTuple):
    """What a host's failures add to its score (core/health.py), and what has failed."""

    penalty: float = 0.0
    why: str = ""


NO_TROUBLE = Trouble()
