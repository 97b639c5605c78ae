"""Fixtures for every folder of tests, and which tests are slow."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.etcd_fixture import etcd_server, own_etcd, three_etcds

__all__ = ["etcd_server", "own_etcd", "three_etcds"]

# How long an example takes is the machine's affair: speed is for benchmarks.
settings.register_profile("billet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("billet")

# Clusters of real processes, by their folders and by their names: `make check` leaves these to `make test`.
SLOW = (
    "tests/cluster/",
    "tests/chaos/test_rehearsal",
    "tests/test_benchmarks",
    "tests/stores/test_trouble",
    "[cluster-",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(place in item.nodeid for place in SLOW):
            item.add_marker(pytest.mark.slow)
