"""The recorder of one auction: writes its record while it happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from billet.core.errors import BilletError, Cancelled, CreateOutcomeUnknown, HostVerdict, NoRoom
from billet.core.model import Auction, Award, Bid, HostView, Reason, Refusal, Unplaced
from billet.core.questions.record import AuctionRecord, attempt_of
from billet.core.questions.shadow import shadow
from billet.core.scoring import Weights
from billet.leader.batching import Slot
from billet.ports import Clock


class AuctionRecorder:
    """The record of a running auction, and the stopwatch of its legs."""

    def __init__(
        self, auction: Auction, weights: Weights, clock: Clock, shadow_weights: Weights | None = None
    ) -> None:
        """`shadow_weights`: a second policy, which decides as well, for the record only."""
        self.record = AuctionRecord(
            auction, weights, at_s=clock.now_s(), shadow=shadow_weights.policy if shadow_weights else ""
        )
        self.reasons: Counter[Reason] = Counter()  # hosts by reason, if none of them could take it
        self._shadow_weights = shadow_weights
        self._clock = clock
        self._begun_s = self._last_s = clock.monotonic_s()

    def leg(self, name: str) -> None:
        """Count the time since the last leg as this one's; repeated legs add up."""
        now_s = self._clock.monotonic_s()
        legs = self.record.legs_ms
        legs[name] = legs.get(name, 0.0) + (now_s - self._last_s) * 1e3
        self._last_s = now_s

    def decided(
        self,
        answers: Sequence[Bid | Refusal],
        ledger: Mapping[str, HostView],
        decision: Award | Unplaced,
        slot: Slot,
    ) -> Award | Unplaced:
        """Record a decision with everything that it depends on."""
        attempt = attempt_of(answers, ledger, decision)
        attempt.together, attempt.slot = slot.together, slot.number
        if self._shadow_weights:
            attempt.shadow = shadow(self.record.auction, answers, ledger, self._shadow_weights)
        attempt.after_ms = (self._clock.monotonic_s() - self._begun_s) * 1e3
        self.record.attempts.append(attempt)
        return decision

    def created(self, host: str, uid: str) -> None:
        """Record success: the host has the microVM."""
        self.record.outcome, self.record.host, self.record.uid = "created", host, uid
        self._end()

    def failed(self, error: BilletError) -> None:
        """Record the error that the client gets."""
        match error:
            case HostVerdict():
                outcome = "denied"
            case NoRoom():
                outcome = "unplaced"
            case CreateOutcomeUnknown():
                outcome = "unknown"
            case Cancelled():
                outcome = "cancelled"
            case _:
                outcome = "failed"
        self.record.outcome, self.record.code, self.record.text = outcome, error.status, error.text
        self._end()

    def _end(self) -> None:
        self.record.legs_ms["total"] = (self._clock.monotonic_s() - self._begun_s) * 1e3
