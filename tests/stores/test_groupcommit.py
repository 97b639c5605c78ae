"""Group commit alone: who shares a transaction, and who shares its fate."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from billet.core.errors import CommitOutcomeUnknown, StaleTerm, StoreError
from billet.core.state import Change, PutPlacement
from billet.store.groupcommit import CAP, CAP_BYTES, GroupCommit, Writes
from tests.stores.backends import placement

TERM = 7


class Engine:
    """Writes nothing; the test says when a transaction ends, and how."""

    def __init__(self) -> None:
        self.transactions: list[tuple[int, Writes]] = []
        self.fates: dict[int, BaseException] = {}
        self.gate = asyncio.Event()
        self.group = GroupCommit(self._write)

    async def _write(self, term: int, writes: Writes) -> int:
        self.transactions.append((term, writes))
        number = len(self.transactions)
        await self.gate.wait()
        if number in self.fates:
            raise self.fates[number]
        return number

    async def begin(self, changes: Sequence[Change], term: int = TERM) -> "asyncio.Task[int]":
        """A caller that has got as far as to wait."""
        caller = asyncio.create_task(self.group.commit(term, changes))
        for _ in range(3):
            await asyncio.sleep(0)
        return caller

    @property
    def sizes(self) -> list[int]:
        return [len(writes) for _, writes in self.transactions]


def puts(*numbers: int) -> list[Change]:
    return [PutPlacement(placement(n)) for n in numbers]


async def test_what_comes_while_one_is_in_flight_goes_together_into_the_next() -> None:
    engine = Engine()
    callers = [await engine.begin(puts(n)) for n in range(20)]
    assert engine.sizes == [1]
    engine.gate.set()
    assert await asyncio.gather(*callers) == [1] + [2] * 19
    assert engine.sizes == [1, 19]


async def test_a_commit_that_can_wait_is_written_with_the_next_one_or_when_its_time_is_over_or_at_the_end() -> None:
    """Broken on purpose (it starts a transaction): two; (`close` does not start one): it waits for ever; (nothing
    does): the same."""
    engine = Engine()
    engine.gate.set()
    async with asyncio.timeout(60.0):
        waiting = asyncio.create_task(engine.group.commit(TERM, puts(1), within_s=3600.0))
        await asyncio.sleep(0)
        assert await asyncio.gather(waiting, engine.group.commit(TERM, puts(2))) == [1, 1]
        assert await engine.group.commit(TERM, puts(3), within_s=0.001) == 2
        last = asyncio.create_task(engine.group.commit(TERM, puts(4), within_s=3600.0))
        await asyncio.sleep(0)
        await engine.group.close()
        assert await last == 3
    assert engine.sizes == [2, 1, 1]


async def test_a_failure_fails_exactly_the_commits_of_its_transaction() -> None:
    engine = Engine()
    engine.fates[2] = StoreError("the disk is full")
    first = await engine.begin(puts(0))
    failing = [await engine.begin(puts(*range(n, n + CAP // 2))) for n in (1000, 2000)]
    last = await engine.begin(puts(3))
    engine.gate.set()
    outcomes = await asyncio.gather(first, *failing, last, return_exceptions=True)
    assert outcomes == [1, engine.fates[2], engine.fates[2], 3]


async def test_a_commit_is_never_divided() -> None:
    engine = Engine()
    callers = [
        await engine.begin(puts(*range(n * 1000, n * 1000 + size))) for n, size in enumerate((1, 70, 70, 500, 2))
    ]
    engine.gate.set()
    assert await asyncio.gather(*callers) == [1, 2, 3, 4, 5]
    assert engine.sizes == [1, 70, 70, 500, 2]


async def test_commits_of_two_terms_do_not_share_a_transaction() -> None:
    engine = Engine()
    engine.fates[2] = StaleTerm("term 7 has ended")
    callers = [await engine.begin(puts(n), term) for n, term in enumerate((TERM, TERM, TERM + 1))]
    engine.gate.set()
    assert await asyncio.gather(*callers, return_exceptions=True) == [1, engine.fates[2], 3]
    assert [term for term, _ in engine.transactions] == [TERM, TERM, TERM + 1]


async def test_a_caller_that_is_cancelled_does_not_call_its_commit_back() -> None:
    engine = Engine()
    first, second, third = [await engine.begin(puts(n)) for n in range(3)]
    first.cancel()
    second.cancel()
    engine.gate.set()
    assert await third == 2
    assert engine.sizes == [1, 2]


async def test_an_error_that_nobody_thought_of_leaves_the_outcome_unknown() -> None:
    engine = Engine()
    engine.fates[1] = ZeroDivisionError()
    caller = await engine.begin(puts(0))
    engine.gate.set()
    with pytest.raises(CommitOutcomeUnknown):
        await caller
    assert await engine.group.commit(TERM, puts(1)) == 2


async def test_closing_waits_for_what_is_pending() -> None:
    engine = Engine()
    callers = [await engine.begin(puts(n)) for n in range(3)]
    closing = asyncio.create_task(engine.group.close())
    engine.gate.set()
    await closing
    assert engine.sizes == [1, 2]
    assert await asyncio.gather(*callers) == [1, 2, 2]


async def test_a_transaction_is_bounded_by_bytes_too() -> None:
    """etcd takes 1.5 MiB. Broken on purpose (only keys count): microVMs with many labels make all that share fail."""
    engine = Engine()
    large = {"label": "x" * (CAP_BYTES // 3)}
    callers = [await engine.begin([PutPlacement(replace(placement(n), labels=large))]) for n in range(6)]
    engine.gate.set()
    await asyncio.gather(*callers)
    assert engine.sizes == [1, 2, 2, 1]
