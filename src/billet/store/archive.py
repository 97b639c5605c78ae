"""A server's own records in its auction log: values in, encoded bytes on disk."""

from __future__ import annotations

from collections.abc import Sequence

from billet.core.accuracy import Outcome
from billet.core.model import Placement
from billet.core.questions.record import Gone
from billet.leader.recorder import AuctionRecorder
from billet.store.auction_log import AuctionLog
from billet.wire import auction_records


class LogArchive:
    """leader.leadership.Archive on an AuctionLog."""

    def __init__(self, log: AuctionLog) -> None:
        self._log = log

    def add_auction(self, recorder: AuctionRecorder) -> None:
        """See Archive."""
        record = recorder.record
        name = f"{record.auction.namespace}/{record.auction.name}"
        names = [name, record.auction.name, *([record.uid] if record.uid else [])]
        self._log.append(record.auction.id, names, auction_records.encode(record))

    def add_end(self, placement: Placement, at_s: float) -> None:
        """See Archive."""
        gone = Gone(placement.id, placement.host, placement.demand, at_s)
        self._log.append_gone(auction_records.encode_gone(gone))

    def add_outcome(self, outcome: Outcome) -> None:
        """See Archive."""
        self._log.append_outcome(outcome.host, auction_records.encode_outcome(outcome))

    def outcomes(self, host_id: str, limit: int) -> Sequence[Outcome]:
        """See Archive."""
        return auction_records.decode_outcomes(self._log.outcomes(host_id, limit))
