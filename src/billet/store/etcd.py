"""The store for several servers: etcd, and so Raft.

Keys, below one prefix: hosts/<id>, placements/<id> and credentials/<name> are the records. election/<lease> is a
candidate; the one with the lowest create revision leads, and that revision is its term, counted from term/base
(etcd_election.py). commit/<lease> numbers a leader's transactions (etcd_commit.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import structlog

from billet.core.access import Credential
from billet.core.errors import StoreError
from billet.core.state import Change
from billet.ports import Leader, Snapshot, Term
from billet.store import etcd_care
from billet.store.engine import Vitals
from billet.store.etcd_candidacy import Candidacies, Candidacy
from billet.store.etcd_client import CALL_S, STEADY_S, EtcdClient
from billet.store.etcd_commit import FencedWriter
from billet.store.etcd_election import Election, after_prefix
from billet.store.etcd_members import Membership
from billet.store.groupcommit import GroupCommit, Writes
from billet.store.records import CREDENTIALS, decode, read_credentials, read_leader
from billet.store_watch import Health
from billet.wire.pb import etcd_rpc_pb2 as pb

log = structlog.get_logger()

PAGE = 5_000  # keys in one answer of a load
HEALTH_S = 1.0  # how long a look at etcd's health repeats a call that is not answered
DECODED = 1_000  # records in one turn of the event loop
PAGE_S = 2.0  # the deadline of one page at one member
CORRUPTING = ((3, 5, 0), (3, 5, 5))  # releases that may lose data silently
OLDEST = (3, 4, 23)  # the oldest release that Billet is tested with
OTHER_KEYS = ("election/", "commit/", "term/")  # below the prefix, and not records


class EtcdStore:
    """ports.Store over etcd. `client` and `prefix` are public for maintenance and tests."""

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
        """`lease_ttl_s`: seconds after which a leader that vanished is replaced; etcd itself needs about 2.

        `call_s`: deadline of one attempt at one endpoint. `user`: "" = etcd has no authentication.
        """
        self.client = EtcdClient(endpoints, ca, cert, key, call_s, user, password)
        self.prefix = prefix.encode()
        self._election = Election(self.client, self.prefix, lease_ttl_s)
        self.candidacies = Candidacies(self.client, self.prefix, self._election, lease_ttl_s)
        self.members = Membership(self.client)
        self.care: asyncio.Task[None] | None = None  # compacts and defragments etcd
        self._learning: asyncio.Task[None] | None = None  # follows changes of etcd's members
        self._elected: dict[int, Candidacy] = {}  # by term
        self._highest = 0  # our highest term so far: etcd may be restored to an earlier state while we run
        self._closing = False
        self._writer = FencedWriter(self.client, self.prefix)
        self.group = GroupCommit(self._write)

    # Opening and closing.

    async def open(self) -> None:
        """See ports.Store."""
        await self.client.steady("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        answers = await self.client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        for version in sorted({answer.version for answer in answers.values() if answer}):
            check_version(version)
        await self.members.look()

    async def close(self) -> None:
        """See ports.Store."""
        self._closing = True
        await self.group.close()
        self._elected.clear()
        for task in (self.care, self._learning):
            if task:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.candidacies.withdraw_all()
        await self.client.close()

    # Election.

    async def campaign(self, me: Leader, above: int = 0) -> Term:
        """See ports.Store. A lease that is lost while waiting is replaced by a new one."""
        if self.care is None and not self._closing:
            care = etcd_care.Care(self.client, self.in_charge, lambda: self.members.count)
            self.care = asyncio.create_task(care.run())
            self._learning = asyncio.create_task(self.members.run())
        while not self._closing:
            candidacy = await self.candidacies.register(me)
            try:
                candidacy.created = await self.candidacies.until_first(candidacy)
                number = await self._election.number(candidacy.key, candidacy.created, max(above, self._highest))
            except BaseException:
                await asyncio.shield(self.candidacies.withdraw(candidacy))
                raise
            if number:
                self._elected[number], self._highest = candidacy, number
                return Term(number, me)
            await self.candidacies.withdraw(candidacy)
        raise StoreError("the connection to etcd was closed")

    async def in_charge(self) -> bool:
        """Whether this server takes care of etcd: it leads, or nobody does, as when etcd is too full for a lease."""
        leads = any(not candidacy.over.is_set() for candidacy in self._elected.values())
        return leads or await self._election.first() is None

    async def resign(self, term: Term) -> None:
        """See ports.Store."""
        candidacy = self._elected.get(term.number)
        if candidacy:
            await self.group.close()
            self._elected.pop(term.number, None)
            await self.candidacies.withdraw(candidacy)

    async def ended(self, term: Term) -> None:
        """See ports.Store."""
        candidacy = self._elected.get(term.number)
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
        changes: list[Change] = []
        for name, value in records.items():
            changes.append(decode(name, value))
            if len(changes) % DECODED == 0:
                await asyncio.sleep(0)  # the lease has to be kept alive
        return Snapshot(revision, changes)

    async def credentials(self) -> list[Credential]:
        """See ports.Store."""
        return read_credentials((await self._below(self.prefix + CREDENTIALS.encode()))[1])

    async def records(self) -> tuple[int, dict[str, bytes]]:
        """See engine.Engine."""
        return await self._below(self.prefix)

    async def _below(self, prefix: bytes) -> tuple[int, dict[str, bytes]]:
        """The records whose keys in etcd begin so. Reads in pages, all at the revision of the first."""
        records: dict[str, bytes] = {}
        start, revision = prefix, 0
        while True:
            page = await self.client.steady(
                "KV/Range",
                pb.RangeRequest(key=start, range_end=after_prefix(prefix), limit=PAGE, revision=revision),
                pb.RangeResponse,
                within_s=2 * STEADY_S,  # enough to try another member after one that hangs
                timeout_s=PAGE_S,
            )
            revision = revision or page.header.revision
            for kv in page.kvs:
                name = self.record_key(kv.key)
                if name:
                    records[name] = kv.value
            if not page.more:
                return revision, records
            start = page.kvs[-1].key + b"\0"

    def record_key(self, key: bytes) -> str:
        """The record's key, from a key in etcd; "" when it is not a record."""
        name = key.removeprefix(self.prefix).decode(errors="replace")
        return "" if name.startswith(OTHER_KEYS) else name

    async def vitals(self) -> Vitals:
        """See engine.Engine."""
        base, revision = await self._election.base(), (await self._election.standing(limit=1)).header.revision
        statuses = await self.client.everyone("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)
        return etcd_care.vitals(statuses.values(), base + revision)

    async def health(self) -> Health:
        """See engine.Engine."""
        active = list(self.client.active)
        statuses = asyncio.gather(*map(self.client.status_of, active))
        why, servers = await self._standing()
        said = await statuses
        members = tuple(
            etcd_care.health(self.client.endpoints[at], status) for at, status in zip(active, said, strict=True)
        )
        errors = {error for status in said if status for error in status.errors}
        return Health(why, members, servers, tuple(f"etcd reports: {error}" for error in sorted(errors)))

    async def _standing(self) -> tuple[str, tuple[Leader, ...]]:
        """Why etcd does not serve, "" if it does; and the servers that stand for election."""
        try:
            found = await self._election.standing(within_s=HEALTH_S)
            return "", tuple(read_leader(kv.value) for kv in found.kvs)
        except StoreError as error:
            return error.text, ()

    async def commit(self, term: Term, changes: Sequence[Change], within_s: float = 0.0) -> int:
        """See ports.Store."""
        return await self.group.commit(term.number, changes, within_s)

    async def write(self, term: Term, writes: Writes) -> int:
        """See engine.Engine."""
        return await self.group.write(term.number, writes)

    async def _write(self, term: int, writes: Writes) -> int:
        return await self._writer.write(term, self._elected.get(term), writes)


def check_version(text: str) -> None:
    """Raise StoreError for an etcd release that loses data; warn about one that Billet is not tested with."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    version = tuple(int(part) for part in found.groups()) if found else (0, 0, 0)
    if CORRUPTING[0] <= version <= CORRUPTING[1]:
        raise StoreError(f"etcd {text} can lose data: upgrade it to 3.5.6 or newer")
    if version < OLDEST:
        log.warning("this etcd release is not tested with Billet", version=text)
