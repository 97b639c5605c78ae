"""Checkers of what a host's own fault may cost: no client pays for one broken host while others would take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from billet.core.errors import Code, without_not_found
from billet.core.model import Reason, VmState
from billet.core.state import PutPlacement
from billet.leader.jobs import FAILED_HOSTS
from billet.sim.checker_state import Violation
from billet.sim.flintlockd_texts import FAULTS, LOCKED
from billet.sim.history import Accepted, Answered, Committed, DeletedTwice, Event, Recorded

REFUSED = "nothing was created; try again"  # in the text of core.errors.Overloaded
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


def nothing_is_deleted_twice(history: Sequence[Event]) -> Iterator[Violation]:
    """No agent sends a second Delete to a flintlockd that has told it of the first: it would spin until restarted."""
    for event in history:
        if isinstance(event, DeletedTwice):
            yield Violation(0, event.at_s, f"{event.host} gets a second Delete of {event.uid}")


def deletes_stay_accepted(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 4: after an acknowledged Delete of a recorded microVM, a Get says DELETING, or that it is gone.

    Left out: answers given without a leader, which say so. A later leader may have taken the Delete.
    """
    written_s: dict[str, float] = {}
    deleted_s: dict[str, float] = {}
    for event in history:
        match event:
            case Committed(at_s, _, changes):
                for change in changes:
                    if isinstance(change, PutPlacement):
                        written_s.setdefault(change.placement.uid, at_s)
            case Answered(at_s, asked_s, _, "delete", _, uid, Code.OK) if written_s.get(uid, asked_s) < asked_s:
                deleted_s.setdefault(uid, at_s)
            case Answered(at_s, asked_s, _, "get", _, uid, Code.OK, _, state, stale=False):
                if asked_s > deleted_s.get(uid, at_s) and state != VmState.DELETING.name:
                    yield Violation(4, at_s, f"{uid} was deleted, and a Get says {state}")


def refused_creates_run_nowhere(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 4: a create that is refused for overload, and was sent once, is on no host, also later."""
    sent: Counter[str] = Counter()
    refused: dict[str, float] = {}
    for event in history:
        if isinstance(event, Answered) and event.kind == "create":
            sent[event.name] += 1
            if REFUSED in event.text:
                refused[event.name] = event.at_s
    for event in history:
        if isinstance(event, Accepted) and event.name in refused and sent[event.name] == 1:
            yield Violation(4, event.at_s, f"{event.name} was refused for overload, and {event.host} has it")


FAILURE_CHECKERS = (
    faults_are_no_verdicts, nothing_is_deleted_twice, deletes_stay_accepted, refused_creates_run_nowhere,
)  # fmt: skip
