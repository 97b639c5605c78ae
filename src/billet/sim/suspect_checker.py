"""The checker of what a broken host costs: after two failed creates it gets no order until its next try."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from billet.core.model import Bid, Reason, Refusal
from billet.core.questions.record import Attempt
from billet.sim.checker_state import Violation
from billet.sim.history import Accepted, Declined, Event, Leads, Parted, Recorded

PAUSE_S = 2.0  # from the second failure to the next try, at least
COSTS = 2  # failed creates
NO_ROOM = frozenset({Reason.NO_VCPU, Reason.NO_MEMORY, Reason.NO_DISK, Reason.NO_SLOT})


class Failure(NamedTuple):
    """A create that a host failed at `at_s`, and when the leader surely knew."""

    known_s: float
    at_s: float
    host: str


class Given(NamedTuple):
    """An order that an auction gave to a host."""

    at_s: float
    host: str
    token: str
    others: frozenset[str]  # hosts that could have taken it, be they full


def broken_hosts_cost_little(history: Sequence[Event]) -> Iterator[Violation]:
    """Not one of the promises: a host with two failed creates, known to the leader, gets nothing for a while.

    Left out: the only host that qualifies, and all hosts while another one fails as well, because only a share of the
    fleet may be without orders. Whatever a host accepts may have booted, and clears it.
    """
    for leads_s, part in _terms(history):
        failed = [e for e in part if isinstance(e, Declined) and e.fault]
        cleared = [(e.at_s, e.host) for e in part if isinstance(e, Accepted | Parted)]
        records = [e for e in part if isinstance(e, Recorded) and _begun_s(e) > leads_s]
        known = sorted(failure for event in records for failure in _known(event, failed))
        for given in (given for event in records for given in _given(event)):
            since_s = max((at_s for at_s, host in cleared if host == given.host and at_s <= given.at_s), default=0.0)
            before = [failure for failure in known if failure.known_s < given.at_s]
            failing = {failure.host for failure in before}
            mine = {failure.at_s for failure in before if failure.host == given.host and failure.at_s > since_s}
            if len(mine) < COSTS or len(failing) > 1 or not given.others - failing:
                continue
            if given.at_s < max(mine) + PAUSE_S:
                after_s = given.at_s - max(mine)
                text = f"{given.host} got {given.token} {after_s:.2f} s after its failure number {len(mine)}"
                yield Violation(0, given.at_s, text)


def _terms(history: Sequence[Event]) -> Iterator[tuple[float, list[Event]]]:
    """The events between two changes of who leads: a leader's memory is its own."""
    since_s, part = 0.0, list[Event]()
    for event in history:
        if isinstance(event, Leads):
            yield since_s, part
            since_s, part = event.at_s, []
        part.append(event)
    yield since_s, part


def _begun_s(event: Recorded) -> float:
    return event.at_s - event.record.legs_ms["total"] / 1e3


def _known(event: Recorded, failed: Sequence[Declined]) -> Iterator[Failure]:
    """The failures that the leader surely knew of: when it decided without that host. A create may fail twice."""
    record = event.record
    known = set[str]()
    for attempt in record.attempts:
        for no in attempt.refusals:
            if no.reason is Reason.FAULT and no.host not in known:
                known.add(no.host)
                known_s = _decided_s(event, attempt)
                mine = [e.at_s for e in failed if (e.host, e.token) == (no.host, record.auction.id)]
                yield Failure(known_s, max((at_s for at_s in mine if at_s <= known_s), default=0.0), no.host)


def _given(event: Recorded) -> Iterator[Given]:
    for attempt in event.record.attempts:
        if attempt.award:
            others = _others(attempt, attempt.award.host)
            yield Given(_decided_s(event, attempt), attempt.award.host, event.record.auction.id, others)


def _decided_s(event: Recorded, attempt: Attempt) -> float:
    return _begun_s(event) + attempt.after_ms / 1e3


def _others(attempt: Attempt, winner: str) -> frozenset[str]:
    answers: list[Bid | Refusal] = [*attempt.bids, *attempt.refusals]
    able = {a.host for a in answers if isinstance(a, Bid) or a.reason in NO_ROOM}
    excluded = {
        host_id for host_id, view in attempt.ledger.items() if view.excluded_by or view.cordoned or view.fenced
    }
    return frozenset(able - excluded - {winner})
