"""What Billet itself says of a run: how many microVMs each host has, and the records of the run's auctions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.endpoint import Endpoint
from benchmarks.plan import REST, Seen
from billet.client import FLEET
from billet.core.errors import BilletError
from billet.core.questions.record import AuctionRecord
from billet.wire.auction_records import decode
from billet.wire.pb.fleet_pb2 import READY, HostsReply, HostsRequest, HostView, RecordsReply, RecordsRequest

WRITTEN_S = 30.0  # a thread of the server writes the records
BACK_S = 60.0
POLL_EVERY_S = 0.1


class Observer:
    """Reads one server's records, each page once."""

    def __init__(self, billet: Endpoint) -> None:
        self._billet = billet
        self._after = 0  # of the first page that is not full yet

    async def seen(self, latencies_ms: Mapping[str, float]) -> Seen:
        """What became of these creates, named by their microVMs. Raises BilletError."""
        records = await self._records(latencies_ms)
        hosts = await self._hosts()
        legs_ms: dict[str, list[float]] = {}
        for name, record in records.items():
            for leg, ms in legs(record, latencies_ms[name]).items():
                legs_ms.setdefault(leg, []).append(ms)
        return Seen(
            vms=[host.taken.vms for host in hosts],
            ages_ms=[ages_ms(record) for record in records.values()],
            legs_ms=legs_ms,
        )

    async def _hosts(self) -> Sequence[HostView]:
        """All hosts, once every one that was silent is back."""
        deadline_s = time.monotonic() + BACK_S
        while True:
            reply = await self._billet.call(f"{FLEET}Hosts", HostsRequest().SerializeToString())
            hosts = HostsReply.FromString(reply).hosts
            away = [host.id for host in hosts if host.state != READY]
            if not away:
                return hosts
            if time.monotonic() > deadline_s:
                raise BilletError(f"{len(away)} hosts do not bid again after {BACK_S:.0f} s, among them {away[0]}")
            await asyncio.sleep(POLL_EVERY_S)

    async def _records(self, names: Iterable[str]) -> dict[str, AuctionRecord]:
        missing = set(names)
        found: dict[str, AuctionRecord] = {}
        deadline_s = time.monotonic() + WRITTEN_S
        while missing:
            request = RecordsRequest(after=self._after)
            page = RecordsReply.FromString(await self._billet.call(f"{FLEET}Records", request.SerializeToString()))
            for record in map(decode, page.record):
                if record.auction.name in missing:
                    missing.discard(record.auction.name)
                    found[record.auction.name] = record
            if page.next:
                self._after = page.next
            elif missing and time.monotonic() > deadline_s:
                raise BilletError(f"{len(missing)} of the run's auctions are not on record after {WRITTEN_S:.0f} s")
            elif missing:
                await asyncio.sleep(POLL_EVERY_S)
        return found


def ages_ms(record: AuctionRecord) -> list[float]:
    """The ages of the bids that the last decision was made on."""
    return [bid.age_s * 1e3 for bid in record.attempts[-1].bids] if record.attempts else []


def legs(record: AuctionRecord, latency_ms: float) -> dict[str, float]:
    """Where the time of one create went."""
    own = {leg: ms for leg, ms in record.legs_ms.items() if leg != "total"}
    return own | {REST: latency_ms - sum(own.values())}
