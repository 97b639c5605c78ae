"""The store for several servers: etcd, and so Raft.

Keys, below one prefix: hosts/<id> and placements/<id> are the records; election/<lease> is a candidate, the one with
the lowest create revision leads, and that revision is its term, counted from term/base (etcd_election.py);
commit/<lease> counts a leader's transactions.

Why the count: an answer can be lost, so a transaction is sent again, and the first copy may still be on its way (in
the socket of a member that stands still, say) when the leader has long gone on. Every transaction therefore
demands the count of its predecessor and leaves its own. It takes effect once at most, never after a later one,
and whoever finds its own count there knows that it had got through.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import structlog

from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError, StoreFull, StoreUnreachable
from billet.core.state import Change
from billet.ports import Leader, Snapshot, Term, Vitals
from billet.store import etcd_care
from billet.store.etcd_client import CALL_S, PAUSE_S, STEADY_S, EtcdClient
from billet.store.etcd_election import Election, after_prefix
from billet.store.groupcommit import GroupCommit, Writes
from billet.store.records import decode, read_leader
from billet.wire.pb import etcd_rpc_pb2 as pb

log = structlog.get_logger()

PAGE = 5_000  # keys in one answer of a load
PAGE_S = 2.0  # and how long one member may take for it
CORRUPTING = ((3, 5, 0), (3, 5, 5))  # releases that may lose data silently
OLDEST = (3, 4, 23)
COMMIT_S = 5.0  # how long a commit is tried before its outcome is called unknown
MARGIN = 0.1  # of the lease's time, by which a leader gives up before etcd gives its place away
NO_RECORDS = ("election/", "commit/", "term/")  # what else stands below our prefix
MAX_OPS = 128  # etcd's own limit for one transaction, of which the count takes one

Create = pb.Compare.CREATE
Value = pb.Compare.VALUE
Equal = pb.Compare.EQUAL


@dataclass(slots=True, eq=False)
class Candidacy:
    """One lease and what hangs on it."""

    lease: int
    key: bytes
    marker: bytes
    alive_until_s: float  # monotonic, counted from before the request: etcd keeps the lease at least as long
    over: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None
    created: int = 0  # the key's create revision, once elected
    commits: int = 0  # transactions begun
    confirmed: int = 0  # the count that etcd was last known to hold


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
        call_s: float = CALL_S,
        user: str = "",
        password: str = "",
    ) -> None:
        """`lease_ttl_s` is how long a leader that vanished is waited for; etcd itself needs about 2.

        `call_s` is the deadline of one attempt at one endpoint. Without `user`, etcd must ask for none.
        """
        self._client = EtcdClient(endpoints, ca, cert, key, call_s, user, password)
        self._prefix = prefix.encode()
        self._ttl_s = lease_ttl_s
        self._election = Election(self._client, self._prefix, lease_ttl_s)
        self._standing: set[Candidacy] = set()  # every lease that is ours
        self._mine: dict[int, Candidacy] = {}  # those that were elected, by term
        self._highest = 0  # of the terms that were ours: etcd may be restored under a server that goes on
        self._care: asyncio.Task[None] | None = None
        self._closing = False
        self._group = GroupCommit(self._write)

    # Opening and closing.

    async def open(self) -> None:
        """See ports.Store."""
        await self._client.steady("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        answers = await self._client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        for version in sorted({answer.version for answer in answers if answer}):
            check_version(version)

    async def close(self) -> None:
        """See ports.Store."""
        self._closing = True
        await self._group.close()
        self._mine.clear()
        if self._care:
            self._care.cancel()
            await asyncio.gather(self._care, return_exceptions=True)
        await asyncio.gather(*(self._withdraw(candidacy) for candidacy in list(self._standing)))
        await self._client.close()

    # Election.

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        """See ports.Store. A lease that was lost while waiting is replaced by a new one."""
        if self._care is None and not self._closing:
            self._care = asyncio.create_task(etcd_care.Care(self._client, self._in_charge).run())
        while not self._closing:
            candidacy = await self._register(me)
            try:
                candidacy.created = await self._until_first(candidacy)
                number = await self._election.number(candidacy.key, candidacy.created, max(above, self._highest))
            except BaseException:
                await asyncio.shield(self._withdraw(candidacy))
                raise
            if number:
                self._mine[number], self._highest = candidacy, number
                return Term(number, me)
            await self._withdraw(candidacy)
        raise StoreError("the connection to etcd was closed")

    async def _register(self, me: Leader) -> Candidacy:
        """A lease, and a key that lives as long."""
        asked_s = time.monotonic()
        grant = pb.LeaseGrantRequest(TTL=self._ttl_s)
        lease = await self._client.steady("Lease/LeaseGrant", grant, pb.LeaseGrantResponse)
        name = f"{lease.ID:016x}".encode()
        candidacy = Candidacy(
            lease.ID, self._election.prefix + name, self._prefix + b"commit/" + name, asked_s + self._term_left_s()
        )
        self._standing.add(candidacy)
        puts = {candidacy.key: msgspec.json.encode(me), candidacy.marker: b"0"}
        # Only if it is not there: a second attempt must not change the create revision that the first one got.
        once = pb.TxnRequest(
            compare=[pb.Compare(key=candidacy.key, target=Create, result=Equal, create_revision=0)],
            success=[_put(key, value, lease.ID) for key, value in puts.items()],
        )
        try:
            await self._client.steady("KV/Txn", once, pb.TxnResponse)
        except BaseException:
            await asyncio.shield(self._withdraw(candidacy))
            raise
        candidacy.keeper = asyncio.create_task(self._keep(candidacy))
        return candidacy

    async def _in_charge(self) -> bool:
        """Whether it is for us to look after etcd. Where it is too full for a lease, nobody leads."""
        leads = any(not candidacy.over.is_set() for candidacy in self._mine.values())
        return leads or await self._election.first() is None

    def _term_left_s(self) -> float:
        """How long we count on a lease, from before it was asked for: less than etcd does, from after."""
        return self._ttl_s * (1 - MARGIN)

    async def _until_first(self, candidacy: Candidacy) -> int:
        """Wait until nobody stands before us; the create revision of our key, 0 when it was lost."""
        while not candidacy.over.is_set():
            standing = await self._election.standing()
            mine = next((kv.create_revision for kv in standing.kvs if kv.key == candidacy.key), 0)
            if not mine:
                return 0
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
        return 0

    async def _deleted(self, key: bytes, after: int) -> None:
        """Return when a key goes, or at any doubt: the caller looks again."""
        with suppress(StoreError):
            async for response in self._client.watch(key, b"", after):
                if any(event.type == event.DELETE for event in response.events):
                    return

    async def _keep(self, candidacy: Candidacy) -> None:
        """Renew the lease until it is gone, or can no longer be known to be ours."""
        try:
            while not candidacy.over.is_set() and await self._kept(candidacy):
                pass
        finally:  # whatever else may go wrong: nobody believes in a lease that is not looked after
            candidacy.over.set()

    async def _kept(self, candidacy: Candidacy) -> bool:
        """Try once to renew, and wait until it is time for the next; False when the lease is lost."""
        asked_s = time.monotonic()
        if asked_s >= candidacy.alive_until_s:
            log.warning("the lease could not be renewed in time")
            return False
        pause_s = PAUSE_S
        # Refused or unanswered, it is not renewed, and time decides; no answer is waited for beyond that time.
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(candidacy.alive_until_s - asked_s):
                alive = await self._client.keep_alive(candidacy.lease)
            if not alive:
                log.warning("the lease is gone")
                return False
            candidacy.alive_until_s = asked_s + self._term_left_s()
            pause_s = self._ttl_s / 3
        left_s = candidacy.alive_until_s - time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(pause_s, left_s))):
                await candidacy.over.wait()
        return True

    async def resign(self, term: Term) -> None:
        """See ports.Store."""
        candidacy = self._mine.get(term.number)
        if candidacy:
            await self._group.close()
            self._mine.pop(term.number, None)
            await self._withdraw(candidacy)

    async def _withdraw(self, candidacy: Candidacy) -> None:
        """Give the lease back, so that nobody has to wait for its end. Without etcd, it ends by itself."""
        candidacy.over.set()
        if candidacy.keeper:
            await asyncio.gather(candidacy.keeper, return_exceptions=True)
        if candidacy not in self._standing:
            return
        self._standing.discard(candidacy)
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
        first = await self._election.first()
        return read_leader(first.value) if first else None

    def leaders(self) -> AsyncIterator[Leader | None]:
        """See ports.Store."""
        return self._election.leaders()

    async def depose(self, leader: Leader) -> None:
        """See ports.Store."""
        await self._election.depose(leader)

    async def contested(self, term: Term) -> bool:
        """See ports.Store."""
        return len((await self._election.standing(limit=2)).kvs) > 1

    # Reading and writing.

    async def load(self) -> Snapshot:
        """See ports.Store."""
        revision, records = await self.records()
        return Snapshot(revision, [decode(name, value) for name, value in records.items()])

    async def records(self) -> tuple[int, dict[str, bytes]]:
        """See ports.Engine. In pages, all at the revision of the first."""
        records: dict[str, bytes] = {}
        start, revision = self._prefix, 0
        while True:
            page = await self._client.steady(
                "KV/Range",
                pb.RangeRequest(key=start, range_end=after_prefix(self._prefix), limit=PAGE, revision=revision),
                pb.RangeResponse,
                within_s=2 * STEADY_S,  # one member that stands still is not waited for alone
                timeout_s=PAGE_S,
            )
            revision = revision or page.header.revision
            for kv in page.kvs:
                name = self._name(kv.key)
                if name:
                    records[name] = kv.value
            if not page.more:
                return revision, records
            start = page.kvs[-1].key + b"\0"

    async def vitals(self) -> Vitals:
        """See ports.Engine."""
        base, revision = await self._election.base(), (await self._election.standing(limit=1)).header.revision
        statuses = await self._client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        return etcd_care.vitals(statuses, base + revision)

    async def commit(self, term: Term, changes: Sequence[Change]) -> int:
        """See ports.Store."""
        return await self._group.commit(term.number, changes)

    async def write(self, term: Term, writes: Writes) -> int:
        """See ports.Engine."""
        return await self._group.write(term.number, writes)

    async def _write(self, term: int, writes: Writes) -> int:
        """One transaction, fenced by the election key and the count of our transactions."""
        candidacy = self._mine.get(term)
        if candidacy is None or candidacy.over.is_set():
            raise StaleTerm(f"term {term} has ended")
        if len(writes) >= MAX_OPS:
            raise StoreError(f"{len(writes)} records do not fit into one transaction; nothing was written")
        candidacy.commits += 1
        count, doubt, deadline_s = candidacy.commits, False, time.monotonic() + COMMIT_S
        while True:
            request = self._transaction(candidacy, writes)
            try:
                answer = await self._client.call("KV/Txn", request, pb.TxnResponse)
            except StoreError as error:
                if isinstance(error, StoreFull) and (revision := await self._written(term, candidacy, count)):
                    return revision
                if not doubt and not isinstance(error, StoreUnreachable):
                    raise  # refused, and nothing of it can be on its way
                doubt = True
                if time.monotonic() > deadline_s or candidacy.over.is_set():
                    raise CommitOutcomeUnknown(f"a commit was sent and its answer is lost: {error.text}") from None
                await asyncio.sleep(PAUSE_S)
                continue
            revision = _learn(term, candidacy, count, answer, doubt)
            if revision:
                return revision

    async def _written(self, term: int, candidacy: Candidacy, count: int) -> int:
        """The revision of a transaction that etcd has no space for, 0 where it was refused.

        etcd says the same to the one with which it crosses its quota, and carries that one out (its quotaApplierV3).
        Raises CommitOutcomeUnknown where that cannot be learnt.
        """
        ask = pb.RangeRequest(key=candidacy.marker)
        try:
            marker = (await self._client.steady("KV/Range", ask, pb.RangeResponse)).kvs
        except StoreError as error:
            raise CommitOutcomeUnknown(f"a commit was sent and what became of it is lost: {error.text}") from None
        if not marker:
            raise CommitOutcomeUnknown(_trace_lost(term))
        if int(marker[0].value) != count:
            return 0
        candidacy.confirmed = count
        return marker[0].mod_revision

    def _transaction(self, candidacy: Candidacy, writes: Writes) -> pb.TxnRequest:
        ops = [_put(candidacy.marker, str(candidacy.commits).encode(), candidacy.lease)]
        for name, value in writes.items():
            key = self._prefix + name.encode()
            if value is None:
                ops.append(pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key)))
            else:
                ops.append(_put(key, value))
        before = str(candidacy.confirmed).encode()
        return pb.TxnRequest(
            compare=[
                pb.Compare(key=candidacy.key, target=Create, result=Equal, create_revision=candidacy.created),
                pb.Compare(key=candidacy.marker, target=Value, result=Equal, value=before),
            ],
            success=ops,
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=candidacy.marker))],
        )

    def _name(self, key: bytes) -> str:
        """The record's key without our prefix, "" when it is none of a record."""
        name = key.removeprefix(self._prefix).decode(errors="replace")
        return "" if name.startswith(NO_RECORDS) else name


def check_version(text: str) -> None:
    """Refuse an etcd that loses data; warn of one that nobody tests with."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
    if CORRUPTING[0] <= version <= CORRUPTING[1]:
        raise StoreError(f"etcd {text} is known to lose data: upgrade it to 3.5.6 or newer")
    if version < OLDEST:
        log.warning("this etcd is older than any that Billet is tested with", version=text)


def _learn(term: int, candidacy: Candidacy, count: int, answer: pb.TxnResponse, doubt: bool) -> int:
    """The revision of a transaction that got through, now or at an earlier attempt; 0 when it is to be sent anew."""
    if answer.succeeded:
        candidacy.confirmed = count
        return answer.header.revision
    marker = answer.responses[0].response_range.kvs
    if not marker and doubt:
        raise CommitOutcomeUnknown(_trace_lost(term))
    if not marker:
        raise StaleTerm(f"term {term} has ended")
    held = int(marker[0].value)
    if held != count and held == candidacy.confirmed:  # the count was as demanded, so the election key was not
        raise StaleTerm(f"term {term} has ended")
    candidacy.confirmed = held  # ours, or the one before, whose caller had to be told that its outcome was unknown
    return marker[0].mod_revision if held == count else 0


def _trace_lost(term: int) -> str:
    return f"term {term} has ended, and with it the trace of whether its last commit got through"


def _put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
