"""The checker of late bids: a host that has just spoken takes part in every auction that it was asked to."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from billet.core.columns import MISSED
from billet.core.model import Reason
from billet.core.questions.record import AuctionRecord
from billet.sim.checker_state import Violation
from billet.sim.history import Event, Heard, Leads, Parted, Recorded
from billet.sim.hosts import REPORT_S

KEPT = 8  # latest words of a host: enough to find the last one before an auction
FRESH_S = MISSED * REPORT_S


def late_is_not_absent(history: Sequence[Event]) -> Iterator[Violation]:
    """Not one of the promises: no auction takes a host for silent that has spoken shortly before, and was well."""
    heard: dict[tuple[str, str], deque[float]] = {}  # by server and host: since it was last not well
    leading: set[str] = set()
    for event in history:
        match event:
            case Heard(at_s, host, server, True):
                heard.setdefault((_name(server), host), deque(maxlen=KEPT)).append(at_s)
            case Heard(_, host, server, False) | Parted(_, _, host, server):
                heard.pop((_name(server), host), None)
            case Leads(_, _, server, leads):  # a server remembers what hosts say while it leads
                (leading.add if leads else leading.discard)(server)
                heard = {pair: said for pair, said in heard.items() if pair[0] != server}
            case Recorded(at_s, record, leader) if leader in leading:
                by_host = {host: said for (server, host), said in heard.items() if server == leader}
                yield from _not_silent(at_s, record, by_host)


def _not_silent(at_s: float, record: AuctionRecord, heard: dict[str, deque[float]]) -> Iterator[Violation]:
    total_ms = record.legs_ms["total"]
    for attempt in record.attempts:
        decided_s = at_s - (total_ms - attempt.after_ms) / 1e3
        for host in [refusal.host for refusal in attempt.refusals if refusal.reason is Reason.SILENT]:
            before = [said_s for said_s in heard.get(host, ()) if said_s < at_s - total_ms / 1e3]
            if before and (age_s := decided_s - before[-1]) < FRESH_S:
                yield Violation(
                    0, decided_s, f"auction {record.auction.id} took {host} for silent, {age_s:.2f} s after its word"
                )


def _name(process: str) -> str:
    return process.partition(".")[0]
