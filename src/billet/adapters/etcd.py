"""The store for several servers: etcd, and so Raft.

Keys, below one prefix: hosts/<id> and placements/<id> are the records; election/<lease> is a candidate, the one with
the lowest create revision leads, and that revision is its term; commit/<lease> counts a leader's transactions, so
that it can recognise one of its own whose answer was lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from billet.adapters.etcd_client import PAUSE_S, STEADY_S, EtcdAway, EtcdClient
from billet.adapters.groupcommit import GroupCommit, Writes
from billet.core.errors import Fenced, OutcomeUnknown, StoreError
from billet.core.state import Change
from billet.ports import Leader, Snapshot, Term
from billet.wire.pb import etcd_rpc_pb2 as pb
from billet.wire.records import decode

log = structlog.get_logger()

PAGE = 5_000  # keys in one answer of a load
CORRUPTING = ((3, 5, 0), (3, 5, 5))  # releases that may lose data silently
OLDEST = (3, 4, 23)

Create = pb.Compare.CREATE
Equal = pb.Compare.EQUAL


@dataclass(slots=True)
class Candidacy:
    """One lease and what hangs on it."""

    lease: int
    key: bytes
    marker: bytes
    alive_until_s: float  # monotonic, counted from before the request: etcd keeps the lease at least as long
    over: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    commits: int = 0


class EtcdStore:
    """ports.Store over etcd."""

    def __init__(
        self,
        endpoints: Sequence[str],
        ca: str = "",
        cert: str = "",
        key: str = "",
        prefix: str = "/billet/",
        lease_ttl_s: int = 3,
    ) -> None:
        """`lease_ttl_s` is how long a leader that vanished is waited for; etcd itself needs about 2."""
        self._client = EtcdClient(endpoints, ca, cert, key)
        self._prefix = prefix.encode()
        self._ttl_s = lease_ttl_s
        self._mine: dict[int, Candidacy] = {}  # by term
        self._group = GroupCommit(self._write)

    # Opening and closing.

    async def open(self) -> None:
        """See ports.Store."""
        status = await self._client.steady("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        version = tuple(int(part) for part in status.version.split("-")[0].split("."))
        if CORRUPTING[0] <= version <= CORRUPTING[1]:
            raise StoreError(f"etcd {status.version} is known to lose data: upgrade it to 3.5.6 or newer")
        if version < OLDEST:
            log.warning("this etcd is older than any that Billet is tested with", version=status.version)

    async def close(self) -> None:
        """See ports.Store."""
        await self._group.close()
        for candidacy in list(self._mine.values()):
            await self._withdraw(candidacy)
        self._mine.clear()
        await self._client.close()

    # Election.

    async def campaign(self, me: Leader) -> Term:
        """See ports.Store. Waits through an etcd that does not answer."""
        while True:
            candidacy = await self._register(me)
            try:
                number = await self._until_first(candidacy)
            except BaseException:
                await asyncio.shield(self._withdraw(candidacy))
                raise
            if number is not None:
                self._mine[number] = candidacy
                return Term(number, me)
            await self._withdraw(candidacy)

    async def _register(self, me: Leader) -> Candidacy:
        """A lease, and a key that lives as long."""
        asked_s = time.monotonic()
        grant = pb.LeaseGrantRequest(TTL=self._ttl_s)
        lease = await self._client.steady("Lease/LeaseGrant", grant, pb.LeaseGrantResponse)
        name = f"{lease.ID:016x}".encode()
        candidacy = Candidacy(
            lease.ID, self._prefix + b"election/" + name, self._prefix + b"commit/" + name, asked_s + self._ttl_s
        )
        put = pb.PutRequest(key=candidacy.key, value=msgspec.json.encode(me), lease=lease.ID)
        # Only if it is not there: a second attempt must not change the create revision that the first one got.
        once = pb.TxnRequest(
            compare=[pb.Compare(key=candidacy.key, target=Create, result=Equal, create_revision=0)],
            success=[pb.RequestOp(request_put=put)],
        )
        await self._client.steady("KV/Txn", once, pb.TxnResponse)
        candidacy.keeper = asyncio.create_task(self._keep(candidacy))
        return candidacy

    async def _until_first(self, candidacy: Candidacy) -> int | None:
        """Wait until nobody stands before us; the create revision of our key, None when it was lost."""
        while not candidacy.over.is_set():
            standing = await self._range(b"election/", sort=pb.RangeRequest.CREATE)
            mine = next((kv.create_revision for kv in standing.kvs if kv.key == candidacy.key), None)
            if mine is None:
                return None
            before = [kv for kv in standing.kvs if kv.create_revision < mine]
            if not before:
                return mine
            waits = [
                asyncio.create_task(self._deleted(before[-1].key, standing.header.revision)),
                asyncio.create_task(candidacy.over.wait()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        return None

    async def _deleted(self, key: bytes, after: int) -> None:
        """Return when a key goes, or at any doubt: the caller looks again."""
        with suppress(StoreError):
            async for response in self._client.watch(key, b"", after):
                if any(event.type == event.DELETE for event in response.events):
                    return

    async def _keep(self, candidacy: Candidacy) -> None:
        """Renew the lease until it is gone, or can no longer be known to be ours."""
        while not candidacy.over.is_set():
            asked_s = time.monotonic()
            if asked_s >= candidacy.alive_until_s:
                log.warning("the lease could not be renewed in time")
                break
            pause_s = PAUSE_S
            with suppress(EtcdAway):
                if not await self._client.keep_alive(candidacy.lease):
                    log.warning("the lease is gone")
                    break
                candidacy.alive_until_s = asked_s + self._ttl_s
                pause_s = self._ttl_s / 3
            left_s = candidacy.alive_until_s - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(pause_s, left_s))):
                    await candidacy.over.wait()
        candidacy.over.set()

    async def resign(self, term: Term) -> None:
        """See ports.Store."""
        candidacy = self._mine.pop(term.number, None)
        if candidacy:
            await self._group.close()
            await self._withdraw(candidacy)

    async def _withdraw(self, candidacy: Candidacy) -> None:
        """Give the lease back, so that nobody has to wait for its end. Without etcd, it ends by itself."""
        candidacy.over.set()
        if candidacy.keeper:
            await asyncio.gather(candidacy.keeper, return_exceptions=True)
        with suppress(StoreError):
            revoke = pb.LeaseRevokeRequest(ID=candidacy.lease)
            await self._client.steady("Lease/LeaseRevoke", revoke, pb.LeaseRevokeResponse, within_s=1.0)

    async def ended(self, term: Term) -> None:
        """See ports.Store."""
        candidacy = self._mine.get(term.number)
        if candidacy:
            await candidacy.over.wait()

    async def leader(self) -> Leader | None:
        """See ports.Store."""
        first = await self._range(b"election/", sort=pb.RangeRequest.CREATE, limit=1)
        return msgspec.json.decode(first.kvs[0].value, type=Leader) if first.kvs else None

    # Reading and writing.

    async def load(self) -> Snapshot:
        """See ports.Store. In pages, all at the revision of the first."""
        changes: list[Change] = []
        start, revision = self._prefix, 0
        while True:
            page = await self._client.steady(
                "KV/Range",
                pb.RangeRequest(key=start, range_end=after_prefix(self._prefix), limit=PAGE, revision=revision),
                pb.RangeResponse,
                timeout_s=STEADY_S,
            )
            revision = revision or page.header.revision
            for kv in page.kvs:
                change = decode(self._name(kv.key), kv.value)
                if change:
                    changes.append(change)
            if not page.more:
                return Snapshot(revision, changes)
            start = page.kvs[-1].key + b"\0"

    async def commit(self, term: Term, changes: Sequence[Change]) -> int:
        """See ports.Store."""
        return await self._group.commit(term.number, changes)

    async def _write(self, term: int, writes: Writes) -> int:
        """One transaction, fenced by the election key.

        When the answer is lost the same transaction is sent again. Its writes are the same whoever carries it out
        first, and no other of ours is on its way, so that twice does no more than once.
        """
        candidacy = self._mine.get(term)
        if candidacy is None:
            raise Fenced(f"term {term} has ended")
        candidacy.commits += 1
        count = str(candidacy.commits).encode()
        request = self._transaction(term, candidacy, writes, count)
        deadline_s, doubt = time.monotonic() + STEADY_S, False
        while True:
            try:
                answer = await self._client.call("KV/Txn", request, pb.TxnResponse)
                break
            except EtcdAway as error:
                doubt = True
                if time.monotonic() > deadline_s or candidacy.over.is_set():
                    raise OutcomeUnknown(f"a commit was sent and its answer is lost: {error.text}") from None
                await asyncio.sleep(PAUSE_S)
        if answer.succeeded:
            return answer.header.revision
        marker = answer.responses[0].response_range.kvs
        if marker and marker[0].value == count:
            return marker[0].mod_revision  # an earlier attempt got through, before the term ended
        if doubt:
            raise OutcomeUnknown(
                f"term {term} has ended, and with it the trace of whether its last commit got through"
            )
        raise Fenced(f"term {term} has ended")

    def _transaction(self, term: int, candidacy: Candidacy, writes: Writes, count: bytes) -> pb.TxnRequest:
        ops = [pb.RequestOp(request_put=pb.PutRequest(key=candidacy.marker, value=count, lease=candidacy.lease))]
        for name, value in writes.items():
            key = self._prefix + name.encode()
            if value is None:
                ops.append(pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key)))
            else:
                ops.append(pb.RequestOp(request_put=pb.PutRequest(key=key, value=value)))
        return pb.TxnRequest(
            compare=[pb.Compare(key=candidacy.key, target=Create, result=Equal, create_revision=term)],
            success=ops,
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=candidacy.marker))],
        )

    async def watch(self, after: int) -> AsyncIterator[tuple[int, list[Change]]]:
        """See ports.Store."""
        async for response in self._client.watch(self._prefix, after_prefix(self._prefix), after):
            grouped: dict[int, list[Change]] = {}
            for event in response.events:
                value = None if event.type == event.DELETE else event.kv.value
                change = decode(self._name(event.kv.key), value)
                if change:
                    grouped.setdefault(event.kv.mod_revision, []).append(change)
            for revision, changes in grouped.items():
                yield revision, changes

    async def _range(
        self, name: bytes, sort: pb.RangeRequest.SortTarget.ValueType, limit: int = 0
    ) -> pb.RangeResponse:
        key = self._prefix + name
        request = pb.RangeRequest(
            key=key, range_end=after_prefix(key), sort_order=pb.RangeRequest.ASCEND, sort_target=sort, limit=limit
        )
        return await self._client.steady("KV/Range", request, pb.RangeResponse)

    def _name(self, key: bytes) -> str:
        return key.removeprefix(self._prefix).decode()


def after_prefix(prefix: bytes) -> bytes:
    """The first key after all that begin so: etcd's way to name a prefix. The last byte is never 255 here."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
