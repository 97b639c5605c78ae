"""One broken host of eight attracts nothing. tests/cluster/broken_hosts.py plays the same with 20 hosts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from billet.fake.faults import FaultKind
from tests.cluster.broken_hosts import play
from tests.cluster.clients import eventually
from tests.cluster.conftest import Start

HOSTS, CREATES = 8, 240


async def test_a_black_hole_costs_its_first_orders_and_no_client_an_error(tmp_path: Path) -> None:
    result = await play("full", tmp_path, HOSTS, CREATES)
    assert result.errors == []
    assert result.most_orders == 2, "one more order at most"
    assert result.h0 <= 16, "those in flight when the first one failed, one more, and the tries"
    assert "creates failed" in result.suspects["h0"]


async def test_a_host_that_never_boots_gets_few(tmp_path: Path) -> None:
    result = await play("never-boots", tmp_path, HOSTS, 2 * CREATES, in_flight=2)  # a burst outruns all boots
    assert result.errors == []
    others = [count for host, count in result.homes.items() if host != "h0"]
    assert result.homes["h0"] < min(others) / 2


async def test_an_image_that_does_not_exist_makes_no_host_suspect(tmp_path: Path) -> None:
    result = await play("bad-image", tmp_path, HOSTS, CREATES)
    assert result.errors == []
    assert result.suspects == {}
    assert result.not_booted == {"bad": CREATES // 2}


async def test_a_vmm_that_died_is_shown(start: Start, tmp_path: Path) -> None:
    """flintlockd says CREATED; the agent sees the pid file, and that no such process exists."""
    cluster, clients = await start(1, state_dir=str(tmp_path))
    cluster.fakes[0].fault(FaultKind.DEAD_VMM)
    dead, alive = await clients.create("dead"), await clients.create("alive")

    async def shown() -> bool:
        found = {placement.uid: placement.vmm_dead for placement in await clients.placements()}
        return found == {dead: True, alive: False} and (await clients.hosts())["h0"].dead_vmms == 1

    await eventually(shown)
    command = [sys.executable, "-m", "billet", "explain", dead, "--server", cluster.grpc[0]]
    said = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=True)
    assert "but its VMM is dead: nothing runs" in " ".join(said.stdout.split())
