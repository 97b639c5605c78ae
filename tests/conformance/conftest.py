from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .calls import Client, spec
from .pki import Pki
from .targets import NEVER_S, TARGETS, Options, Service, Target


@pytest.fixture(scope="session", params=TARGETS, ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    return request.param


@pytest.fixture
def cluster(target: Target) -> Target:
    """For checks that need several hosts, or speak of Billet's own answers."""
    if not target.is_cluster:
        pytest.skip("a lone flintlockd is one host and has none of Billet's own answers")
    return target


@pytest.fixture
def start(target: Target, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start a service with these Options, for this test alone."""
    running: list[Service] = []

    def run(**options: object) -> Service:
        directory = tmp_path / f"service-{len(running)}"
        directory.mkdir()
        running.append(target.start(Options(**options), directory))
        return running[-1]

    yield run
    for service in running:
        service.stop()


@pytest.fixture(scope="session")
def service(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service that all checks share that need nothing special: boots take no time, HTTP is on."""
    running = target.start(Options(http=True), tmp_path_factory.mktemp("service"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def slow(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One whose first boot never ends, so that everything after it stays PENDING or DELETING."""
    running = target.start(Options(boot_mean_s=NEVER_S), tmp_path_factory.mktemp("slow"))
    yield running
    running.stop()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    client = Client(service.address)
    yield client
    client.close()


@pytest.fixture
def slow_client(slow: Service) -> Iterator[Client]:
    client = Client(slow.address)
    client.create(spec())  # the worker is busy with this one, or with an earlier one
    yield client
    client.close()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))
