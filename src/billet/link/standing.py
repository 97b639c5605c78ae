"""Standing bids: what a host would bid by its last word, for auctions that end before its answer comes.

A host that is far away, or busy, is no worse for that. Without this, auctions would go to whoever answers first.
"""

from __future__ import annotations

from collections.abc import Sequence

from billet.core.bidding import bid
from billet.core.memory import remember
from billet.core.model import ZERO, Auction, Bid, Facts, Host, Image, Reason, Refusal, Resources
from billet.core.report import Report
from billet.core.scoring import DEFAULT_WEIGHTS

MISSED = 2.5  # report intervals without a word after which a host has no standing bid: it may be dead
IMAGE_SETS = 100  # whose answers are remembered
AWAY = frozenset({Reason.DAEMON_AWAY, Reason.STOPPING})


class Standing:
    """One connected host's last word. Times are those of the event loop."""

    __slots__ = ("_facts", "_fresh_s", "_heard_s", "_pulls", "_taken")

    def __init__(self) -> None:
        self._facts: Facts | None = None  # None = nothing to bid with
        self._taken = ZERO
        self._heard_s = 0.0
        self._fresh_s = 0.0  # how old the last word may become
        self._pulls: dict[tuple[Image, ...], tuple[int, int]] = {}  # missing and coming, from answers that were late

    def reported(self, report: Report, now_s: float) -> None:
        """The host has sent a report."""
        self._fresh_s = MISSED * report.interval_s
        self._hear(report.facts if report.daemon_ok else None, report.taken, now_s)

    def answered(self, answers: Sequence[Bid | Refusal], now_s: float) -> None:
        """The host has answered a call, in time or not. Its answers to one call have the same facts."""
        for answer in answers:
            if isinstance(answer, Bid):
                self._hear(answer.facts, answer.basis, now_s)
                return
            if answer.reason in AWAY:
                self._hear(None, ZERO, now_s)
                return

    def pulls(self, images: tuple[Image, ...], offer: Bid) -> None:
        """The host has said which of these images it has to pull."""
        remember(self._pulls, images, (offer.missing, offer.coming), IMAGE_SETS)

    def bid(self, host: Host, auction: Auction, missing: int, now_s: float) -> Bid | Refusal | None:
        """What the host would answer now; None if nothing recent is known of it.

        `missing`: the number of images to pull, where the host has never said it.
        """
        age_s = now_s - self._heard_s
        if self._facts is None or age_s > self._fresh_s:
            return None
        missing, coming = self._pulls.get(auction.images, (missing, 0))
        answer = bid(host, self._taken, self._facts, auction, DEFAULT_WEIGHTS, missing, coming)
        return answer._replace(age_s=age_s) if isinstance(answer, Bid) else answer

    def _hear(self, facts: Facts | None, taken: Resources, now_s: float) -> None:
        self._facts, self._taken, self._heard_s = facts, taken, now_s
