"""Fixtures for every folder of tests, and which tests are slow."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from tests.etcd_fixture import etcd_server, own_etcd, three_etcds

__all__ = ["etcd_server", "own_etcd", "three_etcds"]

os.environ["XDG_CONFIG_HOME"] = "/nonexistent"  # whose profiles would change what the commands of the tests do

# How long an example takes is the machine's affair: speed is for benchmarks.
settings.register_profile("billet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("billet")

# Clusters of real processes, by their folders and by their names: `make check` leaves these to `make test`.
SLOW = (
    "tests/cluster/",
    "tests/chaos/test_rehearsal",
    "tests/interop/",
    "tests/test_benchmarks",
    "tests/stores/test_trouble",
    "[cluster-",
)


@pytest.hookimpl(trylast=True)  # after pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(place in item.nodeid for place in SLOW):
            item.add_marker(pytest.mark.slow)
    _spread_long_tests(items)


def _spread_long_tests(items: list[pytest.Item]) -> None:
    """Put the tests that take longest at the beginning of each worker's share, so that none is still running alone
    when all others are done. With --dist worksteal a worker begins with one run of neighbours."""
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = -(-len(items) // workers)
    items.clear()
    for n in range(workers):
        own = long[n::workers]
        items += own
        items += rest[: share - len(own)]
        del rest[: share - len(own)]
    items += rest
