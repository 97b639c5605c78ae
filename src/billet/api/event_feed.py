"""Fleet/Events: what happened in the fleet, from the records of this server; waits for more if asked to.

A caller sends back where the last reply ended, as positions in the feed (core/feed.py). So any server can go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from billet.api.recorded import Growth, RecordedAuctions
from billet.core import feed
from billet.core.errors import InvalidRequest, StoreCorrupt
from billet.core.events import EventType, Wanted, unknown_types
from billet.ports import Answer
from billet.wire.events import decode_event, shown_event
from billet.wire.flintlock import parse
from billet.wire.pb import fleet_pb2 as pb

PAGE = 1_000
MAX_PAGE = 5_000
MAX_WAIT_S = 10.0
TERMS = 32  # that a position names


class EventFeed:
    """The method."""

    def __init__(self, records: RecordedAuctions, growth: Growth, server: str) -> None:
        self._records = records
        self._growth = growth
        self._server = server

    async def events(self, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See fleet.proto. Raises InvalidRequest."""
        wanted = parse(pb.EventsRequest, request)
        have = _position(wanted.after)
        if unknown := unknown_types(wanted.types):
            raise InvalidRequest(f"no event is named {unknown[0]!r}; the names are {', '.join(EventType)}")
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(wanted.wait_s, MAX_WAIT_S, timeout_s)
        while True:
            grown = self._growth.next
            found, have, more = await asyncio.to_thread(self._read, wanted, have)
            if found or more or not await self._growth.wait(grown, until_s):
                break
        reply = pb.EventsReply(
            event_json=found, next=feed.written(feed.newest(have, TERMS)), more=more, server=self._server
        )
        return Answer(reply.SerializeToString())

    def _read(self, wanted: pb.EventsRequest, have: feed.Positions) -> tuple[list[bytes], dict[int, int], bool]:
        """The events of the next page that are wanted, how far it goes, and whether there are more pages."""
        only = Wanted(frozenset(wanted.types), wanted.host, wanted.microvm)
        limit = min(wanted.limit or PAGE, MAX_PAGE) if wanted.limit >= 0 else PAGE
        rows, up_to, more = self._records.events(have, wanted.since_s, limit, TERMS)
        found = []
        for term, number, payload in rows:
            with suppress(StoreCorrupt):  # what nobody can read
                event = decode_event(payload)
                if only.matches(event):
                    found.append(shown_event(event, term, number))
        return found, feed.raised(have, up_to), more


def _position(text: str) -> dict[int, int]:
    try:
        return feed.read(text)
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is not a position in the feed: send back `next` of the previous reply"
        ) from None
