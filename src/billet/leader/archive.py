"""What a term writes down, and what the next one reads of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from billet.core.accuracy import Outcome
from billet.core.events import Event
from billet.core.model import Placement
from billet.leader.recorder import AuctionRecorder


class Archive(Protocol):
    """A server's records, which outlive its terms: auctions, ends of microVMs, outcomes of predictions, events."""

    def add_auction(self, recorder: AuctionRecorder) -> None:
        """An auction has ended."""

    def add_end(self, placement: Placement, at_s: float) -> None:
        """A placement has given its room back. `at_s` is wall-clock time."""

    def add_outcome(self, outcome: Outcome) -> None:
        """A prediction was compared with what happened."""

    def outcomes(self, host_id: str, limit: int) -> Sequence[Outcome]:
        """The newest outcomes of a host, oldest first."""

    def add_event(self, event: Event) -> None:
        """Something has happened."""

    async def events(self, types: Collection[str], since_s: float, limit: int) -> Sequence[Event]:
        """The newest events of these types since a time (wall clock), oldest first."""


class NoArchive:
    """An Archive that keeps nothing."""

    def add_auction(self, recorder: AuctionRecorder) -> None:
        """See Archive."""

    def add_end(self, placement: Placement, at_s: float) -> None:
        """See Archive."""

    def add_outcome(self, outcome: Outcome) -> None:
        """See Archive."""

    def outcomes(self, host_id: str, limit: int) -> Sequence[Outcome]:
        """See Archive."""
        return ()

    def add_event(self, event: Event) -> None:
        """See Archive."""

    async def events(self, types: Collection[str], since_s: float, limit: int) -> Sequence[Event]:
        """See Archive."""
        return ()
