"""Group commit: one transaction at a time, which takes all commits that are pending when it starts.

There is no timer, but for commits that say that they can wait for others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from billet.core.errors import BilletError, CommitOutcomeUnknown
from billet.core.state import Change
from billet.store.records import encode

CAP = 120  # keys in one transaction; etcd takes 128 operations by default
CAP_BYTES = 1 << 20  # of keys and records; etcd takes 1.5 MiB by default

# Is told of each transaction: how long it took, the commits in it, and why it failed.
Heard = Callable[[float, int, BaseException | None], None]
Writes = dict[str, bytes | None]  # key -> record, None deletes; the last change of a key counts


@dataclass(slots=True)
class Commit:
    """One caller's changes."""

    term: int
    writes: Writes
    done: asyncio.Future[int]
    size: int  # bytes


class GroupCommit:
    """Lets calls to `commit` share transactions. `write(term, writes)` runs one and returns its revision."""

    def __init__(self, write: Callable[[int, Writes], Awaitable[int]]) -> None:
        self._write = write
        self._pending: list[Commit] = []
        self._worker: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None  # all that is pending can wait until then
        self.heard: Heard = lambda took_s, commits, error: None

    async def commit(self, term: int, changes: Sequence[Change], within_s: float = 0.0) -> int:
        """See ports.Store.commit. Cancelling the caller does not undo its commit."""
        return await self.write(term, dict(encode(change) for change in changes), within_s)

    async def write(self, term: int, writes: Writes, within_s: float = 0.0) -> int:
        """As `commit`, with encoded records."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        size = sum(len(key) + len(value or b"") for key, value in writes.items())
        self._pending.append(Commit(term, writes, done, size))
        if not within_s:
            self._begin()
        elif self._worker is None and self._later is None:
            self._later = asyncio.get_running_loop().call_later(within_s, self._begin)
        return await done

    def _begin(self) -> None:
        if self._later:
            self._later.cancel()
            self._later = None
        if self._worker is None and self._pending:
            self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Wait for the running transaction and all pending commits. Cancelling ends the wait, not the work."""
        self._begin()
        if self._worker:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        try:
            while self._pending:
                await self._transaction(self._take())
        finally:
            self._worker = None

    async def _transaction(self, batch: list[Commit]) -> None:
        """Run one transaction; if it fails, exactly its commits fail."""
        writes: Writes = {}
        for commit in batch:
            writes.update(commit.writes)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        error: BaseException
        try:
            revision = await self._write(batch[0].term, writes)
        except BilletError as known:
            error = known
        except BaseException as unexpected:
            error = CommitOutcomeUnknown(f"the commit failed unexpectedly: {unexpected!r}")
        else:
            for commit in batch:
                if not commit.done.done():
                    commit.done.set_result(revision)
            self.heard(loop.time() - begun_s, len(batch), None)
            return
        self.heard(loop.time() - begun_s, len(batch), error)
        for commit in batch:
            if not commit.done.done():
                commit.done.set_exception(error)

    def _take(self) -> list[Commit]:
        """Take whole commits of one term, up to the caps; a larger commit goes alone."""
        first, keys, size, count = self._pending[0], 0, 0, 0
        for commit in self._pending:
            keys, size = keys + len(commit.writes), size + commit.size
            if commit.term != first.term or ((keys > CAP or size > CAP_BYTES) and count):
                break
            count += 1
        batch, self._pending = self._pending[:count], self._pending[count:]
        return batch
