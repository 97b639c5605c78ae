"""Checkers of whose a microVM is: it belongs to the host that has it, whatever others say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from billet.core.errors import Code
from billet.core.model import PlacementState
from billet.core.state import PutPlacement
from billet.sim.checker_state import CheckerState, Violation
from billet.sim.history import Accepted, Answered, Committed, Event, Passed, Removed

APPLIED_S = 10.0  # a leader's ledger has by then what the store has written for it


def one_owner(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 6: the store has a microVM on the host where it is, and on no other."""
    state = CheckerState()
    homes: dict[str, str] = {}  # uid -> host
    for event in history:
        state.update(event)
        if isinstance(event, Accepted):
            homes[event.uid] = event.host
        if isinstance(event, Committed):
            for change in event.changes:
                if isinstance(change, PutPlacement) and change.placement.uid in homes:
                    new = change.placement
                    if new.host != homes[new.uid]:
                        yield Violation(
                            6, event.at_s, f"the store has {new.uid} on {new.host}, but {homes[new.uid]} does"
                        )


def nothing_else_is_deleted(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 4: a microVM ends only by a client's Delete, or by a fence of the host where it is."""
    asked = {event.uid for event in history if isinstance(event, Answered) and event.kind == "delete"}
    released: set[tuple[str, str]] = set()  # uid or token, and host
    tokens: dict[str, str] = {}
    for event in history:
        match event:
            case Accepted(_, _, uid, _, token):
                tokens[uid] = token
            case Committed(_, _, changes):
                for change in changes:
                    if isinstance(change, PutPlacement) and change.placement.state is PlacementState.FENCED:
                        placement = change.placement
                        released |= {(placement.uid, placement.host), (placement.id, placement.host)}
            case Removed(at_s, host_id, uid):
                fenced = (uid, host_id) in released or (tokens.get(uid, ""), host_id) in released
                if uid not in asked and not fenced:
                    yield Violation(4, at_s, f"{host_id} deleted {uid}, and nobody had asked for that")


def calls_go_to_the_owner(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 6: a Get or a Delete of a recorded microVM goes to its host, whatever others show.

    Only the current leader is held to that. One that was deposed may not have learnt of it. A microVM that a client
    named before it was recorded is left out: such calls go to all hosts, and may reach a frozen one late.
    """
    state = CheckerState()
    asked_s: dict[str, float] = {}  # by uid: when a client first named it
    for event in history:
        if isinstance(event, Answered) and event.kind in ("get", "delete"):
            asked_s[event.uid] = min(event.asked_s, asked_s.get(event.uid, event.asked_s))
    homes: dict[str, tuple[str, float]] = {}  # uid -> host, and when the store first had it there
    for event in history:
        state.update(event)
        match event:
            case Committed(at_s, _, changes):
                for change in changes:
                    if isinstance(change, PutPlacement) and (vm := state.vms.get(change.placement.uid)):
                        homes.setdefault(change.placement.uid, (vm.host, at_s))
            case Passed(at_s, host_id, term, uid) if uid in homes and uid in state.vms:
                home, since_s = homes[uid]
                if asked_s.get(uid, at_s) < since_s + APPLIED_S:
                    continue
                if host_id != home and term == state.term and at_s - since_s > APPLIED_S:
                    yield Violation(6, at_s, f"a call for {uid} went to {host_id}, but {home} has it")


def creates_are_answered_with_their_own(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 4: the microVM in the answer to a create is the one that was asked for."""
    names: dict[str, str] = {}  # by uid
    for event in history:
        match event:
            case Accepted(_, _, uid, name):
                names[uid] = name
            case Answered(at_s, _, _, "create", name, uid, Code.OK, _) if names.get(uid) != name:
                yield Violation(4, at_s, f"the create of {name} was answered with {uid}, which is {names.get(uid)}")


OWNER_CHECKERS = (one_owner, nothing_else_is_deleted, calls_go_to_the_owner, creates_are_answered_with_their_own)
