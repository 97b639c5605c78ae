"""This server's candidacies in etcd: each is a lease, a key that hangs on it, and the task that renews it.

A candidacy begins when its lease is granted and leads when its key has the lowest create revision
(etcd_election.py). It is over when the lease is lost, cannot be renewed in time, or was given back.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from billet.core.errors import StoreError
from billet.ports import Leader
from billet.store.etcd_client import PAUSE_S, EtcdClient, put
from billet.store.etcd_election import Election
from billet.wire.pb import etcd_rpc_pb2 as pb

log = structlog.get_logger()

MARGIN = 0.1  # share of the lease's time by which a leader stops before etcd gives its place away
REVOKE_S = 1.0  # how long to try to give a lease back; without an answer it runs out


@dataclass(slots=True, eq=False)
class Candidacy:
    """One lease and the keys that hang on it."""

    lease: int
    key: bytes  # the candidate, below election/
    marker: bytes  # the number of its transactions, below commit/
    alive_until_s: float  # monotonic; counted from before the request, so etcd keeps the lease at least as long
    over: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None  # renews the lease
    created: int = 0  # the key's create revision, once elected
    commits: int = 0  # transactions begun
    confirmed: int = 0  # the last number of transactions that etcd is known to hold


class Candidacies:
    """Registers, renews and withdraws candidacies."""

    def __init__(self, client: EtcdClient, prefix: bytes, election: Election, lease_ttl_s: int) -> None:
        self.standing: set[Candidacy] = set()  # every lease that is ours
        self._client = client
        self._prefix = prefix
        self._election = election
        self._ttl_s = lease_ttl_s

    async def register(self, me: Leader) -> Candidacy:
        """Get a lease, put our key on it and start to renew it. Raises StoreError."""
        asked_s = time.monotonic()
        grant = pb.LeaseGrantRequest(TTL=self._ttl_s)
        lease = await self._client.steady("Lease/LeaseGrant", grant, pb.LeaseGrantResponse)
        name = f"{lease.ID:016x}".encode()
        candidacy = Candidacy(
            lease.ID, self._election.prefix + name, self._prefix + b"commit/" + name, asked_s + self._trusted_s()
        )
        self.standing.add(candidacy)
        puts = {candidacy.key: msgspec.json.encode(me), candidacy.marker: b"0"}
        # Only if the key is absent: a second attempt must not change the create revision that the first one got.
        once = pb.TxnRequest(
            compare=[
                pb.Compare(key=candidacy.key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0)
            ],
            success=[put(key, value, lease.ID) for key, value in puts.items()],
        )
        try:
            await self._client.steady("KV/Txn", once, pb.TxnResponse)
        except BaseException:
            await asyncio.shield(self.withdraw(candidacy))
            raise
        candidacy.keeper = asyncio.create_task(self._keep(candidacy))
        return candidacy

    async def until_first(self, candidacy: Candidacy) -> int:
        """Wait until no other candidate is ahead; returns the create revision of our key, 0 when it was lost."""
        while not candidacy.over.is_set():
            standing = await self._election.standing()
            mine = next((kv.create_revision for kv in standing.kvs if kv.key == candidacy.key), 0)
            if not mine:
                return 0
            ahead = [kv for kv in standing.kvs if kv.create_revision < mine]
            if not ahead:
                return mine
            waits = [
                asyncio.create_task(self._election.deleted(ahead[-1].key, standing.header.revision)),
                asyncio.create_task(candidacy.over.wait()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
        return 0

    async def withdraw(self, candidacy: Candidacy) -> None:
        """Give the lease back, so that the next leader need not wait for its end."""
        candidacy.over.set()
        if candidacy.keeper:
            await asyncio.gather(candidacy.keeper, return_exceptions=True)
        if candidacy not in self.standing:
            return
        self.standing.discard(candidacy)
        with suppress(StoreError):
            revoke = pb.LeaseRevokeRequest(ID=candidacy.lease)
            await self._client.steady("Lease/LeaseRevoke", revoke, pb.LeaseRevokeResponse, within_s=REVOKE_S)

    async def withdraw_all(self) -> None:
        """Give back every lease that is ours."""
        await asyncio.gather(*(self.withdraw(candidacy) for candidacy in list(self.standing)))

    def _trusted_s(self) -> float:
        """Seconds for which we trust a lease, from before the request. etcd counts from after it, and longer."""
        return self._ttl_s * (1 - MARGIN)

    async def _keep(self, candidacy: Candidacy) -> None:
        """Renew the lease until it is lost."""
        try:
            while not candidacy.over.is_set() and await self._renew(candidacy):
                pass
        finally:  # also after an unexpected error: a lease that nobody renews must not be trusted
            candidacy.over.set()

    async def _renew(self, candidacy: Candidacy) -> bool:
        """Try once to renew the lease, then wait until the next attempt is due; False when the lease is lost."""
        asked_s = time.monotonic()
        if asked_s >= candidacy.alive_until_s:
            log.warning("lease lost: not renewed in time", lease=f"{candidacy.lease:x}")
            return False
        pause_s = PAUSE_S
        # A refused or unanswered request is repeated until the lease has run out; no answer is awaited after that.
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(candidacy.alive_until_s - asked_s):
                alive = await self._client.keep_alive(candidacy.lease)
            if not alive:
                log.warning("lease lost: etcd no longer has it", lease=f"{candidacy.lease:x}")
                return False
            candidacy.alive_until_s = asked_s + self._trusted_s()
            pause_s = self._ttl_s / 3
        left_s = candidacy.alive_until_s - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(pause_s, left_s))):
                await candidacy.over.wait()
        return True
