"""What another policy would have awarded, from the same answers and the same ledger. Never acted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from billet.core.auction import award, updated_bid
from billet.core.model import Auction, Award, Bid, HostView, Refusal
from billet.core.scoring import Weights


def shadow(
    auction: Auction, answers: Sequence[Bid | Refusal], ledger: Mapping[str, HostView], weights: Weights
) -> str:
    """The host that these weights would have taken; "" = none.

    Every bid is priced with them, by the facts that it carried. Only hosts that were asked can be taken: on a fleet
    larger than --ask-hosts those were chosen for the policy that is acted on.
    """
    decision = award(auction, [_again(answer, ledger) for answer in answers], ledger, weights)
    return decision.host if isinstance(decision, Award) else ""


def _again(answer: Bid | Refusal, ledger: Mapping[str, HostView]) -> Bid | Refusal:
    view = ledger.get(answer.host)
    if isinstance(answer, Refusal) or view is None:
        return answer
    return updated_bid(answer, view)
