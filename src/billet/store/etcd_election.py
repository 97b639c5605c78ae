"""The election as all servers see it: who leads, when that changes, and how a dead leader is deposed.

A candidate is a key below election/ that hangs on a lease. The one with the lowest create revision leads, and the
number of its term is base + that revision. The base is 0 until etcd is restored to an earlier state or replaced:
its revisions then start below the terms that the hosts have seen, and a leader that knows this raises the base. Only
the leader writes the base, in a transaction that compares its own key, so terms always grow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

from billet.core.errors import StoreError, StoreUnreachable
from billet.ports import Leader
from billet.store.etcd_client import PAUSE_S, STEADY_S, EtcdClient, put
from billet.store.records import read_leader
from billet.wire.pb import etcd_kv_pb2 as kv_pb
from billet.wire.pb import etcd_rpc_pb2 as pb


class Election:
    """The candidates below one prefix."""

    def __init__(self, client: EtcdClient, prefix: bytes, lease_ttl_s: int) -> None:
        self.prefix = prefix + b"election/"
        self._base = prefix + b"term/base"
        self._client = client
        self._ttl_s = lease_ttl_s

    async def standing(self, limit: int = 0, within_s: float = STEADY_S) -> pb.RangeResponse:
        """All candidates, the leader first; `limit` 0 = all."""
        request = pb.RangeRequest(
            key=self.prefix,
            range_end=after_prefix(self.prefix),
            sort_order=pb.RangeRequest.ASCEND,
            sort_target=pb.RangeRequest.CREATE,
            limit=limit,
        )
        return await self._client.steady("KV/Range", request, pb.RangeResponse, within_s=within_s)

    async def first(self) -> kv_pb.KeyValue | None:
        """The leader's key, None when there is no candidate."""
        standing = await self.standing(limit=1)
        return standing.kvs[0] if standing.kvs else None

    async def base(self) -> int:
        """The number from which terms are counted."""
        found = await self._client.steady("KV/Range", pb.RangeRequest(key=self._base), pb.RangeResponse)
        return int(found.kvs[0].value) if found.kvs else 0

    async def number(self, key: bytes, created: int, above: int) -> int:
        """The term number of the candidate that leads, greater than `above`; 0 when it leads no longer."""
        base = await self.base()
        if created and base + created <= above:
            base = above
            raised = pb.TxnRequest(
                compare=[
                    pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=created)
                ],
                success=[put(self._base, str(base).encode())],
            )
            if not (await self._client.steady("KV/Txn", raised, pb.TxnResponse)).succeeded:
                return 0
        return base + created if created else 0

    async def depose(self, leader: Leader) -> None:
        """See ports.Store. A lease belongs to one candidate, so revoking it cannot affect another."""
        first = await self.first()
        if first is None or read_leader(first.value) != leader:
            return
        revoke = pb.LeaseRevokeRequest(ID=first.lease)
        try:
            await self._client.steady("Lease/LeaseRevoke", revoke, pb.LeaseRevokeResponse)
        except StoreUnreachable:
            raise
        except StoreError:  # refused: another server has revoked it already
            return

    async def leaders(self) -> AsyncIterator[Leader | None]:
        """See ports.Store."""
        known_s = time.monotonic()
        told: list[bytes] = []  # the record of the last answer, once there is one; b"" = nobody leads
        while True:
            try:
                standing = await self.standing(limit=1, within_s=self._ttl_s / 3)
                record = standing.kvs[0].value if standing.kvs else b""
                known_s, revision = time.monotonic(), standing.header.revision
            except StoreError:
                self._client.check_open()
                await asyncio.sleep(PAUSE_S)
                if time.monotonic() - known_s < self._ttl_s:
                    continue
                record, revision = b"", 0
            if [record] != told:
                told = [record]
                yield read_leader(record) if record else None
            if revision:
                await self._changed(revision)

    async def _changed(self, after: int) -> None:
        """Return when a candidate comes or goes, on any error, or after a third of a lease."""
        with suppress(TimeoutError, StoreError):
            async with (
                asyncio.timeout(self._ttl_s / 3),
                aclosing(self._client.watch(self.prefix, after_prefix(self.prefix), after)) as events,
            ):
                async for _ in events:
                    return

    async def deleted(self, key: bytes, after: int) -> None:
        """Return when this key is deleted, or on any error; the caller then looks again."""
        with suppress(StoreError):
            async for response in self._client.watch(key, b"", after):
                if any(event.type == event.DELETE for event in response.events):
                    return


def after_prefix(prefix: bytes) -> bytes:
    """The end of etcd's range for all keys with this prefix. Our prefixes never end in byte 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
