"""How servers copy each other's records (docs/adr/0045): every follower asks the leader for what it lacks, again and
again, and brings what the leader lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import structlog

from billet.api.http import Front
from billet.api.recorded import CopiedRecords, Growth
from billet.closing import closing
from billet.core.errors import BilletError, LeaderLost
from billet.core.feed import Kind, Positions, Record, ahead, newest
from billet.core.metadata import ReplyMetadata
from billet.leader.server import Forward
from billet.ports import Leader
from billet.wire.flintlock import parse
from billet.wire.headers import FORWARDED
from billet.wire.pb import servers_pb2 as pb

log = structlog.get_logger()

EXCHANGE = "/billet.v1.Servers/Exchange"
WAIT_S = 1.0  # for new records; what the other side has meanwhile waits for as long
TIMEOUT_S = 10.0
RETRY_S = 1.0


class RecordExchange:
    """One side of an exchange."""

    def __init__(self, records: CopiedRecords, growth: Growth) -> None:
        self._records = records
        self._growth = growth

    @property
    def positions(self) -> Positions:
        """How far this server has come in each term."""
        return self._records.positions

    async def answer(self, request: bytes) -> bytes:
        """Take what another server brings, and give it what it lacks, as soon as there is something."""
        theirs = parse(pb.Copies, request)
        await self.take(theirs)
        have = dict(theirs.have)
        until_s = asyncio.get_running_loop().time() + min(theirs.wait_s, WAIT_S)
        while True:
            grown = self._growth.next
            if ahead(self._records.written, have) or not await self._growth.wait(grown, until_s):
                break
        return (await self.offer(have)).SerializeToString()

    async def offer(self, have: Positions) -> pb.Copies:
        """What a copy with these positions lacks."""
        records, up_to = await asyncio.to_thread(self._records.since, have)
        return pb.Copies(have=newest(self._records.positions), up_to=up_to, records=map(_put, records))

    async def take(self, brought: pb.Copies) -> None:
        """Keep what another server gives. Returns when it is written, so that it does not give faster than that."""
        if brought.records or brought.up_to:
            self._records.take(_read(brought.records), brought.up_to)
            await asyncio.to_thread(self._records.flush)


class Exchanging:
    """What stands before a server's proxy: it answers other servers' exchanges, whoever leads."""

    def __init__(self, backend: Front, exchange: RecordExchange) -> None:
        self._backend = backend
        self._exchange = exchange
        self.unary = backend.unary

    @property
    def serving(self) -> bool:
        """Whether calls are answered now."""
        return self._backend.serving

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        if method == EXCHANGE and FORWARDED in metadata:
            async for request in requests:
                yield await self._exchange.answer(request)
            return
        async with closing(self._backend.stream(method, requests, timeout_s, metadata, told)) as replies:
            async for reply in replies:
                yield reply


class RecordCopier:
    """Keeps this server's records and those of the leader the same. Each leader has a task and a connection."""

    def __init__(self, exchange: RecordExchange, forward: Callable[[Leader], Forward]) -> None:
        self._exchange = exchange
        self._forward = forward
        self._tasks: set[asyncio.Task[None]] = set()
        self._newest = asyncio.Event()  # set once another server leads

    @property
    def copying(self) -> int:
        """The number of servers from which records are copied, the last leader included."""
        return len(self._tasks)

    def follow(self, leader: Leader | None) -> None:
        """Copy from this leader. None: this server leads. From the one before, only the rest is copied."""
        self._newest.set()
        self._newest = asyncio.Event()
        if leader:
            task = asyncio.create_task(self._copy(leader, self._newest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop copying."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _copy(self, leader: Leader, over: asyncio.Event) -> None:
        forward = self._forward(leader)
        theirs: Positions | None = None  # not known before its first answer
        try:
            while True:
                try:
                    theirs, moved = await self._once(forward, theirs)
                    if over.is_set() and not moved:
                        return
                except BilletError as error:
                    if over.is_set():
                        return
                    log.debug("records not copied; retrying", leader=leader.id, error=error.text)
                    await asyncio.sleep(RETRY_S)
        finally:
            await forward.close()

    async def _once(self, forward: Forward, theirs: Positions | None) -> tuple[Positions, bool]:
        """Exchange once. Returns how far the other server has come, and whether anything was exchanged."""
        request = await self._exchange.offer(theirs) if theirs is not None else pb.Copies()
        request.have.update(newest(self._exchange.positions))
        moved = bool(request.records)
        request.wait_s = 0.0 if moved else WAIT_S
        sent = _once(request.SerializeToString())
        async with closing(forward.stream(EXCHANGE, sent, TIMEOUT_S, {})) as replies:
            reply = parse(pb.Copies, await anext(replies, b""))
        if not reply.have and not reply.up_to:
            raise LeaderLost("the leader keeps no records")
        await self._exchange.take(reply)
        return dict(reply.have), moved or bool(reply.records)


def _put(record: Record) -> pb.Copy:
    return pb.Copy(**record._asdict())


def _read(copies: Sequence[pb.Copy]) -> list[Record]:
    """The records, without those of a kind that only a newer Billet knows."""
    known = {int(kind): kind for kind in Kind}
    return [
        Record(known[c.kind], c.payload, c.term, c.number, tuple(c.names), c.host, c.type, c.about, c.at_s)
        for c in copies
        if c.kind in known
    ]


async def _once(message: bytes) -> AsyncIterator[bytes]:
    yield message
