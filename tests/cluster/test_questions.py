"""Questions to the records, and evening out: a cluster of real processes, its microVMs kept alive by controllers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections import Counter

import pytest

from tests.cluster.clients import Clients, eventually, interruptible, names_on_hosts, numbered, on_hosts
from tests.cluster.conftest import Start
from tests.cluster.test_hosts import Controller, billet, taken
from tests.harness import Cluster


async def answer(cluster: Cluster, *arguments: str) -> str:
    done = await billet(cluster, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def counts(cluster: Cluster) -> dict[str, int]:
    return {host_id: len(vms) for host_id, vms in on_hosts(cluster).items()}


def controllers(clients: Clients) -> list[Controller]:
    movable = [Controller(clients, name, {"billet.io/evict": "allow"}) for name in numbered("movable", 8)]
    return [*movable, *(Controller(clients, name) for name in numbered("fixed", 4))]


@pytest.mark.slow
@pytest.mark.long
async def test_a_new_host_is_filled_and_the_records_can_be_asked(start: Start) -> None:
    """Three hosts, one of them cordoned while the others fill up."""
    cluster, clients = await start(3, vcpu=20, server_flags=("--shadow", "pack"))
    await answer(cluster, "host", "cordon", "h2")
    machines = controllers(clients)
    running = [asyncio.create_task(machine.run()) for machine in machines]
    try:
        await eventually(lambda: all(machine.happy for machine in machines))
        assert counts(cluster)["h2"] == 0
        await asked_about_the_cordon(cluster, max(machines, key=lambda machine: machine.uid))
        await answer(cluster, "host", "uncordon", "h2")
        fixed = {machine.uid for machine in machines if machine.name.startswith("fixed")}
        await evened_out(cluster)
        await eventually(lambda: all(machine.happy for machine in machines))
        assert fixed == {machine.uid for machine in machines if machine.name.startswith("fixed")}
        assert Counter(names_on_hosts(cluster)) == Counter(machine.name for machine in machines)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    await replayed(cluster)
    await nothing_more_goes_than_comes_back(cluster, clients)


async def asked_about_the_cordon(cluster: Cluster, last: Controller) -> None:
    """Of the last one that was made, when the others had filled the hosts but h2."""
    uid = last.uid
    said = await answer(cluster, "explain", uid, "--why-not", "h2")
    assert f"h2 did not get ns/{last.name}: it is cordoned." in said
    assert "It would have won if it were not cordoned" in said
    assert "h9 took no part" in await answer(cluster, "explain", uid, "--why-not", "h9")
    assert "shadow policy pack chose" in await answer(cluster, "explain", uid)


async def evened_out(cluster: Cluster) -> None:
    plan = json.loads(await answer(cluster, "rebalance", "--plan", "-o", "json"))
    assert {move["target"] for move in plan["moves"]} == {"h2"}
    assert len(plan["moves"]) == 4
    done = json.loads(await answer(cluster, "rebalance", "--apply", "--yes", "--per-minute", "600", "-o", "json"))
    assert [move["target"] for move in done["moved"]] == ["h2"] * 4
    assert done["cov"] == pytest.approx(plan["cov_after"])
    assert counts(cluster) == {"h0": 4, "h1": 4, "h2": 4}
    assert (await answer(cluster, "rebalance")).startswith("Nothing to gain: CoV is 0.000.")


async def replayed(cluster: Cluster) -> None:
    async def ends_are_written() -> subprocess.CompletedProcess[str] | None:
        done = await billet(cluster, "replay", "--shadow", "--without", "h2", "-o", "json")
        return done if " 4 ended" in done.stdout else None

    done = await eventually(ends_are_written)
    told = json.loads(done.stdout)
    assert re.search(r"16 auctions on record at server-0, .*: 16 microVMs placed", told["records"])
    assert re.search(r"pack chose another host in \d+ of 16 awards", told["records"])
    assert "100% of 48 recorded ledger entries" in " ".join(told["assumed"])
    happened, pack = told["rows"]
    assert happened["marks"]["end"]["cov"] == 0
    assert (pack["rule"], pack["marks"]["end"]["used"]) == ("billet pack, without h2", 1)


async def nothing_more_goes_than_comes_back(cluster: Cluster, clients: Clients) -> None:
    """Nobody looks after the microVMs any more, and h2 is empty again."""
    for vm in on_hosts(cluster)["h2"]:
        await clients.delete(vm["uid"])
    await eventually(lambda: taken(clients, 8))
    stopped = await billet(cluster, "rebalance", "--apply", "--yes", "--wait-s", "0.5", "--per-minute", "600")
    assert stopped.returncode == 1
    assert "not recreated within 0.5 s (--wait-s); stopping here" in stopped.stderr
    await eventually(lambda: taken(clients, 7))

    apply = interruptible(cluster.grpc[0], "rebalance", "--apply", "--yes")
    waiting = await asyncio.create_subprocess_exec(*apply, stderr=asyncio.subprocess.PIPE)
    await eventually(lambda: taken(clients, 6))
    waiting.send_signal(signal.SIGINT)
    said = (await waiting.communicate())[1].decode()
    assert "interrupted after 0 moves; controllers recreate what was deleted; run the same" in said
    assert waiting.returncode == 1
