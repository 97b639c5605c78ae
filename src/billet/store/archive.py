"""A server's own records in its auction log: values in, encoded bytes on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress

from billet.core.accuracy import Outcome
from billet.core.errors import StoreCorrupt
from billet.core.events import Event
from billet.core.feed import Kind, Record
from billet.core.model import Placement
from billet.core.questions.record import Gone
from billet.leader.recorder import AuctionRecorder
from billet.store.auction_log import AuctionLog
from billet.wire import auction_records
from billet.wire.events import decode_event, encode_event


class LogArchive:
    """leader.archive.Archive of one term, on an AuctionLog."""

    def __init__(self, log: AuctionLog, term: int) -> None:
        self._log = log
        self._term = term

    def add_auction(self, recorder: AuctionRecorder) -> None:
        """See Archive."""
        record = recorder.record
        name = f"{record.auction.namespace}/{record.auction.name}"
        names = [name, record.auction.name, *([record.uid] if record.uid else [])]
        self._log.append(record.auction.id, names, auction_records.encode(record), self._term)

    def add_end(self, placement: Placement, at_s: float) -> None:
        """See Archive."""
        gone = Gone(placement.id, placement.host, placement.demand, at_s)
        self._log.append_gone(auction_records.encode_gone(gone), self._term)

    def add_outcome(self, outcome: Outcome) -> None:
        """See Archive."""
        self._log.append_outcome(outcome.host, auction_records.encode_outcome(outcome), self._term)

    def outcomes(self, host_id: str, limit: int) -> Sequence[Outcome]:
        """See Archive."""
        return auction_records.decode_outcomes(self._log.outcomes(host_id, limit))

    def add_event(self, event: Event) -> None:
        """See Archive."""
        payload = encode_event(event)
        self._log.add(Record(Kind.EVENT, payload, self._term, type=event.type, about=event.auction, at_s=event.at_s))

    async def events(self, types: Collection[str], since_s: float, limit: int) -> Sequence[Event]:
        """See Archive."""
        found = []
        for payload in await asyncio.to_thread(self._log.newest_events, types, since_s, limit):
            with suppress(StoreCorrupt):
                found.append(decode_event(payload))
        return found
