"""The stores that the contract is tried on, and what a test must do to each from outside."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from billet.core.access import Credential, Role
from billet.core.model import Host, Placement, PlacementState, Resources
from billet.core.state import Change
from billet.ports import Leader, Snapshot, Store, Term
from billet.store import sqlite
from billet.store.etcd import EtcdStore
from billet.store.records import encode
from billet.store.sqlite import SqliteStore
from billet.wire.pb import etcd_rpc_pb2 as pb
from tests.etcd_fixture import LocalEtcd

SOON_S = 60.0  # generous: nobody waits so long unless something is broken
ME = Leader("a", "127.0.0.1:9090", "127.0.0.1:9091")
OTHER = Leader("b", "127.0.0.1:9190", "127.0.0.1:9191")
LONG_LEASE_S = 600  # of a leader that is not to notice what a test does behind its back


class Backend(Protocol):
    """One global state, reached by any number of stores."""

    def store(self) -> Store:
        """Another server's way in, not yet opened."""

    def arguments(self) -> list[str]:
        """For tests.stores.committer."""

    async def depose(self, store: Store, term: Term) -> None:
        """Take the leadership away behind its back."""

    async def write_raw(self, key: str, record: bytes) -> None:
        """Put bytes under a key, whatever they are. The store must be open."""


class SqliteBackend:
    """A file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "billet.db"
        self._monkeypatch = monkeypatch

    def store(self) -> SqliteStore:
        return SqliteStore(self.path)

    def arguments(self) -> list[str]:
        return ["sqlite", str(self.path)]

    async def depose(self, store: Store, term: Term) -> None:
        """Another server locks a new lock file, while the old one is locked still."""
        self.path.with_name(f"{self.path.name}.lock").unlink()

    async def write_raw(self, key: str, record: bytes) -> None:
        db = sqlite.sqlite3.connect(self.path)
        with db:
            db.execute("INSERT INTO records VALUES (?, ?)", (key, record))
        db.close()


class EtcdBackend:
    """A prefix of its own in a real etcd."""

    def __init__(self, server: LocalEtcd, lease_ttl_s: int = LONG_LEASE_S) -> None:
        self.server = server
        self.prefix = f"/{uuid.uuid4().hex}/"
        self._ttl_s = lease_ttl_s

    def store(self) -> EtcdStore:
        return EtcdStore([self.server.endpoint], prefix=self.prefix, lease_ttl_s=self._ttl_s)

    def arguments(self) -> list[str]:
        return ["etcd", self.server.endpoint, self.prefix]

    async def depose(self, store: Store, term: Term) -> None:
        other = self.store()
        await other.depose(term.leader)
        await other.close()

    async def write_raw(self, key: str, record: bytes) -> None:
        put = pb.PutRequest(key=(self.prefix + key).encode(), value=record)
        other = self.store()
        await other.client.steady("KV/Put", put, pb.PutResponse)
        await other.close()


class Opened:
    """Stores of one backend, closed when the test is over."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._stores: list[Store] = []

    async def __call__(self) -> Store:
        store = self.backend.store()
        self._stores.append(store)
        await store.open()
        return store

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


def placement(n: int, host: str = "h1", state: PlacementState = PlacementState.RESERVED) -> Placement:
    return Placement(f"p{n:06}", "ns", f"vm-{n}", Resources(2, 1024, 0, 1), host, state, labels={"n": str(n)})


def host(name: str) -> Host:
    return Host(name, Resources(8, 1 << 14, 1 << 16, 64), Resources(7, 1 << 13, 1 << 15, 60), zone="z")


def credential(name: str) -> Credential:
    return Credential(name, Role.USER, ("ci-*",), exec=True, token_sha256="ab" * 32, created_at_s=1e9)


def contents(snapshot: Snapshot) -> dict[str, bytes | None]:
    """What the store holds, by key."""
    return dict(encode(change) for change in snapshot.changes)


def written(*changes: Change) -> dict[str, bytes | None]:
    """What a store holds that was given these puts."""
    return dict(encode(change) for change in changes)


async def told(leaders: AsyncIterator[Leader | None], wanted: Leader | None) -> None:
    """Wait until this is said of who leads."""
    async with asyncio.timeout(SOON_S):
        async for leader in leaders:
            if leader == wanted:
                return


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(SOON_S):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0.01)
