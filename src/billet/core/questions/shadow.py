"""Shadow policy: the award of a second policy from the same answers and the same ledger, for the record only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from billet.core.auction import award, updated_bid
from billet.core.model import Auction, Award, Bid, HostView, Refusal
from billet.core.scoring import Weights


def shadow(
    auction: Auction, answers: Sequence[Bid | Refusal], ledger: Mapping[str, HostView], weights: Weights
) -> str:
    """The host that would win with these weights; "" = none.

    Every bid gets a new score from its facts. Only hosts that took part can win; on a large fleet
    they were chosen for the real policy.
    """
    decision = award(auction, [_unpriced(answer, ledger) for answer in answers], ledger, weights)
    return decision.host if isinstance(decision, Award) else ""


def _unpriced(answer: Bid | Refusal, ledger: Mapping[str, HostView]) -> Bid | Refusal:
    view = ledger.get(answer.host)
    if isinstance(answer, Refusal) or view is None:
        return answer
    return updated_bid(answer, view)
