"""The stores under test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.stores.backends import Backend, EtcdBackend, Opened, SqliteBackend


@pytest.fixture(params=["sqlite", "etcd"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == "sqlite":
        return SqliteBackend(tmp_path, monkeypatch)
    return EtcdBackend(request.getfixturevalue("etcd_server"))


@pytest.fixture
async def opened(backend: Backend) -> AsyncIterator[Opened]:
    stores = Opened(backend)
    yield stores
    await stores.close()
