from __future__ import annotations

import pytest

from tests.interop.toolchain import FETCHED_WITHIN_S, NO_GO, build, go


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/interop/" in item.nodeid:  # the first one may have to build the programs
            item.add_marker(pytest.mark.timeout(FETCHED_WITHIN_S))


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """The Go programs and the tools, built; without Go, no test here runs."""
    if go() is None:
        pytest.skip(NO_GO)
    build()
