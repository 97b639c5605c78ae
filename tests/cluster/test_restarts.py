"""Servers stop, or are killed, while clients create. `python -m tests.cluster.restarts` runs more rounds of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.restarts import SCENARIOS, Round, one_round
from tests.interop.programs import grpcio_fault


async def round_of(name: str, folder: Path) -> Round:
    """One round, in which nothing is lost, doubled, or answered with a code that clients may not be told."""
    found = await one_round(SCENARIOS[name], folder)
    assert found.errors(*SCENARIOS[name].allowed) == []
    assert found.lost == [], "each acknowledged uid is on one host, once"
    assert found.doubled == [], "no name is there twice"
    return found


@grpcio_fault("SIGTERM answers calls in flight with CANCELLED")
@pytest.mark.long
async def test_promise_4_a_rolling_restart_is_not_seen_by_clients_that_know_all_servers(tmp_path: Path) -> None:
    found = await round_of("rolling", tmp_path)

    assert set(found.codes) == {"OK"}


@grpcio_fault("SIGTERM answers calls in flight with CANCELLED")
async def test_a_single_server_that_is_told_to_stop_answers_ok_or_unavailable(tmp_path: Path) -> None:
    found = await round_of("single", tmp_path)

    assert set(found.codes) == {"OK", "UNAVAILABLE"}


@grpcio_fault("calls that outlast a server's grace end with CANCELLED")
@pytest.mark.long
async def test_creates_that_outlast_a_server_that_is_told_to_stop_are_unavailable(tmp_path: Path) -> None:
    found = await round_of("outlasting", tmp_path)

    assert set(found.codes) == {"UNAVAILABLE"}
    assert len(found.homes) == len(found.creates), "the hosts had accepted them"


@pytest.mark.long
@pytest.mark.parametrize("who", ["leader", "single"])
async def test_promise_4_a_killed_server_is_not_seen_by_clients_with_the_documented_retry_policy(
    who: str, tmp_path: Path
) -> None:
    found = await round_of(f"{who}-killed", tmp_path)

    assert set(found.codes) == {"OK"}
