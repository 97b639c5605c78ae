"""Strangers attack every port at once, while a client creates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.strangers import rehearse


@pytest.mark.long
async def test_strangers_cost_a_client_little_and_the_leader_nothing(tmp_path: Path) -> None:
    """A small `python -m tests.cluster.strangers`, which says how much longer a create takes.

    Broken on purpose (the HTTP port reads the body before it checks the token): the leader's memory grows by more.
    """
    found = await rehearse(tmp_path, turn_s=5.0, turns=1, hosts=2)
    assert not found.loaded.errors
    assert not found.after.errors
    assert found.loaded.took_s
    assert found.loaded.new_connection_s
    assert found.loaded.most_files > 300
    assert found.grown_mib() < 200
    assert found.terms == 1
