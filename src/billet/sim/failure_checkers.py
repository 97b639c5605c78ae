"""Checkers of what a host's own fault may cost: no client pays for one broken host while others would take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from billet.core.errors import without_not_found
from billet.core.model import Reason
from billet.leader.jobs import FAILED_HOSTS
from billet.sim.checker_state import Violation
from billet.sim.flintlockd import FAULTS, LOCKED
from billet.sim.history import Event, Recorded

TEXTS = {without_not_found(text) for text in (*FAULTS, LOCKED)}


def faults_are_no_verdicts(history: Sequence[Event]) -> Iterator[Violation]:
    """A create ends with a host's own fault only when enough hosts have failed it, or no other one takes it."""
    for event in history:
        if isinstance(event, Recorded) and event.record.text in TEXTS:
            attempts = event.record.attempts
            failed = {no.host for attempt in attempts for no in attempt.refusals if no.reason is Reason.FAULT}
            awarded = attempts[-1].award if attempts else None
            if awarded and len(failed | {awarded.host}) < FAILED_HOSTS:
                text = f"the fault of {awarded.host} ended {event.record.auction.id}: {event.record.text}"
                yield Violation(0, event.at_s, text)


FAILURE_CHECKERS = (faults_are_no_verdicts,)
