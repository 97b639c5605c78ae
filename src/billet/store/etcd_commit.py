"""One transaction in etcd, fenced by the leader's term, that takes effect at most once.

An answer can be lost. The transaction is then sent again, while the first copy may still be on its way (in the
socket of a member that hangs, for example) long after the leader has gone on. Every transaction therefore compares
the number of transactions before it, kept in commit/<lease>, and increases it. So it takes effect at most once and
never after a later one, and a leader that finds its own number there knows that its transaction got through.
"""

from __future__ import annotations

import asyncio
import time

from billet.core.errors import (
    NOTHING_WRITTEN,
    CommitOutcomeUnknown,
    StaleTerm,
    StoreError,
    StoreFull,
    StoreUnreachable,
)
from billet.store.etcd_candidacy import Candidacy
from billet.store.etcd_client import PAUSE_S, EtcdClient, put
from billet.store.groupcommit import Writes
from billet.wire.pb import etcd_rpc_pb2 as pb

COMMIT_S = 5.0  # how long a commit is tried before its outcome counts as unknown
MAX_OPS = 128  # etcd's limit for one transaction; our own number takes one

Create = pb.Compare.CREATE
Value = pb.Compare.VALUE
Equal = pb.Compare.EQUAL


class FencedWriter:
    """Writes records below a prefix, for the candidacy that leads."""

    def __init__(self, client: EtcdClient, prefix: bytes) -> None:
        self._client = client
        self._prefix = prefix

    async def write(self, term: int, candidacy: Candidacy | None, writes: Writes) -> int:
        """Write the records in one transaction; returns its revision.

        Raises StaleTerm, CommitOutcomeUnknown, or StoreError when nothing was written.
        """
        if candidacy is None or candidacy.over.is_set():
            raise StaleTerm(f"term {term} has ended")
        if len(writes) >= MAX_OPS:
            raise StoreError(f"{len(writes)} records do not fit into one transaction{NOTHING_WRITTEN}")
        candidacy.commits += 1
        number, doubt, deadline_s = candidacy.commits, False, time.monotonic() + COMMIT_S
        while True:
            request = self._transaction(candidacy, writes)
            try:
                answer = await self._client.call("KV/Txn", request, pb.TxnResponse)
            except StoreError as error:
                if isinstance(error, StoreFull) and (revision := await self._written(term, candidacy, number)):
                    return revision
                if not doubt and not isinstance(error, StoreUnreachable):
                    raise  # refused, and no copy of it can be on its way
                doubt = True
                if time.monotonic() > deadline_s or candidacy.over.is_set():
                    raise CommitOutcomeUnknown(f"no answer to a commit: {error.text}") from None
                await asyncio.sleep(PAUSE_S)
                continue
            revision = _outcome(term, candidacy, number, answer, doubt)
            if revision:
                return revision

    async def _written(self, term: int, candidacy: Candidacy, number: int) -> int:
        """The revision of a transaction that etcd answered with "no space", 0 when it was not carried out.

        etcd also gives this answer to the transaction that crosses the quota, and carries that one out
        (its quotaApplierV3). Raises CommitOutcomeUnknown when the outcome cannot be learnt.
        """
        ask = pb.RangeRequest(key=candidacy.marker)
        try:
            marker = (await self._client.steady("KV/Range", ask, pb.RangeResponse)).kvs
        except StoreError as error:
            raise CommitOutcomeUnknown(f"the outcome of a commit could not be read: {error.text}") from None
        if not marker:
            raise CommitOutcomeUnknown(_ended_without_trace(term))
        if int(marker[0].value) != number:
            return 0
        candidacy.confirmed = number
        return marker[0].mod_revision

    def _transaction(self, candidacy: Candidacy, writes: Writes) -> pb.TxnRequest:
        ops = [put(candidacy.marker, str(candidacy.commits).encode(), candidacy.lease)]
        for name, value in writes.items():
            key = self._prefix + name.encode()
            if value is None:
                ops.append(pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key)))
            else:
                ops.append(put(key, value))
        before = str(candidacy.confirmed).encode()
        return pb.TxnRequest(
            compare=[
                pb.Compare(key=candidacy.key, target=Create, result=Equal, create_revision=candidacy.created),
                pb.Compare(key=candidacy.marker, target=Value, result=Equal, value=before),
            ],
            success=ops,
            failure=[pb.RequestOp(request_range=pb.RangeRequest(key=candidacy.marker))],
        )


def _outcome(term: int, candidacy: Candidacy, number: int, answer: pb.TxnResponse, doubt: bool) -> int:
    """The revision of a transaction that took effect, now or at an earlier attempt; 0 when it must be sent again.

    `doubt`: an earlier attempt had no answer.
    """
    if answer.succeeded:
        candidacy.confirmed = number
        return answer.header.revision
    marker = answer.responses[0].response_range.kvs
    if not marker and doubt:
        raise CommitOutcomeUnknown(_ended_without_trace(term))
    if not marker:
        raise StaleTerm(f"term {term} has ended")
    held = int(marker[0].value)
    if held != number and held == candidacy.confirmed:  # the number was as compared, so the election key was not
        raise StaleTerm(f"term {term} has ended")
    candidacy.confirmed = held  # this one, or the one before it, whose outcome was reported as unknown
    return marker[0].mod_revision if held == number else 0


def _ended_without_trace(term: int) -> str:
    return f"term {term} has ended, and nothing shows whether its last commit took effect"
