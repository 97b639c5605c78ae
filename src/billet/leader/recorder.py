"""What one auction went through, written down while it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from billet.core.errors import BilletError, Cancelled, CreateOutcomeUnknown, HostVerdict, NoRoom
from billet.core.model import Auction, Award, Bid, HostView, Refusal, Unplaced
from billet.core.questions.record import AuctionRecord, attempt_of
from billet.core.questions.shadow import shadow
from billet.core.scoring import Weights
from billet.leader.batching import Slot
from billet.ports import Clock


class AuctionRecorder:
    """The record of an auction in the making, and the clock of its legs."""

    def __init__(self, auction: Auction, weights: Weights, clock: Clock, beside: Weights | None = None) -> None:
        """`beside` is the policy in the shadow: it decides every time as well, and only for the record."""
        self.record = AuctionRecord(auction, weights, at_s=clock.now_s(), shadow=beside.policy if beside else "")
        self._beside = beside
        self._clock = clock
        self._begun_s = self._last_s = clock.monotonic_s()

    def leg(self, name: str) -> None:
        """The time since the last leg was spent on this one; a leg that comes again adds up."""
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
        """A decision, with everything that it was made from."""
        attempt = attempt_of(answers, ledger, decision)
        attempt.together, attempt.slot = slot.together, slot.number
        if self._beside:
            attempt.shadow = shadow(self.record.auction, answers, ledger, self._beside)
        attempt.after_ms = (self._clock.monotonic_s() - self._begun_s) * 1e3
        self.record.attempts.append(attempt)
        return decision

    def created(self, host: str, uid: str) -> None:
        """The happy end."""
        self.record.outcome, self.record.host, self.record.uid = "created", host, uid
        self._end()

    def failed(self, error: BilletError) -> None:
        """The other ends."""
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
