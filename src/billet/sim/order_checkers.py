"""Checkers of the steps between a claim and its boot: promises 1 to 4, seen where they are kept.

The other checkers see what a fault has led to in the end. These see the step itself, because a second guard often
hides the consequence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from billet.core.model import Placement, PlacementState
from billet.core.state import PutPlacement
from billet.host.orders import RESOLVE_S
from billet.link.rounds import GAP_S
from billet.sim.checker_state import CheckerState, Violation
from billet.sim.history import (
    Committed,
    Declined,
    Deposed,
    Elected,
    Event,
    InHand,
    Leads,
    Listed,
    Ordered,
    Parted,
    Removed,
    Reported,
    Stopped,
    Told,
    Tried,
    Waits,
)
from billet.sim.hosts import REPORT_S
from billet.sim.servers import RESOLVE_AFTER_S

RECORDED_S = 10.0  # a leader that is not disturbed records within this time what a host shows
CALL_ENDS_S = 30.0  # a create of an earlier term has ended by then
QUEUED_S = 2 * GAP_S
SHOWN_S = min(RESOLVE_S, RESOLVE_AFTER_S) - 2 * REPORT_S  # Lists are not always fresh


def reservations(event: Event) -> Iterator[Placement]:
    """The reservations that an event writes."""
    if isinstance(event, Committed):
        for change in event.changes:
            if isinstance(change, PutPlacement) and change.placement.state is PlacementState.RESERVED:
                yield change.placement


def orders_follow_their_claims(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 3: a first order carries the term of its reservation, and reaches the agent that was meant."""
    claims: set[tuple[str, str, int]] = set()  # token, host, term
    for event in history:
        claims.update((placement.id, placement.host, event.term) for placement in reservations(event))  # type: ignore[union-attr]
        if isinstance(event, Ordered) and event.token and not event.resent and not event.verdict_only:
            if (event.token, event.host, event.term) not in claims:
                text = f"{event.host} got the order {event.token} of term {event.term}, which did not reserve it"
                yield Violation(3, event.at_s, text)
            if event.instance not in ("", event.agent):
                text = f"{event.agent} got the order {event.token}, which was reserved for {event.instance}"
                yield Violation(3, event.at_s, text)


def nobody_is_given_what_no_client_waits_for(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 4: when no client waits for a create any more as it is reserved, no host is told to carry it out."""
    waiting: Counter[str] = Counter()  # by token
    processes: defaultdict[str, set[str]] = defaultdict(set)  # that have waited, by token
    given_up: dict[tuple[str, str], float] = {}  # when it was reserved, by token and host
    for event in history:
        for placement in reservations(event):
            if processes[placement.id] and not waiting[placement.id]:
                given_up.setdefault((placement.id, placement.host), event.at_s)
        match event:
            case Waits(_, server, token, waits):
                waiting[token] += 1 if waits else -1
                processes[token].add(server)
                if waits:
                    given_up = {key: at_s for key, at_s in given_up.items() if key[0] != token}
            case Told(at_s, _, host_id, _, _, tokens):
                for token in sorted(tokens):
                    if (token, host_id) in given_up:
                        yield Violation(4, at_s, f"{host_id} is told to create {token}, which no client waits for")


def hosts_are_known_before_they_bid(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 1: a leader calls for no bids from a host before it has its full inventory.

    Two kinds of calls do no harm: one that was queued just before the host connected again, and those of an earlier
    term, which can claim nothing any more. An order may come earlier: to a host that has made its bid and has
    connected again since.
    """
    unknown_s: dict[int, float] = {}  # when a link was welcomed that has sent no inventory since
    deposed_s = -CALL_ENDS_S
    for event in history:
        match event:
            case Deposed(at_s):
                deposed_s = at_s
            case Told(at_s, link, host_id, term, calls):
                if term:
                    unknown_s.setdefault(link, at_s)
                elif calls and at_s - unknown_s.get(link, at_s) > QUEUED_S and at_s - deposed_s > CALL_ENDS_S:
                    yield Violation(1, at_s, f"{host_id} is called for bids before its inventory has arrived")
            case Reported(_, link, _, _, True):
                unknown_s.pop(link, None)


@dataclass(slots=True)
class _Shown:
    """A microVM that a host shows to the leader and that the store does not have."""

    link: int
    token: str
    since_s: float  # when nothing disturbed its recording any more


class _Unrecorded:
    """The microVMs that hosts show to the leader and that the store does not have.

    A new leader or link disturbs the recording: it begins with a full inventory. So does a create or delete that
    works on the microVM: the reconciler leaves it to that.
    """

    def __init__(self) -> None:
        self._state = CheckerState()
        self._shown: dict[str, _Shown] = {}  # by uid
        self._written: set[str] = set()  # uids that the store has had
        self._in_hand: frozenset[str] = frozenset()
        self._leader = ""  # id of the server that leads

    def update(self, event: Event) -> None:
        self._state.update(event)
        match event:
            case Committed(_, _, changes):
                self._write({change.placement.uid for change in changes if isinstance(change, PutPlacement)})
            case Elected() | Deposed() | Stopped():
                self._shown.clear()
                self._leader = ""
            case Leads(_, term, server, True) if term == self._state.term:
                self._leader = server
            case InHand(at_s, _, tokens):
                self._disturbed(self._in_hand | tokens, at_s)
                self._in_hand = tokens
            case _:
                self._on_link(event)
        self._disturbed(self._in_hand, event.at_s)

    def _on_link(self, event: Event) -> None:
        match event:
            case Reported(at_s, link, _, server, _, rows, gone) if server.partition(".")[0] == self._leader:
                for uid, token in rows.items():
                    if uid not in self._written and uid in self._state.vms:
                        self._shown.setdefault(uid, _Shown(link, token, at_s))
                self._forget(gone)
            case Parted(_, link, _, _):
                self._forget([uid for uid, shown in self._shown.items() if shown.link == link])
            case Removed(_, _, uid):
                self._forget([uid])

    def overdue(self, at_s: float) -> Iterator[tuple[str, str]]:
        """Host and uid of each that should have been recorded by now; each once."""
        for uid in [uid for uid, shown in self._shown.items() if at_s - shown.since_s > RECORDED_S]:
            self._write({uid})
            yield self._state.vms[uid].host, uid

    def _write(self, uids: set[str]) -> None:
        self._written |= uids
        self._forget(uids)

    def _forget(self, uids: Iterable[str]) -> None:
        for uid in uids:
            self._shown.pop(uid, None)

    def _disturbed(self, tokens: frozenset[str], at_s: float) -> None:
        for shown in self._shown.values():
            if shown.token in tokens:
                shown.since_s = at_s


def recorded_soon(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 6: what a connected host shows is in the store within seconds, unless something disturbs the leader."""
    unrecorded = _Unrecorded()
    for event in history:
        unrecorded.update(event)
        for host_id, uid in unrecorded.overdue(event.at_s):
            yield Violation(
                6, event.at_s, f"{host_id} has shown {uid} for {RECORDED_S:.0f} s, and it is not recorded"
            )


def second_host_only_after_the_first(history: Sequence[Event]) -> Iterator[Violation]:
    """Promise 4: what a flintlockd may still begin is ordered elsewhere only when its Lists have shown otherwise."""
    tried: dict[str, tuple[str, float]] = {}  # by token: the latest host, and when its flintlockd got it
    listed_s: dict[str, float] = {}  # by host: when its latest answered List was called
    for event in history:
        match event:
            case Tried(at_s, host_id, token) if token:
                tried[token] = host_id, at_s
            case Declined(_, _, token):
                tried.pop(token, None)
            case Listed(_, host_id, called_s):
                listed_s[host_id] = max(called_s, listed_s.get(host_id, 0.0))
            case Told(at_s, _, host_id, _, _, tokens):
                for token in tokens & tried.keys():
                    first, tried_s = tried[token]
                    shown_s = listed_s.get(first, 0.0) - tried_s
                    if first != host_id and shown_s < SHOWN_S:
                        text = f"{host_id} is told to create {token}, {shown_s:.1f} s after {first} may have begun it"
                        yield Violation(4, at_s, text)


ORDER_CHECKERS = (
    orders_follow_their_claims,
    nobody_is_given_what_no_client_waits_for,
    hosts_are_known_before_they_bid,
    recorded_soon,
    second_host_only_after_the_first,
)
