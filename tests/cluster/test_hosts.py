"""Hosts that die, come back, are emptied and leave: real processes, and clients that do what CAPMVM does."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from billet.wire import flintlock as wire
from billet.wire.pb import fleet_pb2
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.cluster.clients import (
    Clients,
    all_ready,
    billet,
    eventually,
    interruptible,
    names_on_hosts,
    numbered,
    on_hosts,
    spec,
    uids_on_hosts,
)
from tests.cluster.conftest import Start
from tests.harness import Cluster

CREATED = types.MicroVMStatus.CREATED


class Controller:
    """CAPMVM's loop for one machine: Create, Get every few moments until it is CREATED and ever after; only the words
    "not found" make it create again, and any other error makes it wait."""

    def __init__(self, clients: Clients, name: str, labels: dict[str, str] | None = None) -> None:
        self.name, self.uid, self.state, self.creates = name, "", -1, 0
        self.errors: set[grpc.StatusCode] = set()
        self._clients, self._labels = clients, labels or {}

    async def run(self) -> None:
        while True:
            try:
                await self._reconcile()
            except grpc.aio.AioRpcError as error:
                self.errors.add(error.code())
            await asyncio.sleep(0.2)

    @property
    def happy(self) -> bool:
        return self.state == CREATED

    async def _reconcile(self) -> None:
        if self.uid:
            try:
                self.state = (await self._clients.get(self.uid)).status.state
                return
            except grpc.aio.AioRpcError as error:
                self.state = -1
                if "not found" not in (error.details() or ""):
                    raise
        wanted = spec(self.name)
        wanted.labels.update(self._labels)
        reply = await self._clients.call(wire.CREATE, rpc.CreateMicroVMRequest(microvm=wanted).SerializeToString())
        self.uid, self.creates = rpc.CreateMicroVMResponse.FromString(reply).microvm.spec.uid, self.creates + 1


@pytest.fixture
async def controllers() -> AsyncIterator[Callable[..., list[Controller]]]:
    running: list[asyncio.Task[None]] = []

    def begin(clients: Clients, count: int, prefix: str = "vm", **settings: Any) -> list[Controller]:
        made = [Controller(clients, name, **settings) for name in numbered(prefix, count)]
        running.extend(asyncio.create_task(controller.run()) for controller in made)
        return made

    yield begin
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def states(clients: Clients) -> dict[str, str]:
    return {host_id: fleet_pb2.HostState.Name(host.state) for host_id, host in (await clients.hosts()).items()}


async def has_state(clients: Clients, host_id: str, state: str) -> bool:
    return (await states(clients))[host_id] == state


async def power_off(cluster: Cluster, n: int) -> None:
    """The machine is gone: its agent and its flintlockd at once."""
    await asyncio.to_thread(cluster.agent[n].kill)
    await asyncio.to_thread(cluster.fakes[n].kill)


async def error_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_hosts_death_fencing_return_and_cleaning(start: Start, controllers: Callable[..., Any]) -> None:
    cluster, clients = await start(3, keep_state=True, vcpu=10)
    machines = controllers(clients, 9)
    await eventually(lambda: all(machine.happy for machine in machines))
    before = {machine.uid: machine.name for machine in machines}
    lost = {vm["uid"]: vm["id"] for vm in on_hosts(cluster)["h0"]}
    assert len(lost) == 3, "nine on three hosts alike"

    # Its machine dies. Nobody says that anything is gone: its room stays taken, its microVMs are out of reach.
    await power_off(cluster, 0)
    await eventually(lambda: has_state(clients, "h0", "AWAY"))
    one = next(iter(lost))
    code, text = await error_of(clients.get(one))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "not found" not in text
    shown = {p.uid: p.vm_state for p in await clients.placements()}
    assert {uid for uid, state in shown.items() if state == "UNREACHABLE"} == lost.keys()
    assert (await clients.hosts())["h0"].taken.vcpu == 3
    assert (await error_of(clients.list()))[0] is grpc.StatusCode.UNAVAILABLE
    waiting = [machine for machine in machines if machine.uid in lost]
    await eventually(lambda: all(grpc.StatusCode.UNAVAILABLE in machine.errors for machine in waiting))
    assert all(machine.creates == 1 for machine in machines), "out of reach is no reason to create again"

    # The operator declares it dead: a Get says so in flintlockd's words, and the loop creates again, elsewhere.
    fenced = await billet(cluster, "host", "fence", "h0", "--yes", "-o", "json")
    assert fenced.returncode == 0, fenced.stderr
    assert json.loads(fenced.stdout)["released"] == 3
    assert await error_of(clients.get(one)) == (grpc.StatusCode.UNKNOWN, wire.unknown_uid(wire.GET, one))
    assert await error_of(clients.delete(one)) == (grpc.StatusCode.UNKNOWN, wire.unknown_uid(wire.DELETE, one))
    await eventually(lambda: all(machine.happy and machine.uid not in lost for machine in machines))
    assert {machine.creates for machine in waiting} == {2}
    assert sum(machine.creates for machine in machines) == 12
    assert await states(clients) == {"h0": "FENCED", "h1": "READY", "h2": "READY"}
    assert (await clients.hosts())["h0"].taken.vcpu == 0
    assert sorted((await clients.list()).values()) == sorted(before.values()), "a list misses nobody"
    assert len((await billet(cluster, "vms", "--fenced", "-o", "json")).stdout.split("FENCED")) == 4

    # It comes back with all that it had, and is slow to delete: until it is clean, it gets nothing.
    await asyncio.to_thread(cluster.fakes[0].start)
    cluster.fakes[0].fault("slow", method="DeleteMicroVM", count=-1, delay_s=8.0)
    assert {vm["uid"] for vm in on_hosts(cluster)["h0"]} == lost.keys()
    await asyncio.to_thread(cluster.restart_agent, 0)
    await clients.crowd(numbered("meanwhile", 4), at_once=4)
    assert await has_state(clients, "h0", "FENCED")
    assert {vm["uid"] for vm in on_hosts(cluster)["h0"]} == lost.keys(), "nothing new, and nothing deleted yet"
    assert not lost.keys() & set(await clients.list()), "what is declared gone is in no list"
    assert (await error_of(clients.get(one)))[0] is grpc.StatusCode.UNKNOWN

    # It is clean, and bids again; being the emptiest, it wins. Every microVM runs once.
    cluster.fakes[0].clear_faults()
    await eventually(lambda: has_state(clients, "h0", "READY"))
    assert on_hosts(cluster)["h0"] == []
    await clients.create("afterwards")
    assert [vm["id"] for vm in on_hosts(cluster)["h0"]] == ["afterwards"]
    assert len(names_on_hosts(cluster)) == len(set(names_on_hosts(cluster))) == 9 + 4 + 1
    assert sum(machine.creates for machine in machines) == 12
    assert sorted(await clients.list()) == sorted(uids_on_hosts(cluster))


async def test_a_host_that_lives_is_not_fenced_and_says_what_to_do(start: Start) -> None:
    cluster, clients = await start(1)
    uid = await clients.create("alive")
    said = await billet(cluster, "host", "fence", "h0", "--yes")
    assert said.returncode == 1
    assert "h0 is connected: drain it, or stop its agent and flintlockd first" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    assert (await clients.get(uid)).spec.id == "alive"


async def test_with_fence_after_a_dead_hosts_microvms_come_back_by_themselves(
    start: Start, controllers: Callable[..., Any]
) -> None:
    cluster, clients = await start(3, server_flags=("--fence-after-s", "2"))
    machines = controllers(clients, 3)
    await eventually(lambda: all(machine.happy for machine in machines))
    assert len(on_hosts(cluster)["h0"]) == 1, "three on three hosts alike"
    await power_off(cluster, 0)
    await eventually(lambda: all(m.happy for m in machines) and sum(m.creates for m in machines) == 4)
    assert await has_state(clients, "h0", "FENCED")


@pytest.mark.parametrize(
    "fault", [{"kind": "refuse"}, {"kind": "hang"}, {"kind": "slow", "delay_s": 1.5}], ids=lambda f: f["kind"]
)
async def test_one_failed_or_slow_list_changes_no_state(start: Start, fault: dict[str, Any]) -> None:
    cluster, clients = await start(2)
    await clients.crowd(numbered("vm", 20), at_once=8)
    await eventually(lambda: all_seen(clients, 20))
    before = sorted(map(repr, await clients.placements()))
    for fake in cluster.fakes:
        fake.fault(method="ListMicroVMs", **fault)
    await eventually(lambda: all(fake.stats()["faults"] == [] for fake in cluster.fakes))
    since_s = time.monotonic()
    await eventually(lambda: fresh_reports(clients, since_s))
    assert sorted(map(repr, await clients.placements())) == before
    assert len((await clients.crowd(numbered("more", 10), at_once=4)).uids) == 10


async def test_a_flintlockd_that_answers_no_list_for_long_changes_no_state_either(start: Start) -> None:
    cluster, clients = await start(2)
    await clients.crowd(numbered("vm", 20), at_once=8)
    await eventually(lambda: all_seen(clients, 20))
    before = sorted(map(repr, await clients.placements()))
    cluster.fakes[0].fault("refuse", method="ListMicroVMs", count=-1)
    await eventually(lambda: has_state(clients, "h0", "DAEMON_DOWN"))
    assert sorted(map(repr, await clients.placements())) == before
    cluster.fakes[0].clear_faults()
    await eventually(lambda: has_state(clients, "h0", "READY"))
    assert sorted(map(repr, await clients.placements())) == before


async def all_seen(clients: Clients, count: int) -> bool:
    placements = await clients.placements()
    return len(placements) == count and all(p.vm_state == "CREATED" for p in placements)


async def fresh_reports(clients: Clients, since_s: float) -> bool:
    """Whether every agent has reported since then that its flintlockd is there."""
    asked_s = time.monotonic()
    hosts = (await clients.hosts()).values()
    return all(host.state == fleet_pb2.READY and asked_s - host.report_age_s > since_s for host in hosts)


@pytest.mark.parametrize("store", ["sqlite", "etcd"])
async def test_promise_1_a_restarted_server_on_a_full_fleet_takes_no_microvm_too_many(
    start: Start, store: str
) -> None:
    cluster, clients = await start(2, store, vcpu=20)
    full = await clients.crowd(numbered("fill", 40), at_once=16)
    assert len(full.uids) == 40, full.texts()
    await asyncio.to_thread(cluster.server[0].kill)
    await asyncio.to_thread(cluster.restart_server)
    again = Clients(cluster.grpc[0])
    early = await again.crowd(numbered("early", 20), at_once=8)  # agents are still on their way
    assert early.uids == {}
    assert not any("not found" in text for text in early.texts())
    await eventually(lambda: all_ready(again, 2))
    late = await again.crowd(numbered("late", 20), at_once=8)
    assert late.uids == {}
    assert {error.code() for error in late.errors.values()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    await again.delete(full.uids["fill-0"])
    await eventually(lambda: len(uids_on_hosts(cluster)) == 39)
    await eventually(lambda: taken(again, 39))
    assert len((await again.crowd(numbered("one", 5), at_once=5)).uids) == 1
    assert len(uids_on_hosts(cluster)) == 40
    await again.close()


async def taken(clients: Clients, vcpu: int) -> bool:
    return sum(host.taken.vcpu for host in (await clients.hosts()).values()) == vcpu


def all_but_the_hosts_disk(folder: str, names: list[str]) -> list[str]:
    """The write-ahead log is part of it; the kill left one behind in every copy."""
    return [name for name in names if not name.startswith("h0.db")]


async def test_a_delete_that_the_host_forgot_is_sent_again(start: Start, tmp_path: Path) -> None:
    """The host's disk comes back as it was before the Delete that was acknowledged."""
    cluster, clients = await start(1, keep_state=True, delete_mean_s=1e6)
    uid = await clients.create("doomed")
    fake, before = cluster.fakes[0], tmp_path.with_name("before")
    await eventually(lambda: all_seen(clients, 1))
    await asyncio.to_thread(fake.kill)
    await asyncio.to_thread(shutil.copytree, tmp_path, before, ignore=all_but_the_hosts_disk)
    await asyncio.to_thread(fake.start)
    await eventually(lambda: all_ready(clients, 1))
    await clients.delete(uid)
    await asyncio.to_thread(fake.kill)
    await asyncio.to_thread(shutil.copytree, before, tmp_path, dirs_exist_ok=True)
    fake.config = replace(fake.config, delete_mean_s=0.0)
    await asyncio.to_thread(fake.start)
    assert [vm["state"] for vm in fake.stats()["microvms"]] == ["CREATED"], "it has forgotten the Delete"
    await eventually(lambda: uids_on_hosts(cluster) == [])
    await eventually(lambda: taken(clients, 0))
    assert await clients.placements() == []


async def test_planned_work_drain_in_two_goes_and_remove(start: Start, controllers: Callable[..., Any]) -> None:
    cluster, clients = await start(3)
    movable = controllers(clients, 12, "movable", labels={"billet.io/evict": "allow"})
    fixed = controllers(clients, 3, "fixed")
    await eventually(lambda: all(machine.happy for machine in [*movable, *fixed]))
    direct = Clients(cluster.fakes[0].grpc_address)
    mine = await direct.create("mine")
    await eventually(lambda: seen(clients, mine))
    here = {vm["id"] for vm in on_hosts(cluster)["h0"]}
    staying = {name for name in here if not name.startswith("movable")}

    # Without --evict it cordons, and only shows.
    shown = await billet(cluster, "host", "drain", "h0", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    assert {row["name"] for row in json.loads(shown.stdout)["remaining"]} == here
    assert await has_state(clients, "h0", "CORDONED")
    assert {vm["id"] for vm in on_hosts(cluster)["h0"]} == here

    # One at a time, and interrupted after the first: what is done is done, and no more.
    drain = interruptible(cluster.grpc[0], "host", "drain", "h0", "--evict", "--yes", "--pace-s", "600")
    first = await asyncio.create_subprocess_exec(*drain, stderr=asyncio.subprocess.PIPE)
    await deleted_one(first)
    await eventually(lambda: len({vm["id"] for vm in on_hosts(cluster)["h0"]}) == len(here) - 1)
    first.send_signal(signal.SIGINT)
    said = (await first.communicate())[1].decode()
    assert first.returncode == 1
    assert "interrupted after 1 delete; h0 stays cordoned; run the same command to continue" in said

    # Run again, it goes on where it was; what its label does not allow stays, and is named.
    flags = ("--evict", "--yes", "--pace-s", "0", "--at-once", "2", "-o", "json")
    again = await billet(cluster, "host", "drain", "h0", *flags)
    assert again.returncode == 1
    told = json.loads(again.stdout)
    assert len(told["evicted"]) == len(here) - len(staying) - 1
    why = {row["name"]: row["reason"] for row in told["remaining"]}
    assert why.keys() == staying
    assert "created directly on the host" in why["mine"]
    assert all("no label billet.io/evict=allow" in why[name] for name in staying - {"mine"})
    await eventually(lambda: all(machine.happy for machine in [*movable, *fixed]))
    assert {vm["id"] for vm in on_hosts(cluster)["h0"]} == staying, "their controllers made them elsewhere"
    assert all(machine.creates == 1 for machine in fixed)

    # A host leaves the fleet when it is empty and its agent is stopped, and not before.
    assert "h0 is connected: stop its agent" in (await billet(cluster, "host", "remove", "h0")).stderr
    for vm in on_hosts(cluster)["h0"]:
        await clients.delete(vm["uid"])
    await eventually(lambda: on_hosts(cluster)["h0"] == [])
    done = await billet(cluster, "host", "drain", "h0", "--evict", "--yes")
    assert done.stdout == "h0 is cordoned and empty. `billet host uncordon h0` puts it back into service.\n"
    await asyncio.to_thread(cluster.agent[0].stop)
    await eventually(lambda: has_state(clients, "h0", "AWAY"))
    removed = await billet(cluster, "host", "remove", "h0")
    assert removed.returncode == 0, removed.stderr
    assert set(await states(clients)) == {"h1", "h2"}
    assert set((await clients.list()).values()) >= {machine.name for machine in movable}
    await direct.close()


async def deleted_one(drain: asyncio.subprocess.ChildProcess) -> None:
    """Wait until it says so; should it end instead, show what it said."""
    said = ""
    assert drain.stderr
    async with asyncio.timeout(60):
        while line := (await drain.stderr.readline()).decode():
            if "h0: deleted " in line:
                return
            said += line
    raise AssertionError(f"it ended: {said}")


async def seen(clients: Clients, uid: str) -> bool:
    return uid in {p.uid for p in await clients.placements()}


async def test_a_cordon_outlives_agents_and_servers(start: Start) -> None:
    cluster, _ = await start(2)
    assert (await billet(cluster, "host", "cordon", "h0")).returncode == 0
    await asyncio.to_thread(cluster.agent[0].kill)
    await asyncio.to_thread(cluster.server[0].kill)
    await asyncio.to_thread(cluster.restart_server)
    await asyncio.to_thread(cluster.restart_agent, 0)
    again = Clients(cluster.grpc[0])
    await eventually(lambda: has_state(again, "h1", "READY"))
    assert await has_state(again, "h0", "CORDONED")
    await again.crowd(numbered("vm", 6), at_once=3)
    assert on_hosts(cluster)["h0"] == []
    said = await billet(cluster, "host", "uncordon", "h0")
    assert said.stdout == "h0 is no longer cordoned.\n"
    await again.create("there")
    assert [vm["id"] for vm in on_hosts(cluster)["h0"]] == ["there"]
    await again.close()
