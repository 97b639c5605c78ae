"""Credentials are created and revoked by the leader, and never so that nobody could change them any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from billet.core.access import SHARED, Credential, Role
from billet.core.errors import InvalidRequest, PreconditionFailed, StaleTerm, TooManyDeletes
from billet.core.state import load
from billet.leader.credentials import Credentials
from billet.leader.delete_guard import WINDOW_S, DeleteGuard
from billet.leader.ledger import Ledger
from billet.ports import Leader
from billet.store.sqlite import SqliteStore

OPS = Credential("ops", Role.OPERATOR, ("*",), token_sha256="ab" * 32)
CI = Credential("ci", Role.USER, ("ci-*",), token_sha256="cd" * 32)


class HandClock:
    """Moved by hand."""

    at_s = 1_000.0

    def now_s(self) -> float:
        return self.at_s

    monotonic_s = now_s


class InTerm:
    """One term, and what others hear of its changes."""

    def __init__(self, store: SqliteStore, ledger: Ledger) -> None:
        self.store, self.ledger, self.clock = store, ledger, HandClock()
        self.told: list[list[str]] = []
        self.credentials = Credentials(ledger, self.clock, self._tell)

    def _tell(self, credentials: Iterable[Credential]) -> None:
        self.told.append([credential.name for credential in credentials])


@pytest.fixture
async def term(tmp_path: Path) -> AsyncIterator[InTerm]:
    store = SqliteStore(tmp_path / "billet.db")
    await store.open()
    number = await store.campaign(Leader("a", "", ""))
    yield InTerm(store, Ledger(load((await store.load()).changes), store, number))
    await store.close()


async def test_what_is_created_is_in_the_store_with_who_made_it_and_until_when(term: InTerm) -> None:
    await term.credentials.create(OPS, 0.0, by="")
    made = await term.credentials.create(CI, 60.0, by="ops")
    assert made == replace(CI, created_at_s=1_000.0, created_by="ops", expires_at_s=1_060.0)
    assert await term.store.credentials() == [made, replace(OPS, created_at_s=1_000.0)]
    assert term.told == [["ops"], ["ci", "ops"]]
    await term.credentials.revoke("ci", by="ops")
    assert [one.name for one in await term.store.credentials()] == ["ops"]
    assert term.told[-1] == ["ops"]


async def test_a_request_that_is_sent_again_to_the_next_leader_changes_nothing(term: InTerm) -> None:
    """Broken on purpose (a name that is taken is always refused): the operator never sees the token."""
    first = await term.credentials.create(OPS, 60.0, by="")
    term.clock.at_s += 5.0
    assert await term.credentials.create(OPS, 60.0, by="") == first
    with pytest.raises(PreconditionFailed, match="already"):
        await term.credentials.create(replace(OPS, token_sha256="ef" * 32), 0.0, by="ops")


async def test_two_at_once_do_not_share_a_name(term: InTerm) -> None:
    """Broken on purpose (no lock between the look and the commit): both succeed, and one token works nowhere."""
    await term.credentials.create(OPS, 0.0, by="")
    other = replace(CI, token_sha256="ef" * 32)
    results = await asyncio.gather(
        *(term.credentials.create(wanted, 0.0, by="ops") for wanted in (CI, other)), return_exceptions=True
    )
    assert [type(result) for result in results] == [Credential, PreconditionFailed]


async def test_the_first_must_be_an_operator_unless_there_is_the_shared_token(term: InTerm) -> None:
    with pytest.raises(PreconditionFailed, match="--role operator"):
        await term.credentials.create(CI, 0.0, by="")
    await term.credentials.create(CI, 0.0, by=SHARED.name)


async def test_the_last_operator_stays_unless_there_is_the_shared_token(term: InTerm) -> None:
    """Broken on purpose (only the last credential stays): ci is left alone, and nobody can create an operator."""
    await term.credentials.create(OPS, 0.0, by="")
    await term.credentials.create(CI, 0.0, by="ops")
    with pytest.raises(PreconditionFailed, match="no operator would be left"):
        await term.credentials.revoke("ops", by="ops")
    soon = replace(OPS, name="ops-2", token_sha256="ef" * 32)
    await term.credentials.create(soon, 60.0, by="ops")
    term.clock.at_s += 61.0
    with pytest.raises(PreconditionFailed, match="no operator would be left"):
        await term.credentials.revoke("ops", by="ops")
    await term.credentials.revoke("ops", by=SHARED.name)


async def test_what_is_not_there_cannot_be_revoked_and_nonsense_not_be_created(term: InTerm) -> None:
    with pytest.raises(InvalidRequest, match="billet token list"):
        await term.credentials.revoke("ops", by="ops")
    with pytest.raises(InvalidRequest, match="give --namespace"):
        await term.credentials.create(replace(CI, namespaces=()), 0.0, by="ops")


async def test_a_leader_of_an_ended_term_changes_nothing(term: InTerm) -> None:
    term.ledger.end("another server leads")
    with pytest.raises(StaleTerm):
        await term.credentials.create(OPS, 0.0, by="")
    assert await term.store.credentials() == []
    assert term.told == []


def test_the_guard_bounds_what_one_caller_deletes_in_a_minute() -> None:
    """Broken on purpose (the window never moves on; all callers share it): fails."""
    clock = HandClock()
    guard = DeleteGuard(3, clock)
    for n in range(3):
        guard.admit(CI, f"u{n}")
        clock.at_s += 10.0
    with pytest.raises(TooManyDeletes, match=r"--deletes-per-minute.* in 30 s"):
        guard.admit(CI, "u3")
    guard.admit(CI, "u1")  # a controller repeats its Deletes until the microVM is gone
    guard.admit(replace(CI, name="other"), "u3")
    clock.at_s += WINDOW_S - 30.0
    guard.admit(CI, "u3")
    with pytest.raises(TooManyDeletes):
        guard.admit(CI, "u4")


def test_the_guard_lets_operators_delete_but_not_the_shared_token_which_old_tools_have() -> None:
    guard = DeleteGuard(1, HandClock())
    for n in range(10):
        guard.admit(OPS, f"u{n}")
    guard.admit(SHARED, "u0")
    with pytest.raises(TooManyDeletes):
        guard.admit(SHARED, "u1")


def test_without_a_limit_the_guard_counts_nothing() -> None:
    guard = DeleteGuard(0, HandClock())
    for n in range(1_000):
        guard.admit(CI, f"u{n}")
