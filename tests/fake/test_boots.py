"""One worker boots and deletes; here without a network, in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import mean

from billet.fake.faults import ALWAYS, Fault, FaultKind
from billet.fake.model import CREATED, DELETING, FAILED, PENDING, StoredMicroVm
from billet.fake.server import FakeFlintlockd
from billet.fake.settings import FakeConfig
from billet.wire.flintlock import with_uid
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.conformance.calls import spec

FAST = {"boot_mean_s": 0.002, "pull_mean_s": 0.002, "delete_mean_s": 0.001, "control_endpoint": ""}
NEVER_S = 10_000.0


@asynccontextmanager
async def fake(die: Callable[[int], object] = print, **settings: object) -> AsyncIterator[FakeFlintlockd]:
    running = FakeFlintlockd(FakeConfig(grpc_endpoint="127.0.0.1:0", **{**FAST, **settings}), die)
    await running.start()
    yield running
    await running.stop()


def create(running: FakeFlintlockd, given: types.MicroVMSpec | None = None) -> str:
    reply = running.vms.create(rpc.CreateMicroVMRequest(microvm=given or spec()).SerializeToString())
    return rpc.CreateMicroVMResponse.FromString(reply).microvm.spec.uid


def record(running: FakeFlintlockd, uid: str) -> StoredMicroVm:
    return running.records[uid]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # there is no event for what a test asks
            await asyncio.sleep(0.001)


async def test_one_boot_at_a_time_in_order() -> None:
    async with fake() as running:
        uids = [create(running) for _ in range(8)]
        await until(lambda: all(record(running, uid).vm.status.state == CREATED for uid in uids))
        assert running.boots.stats.running_max == 1
        assert list(running.boots.stats.created_s) == uids
        assert {record(running, uid).vm.version for uid in uids} == {2}


async def test_an_image_is_pulled_once_and_preloaded_ones_never() -> None:
    async with fake() as running:
        running.boots.preload("registry.example/os:22.04")
        uids = [create(running) for _ in range(3)]
        await until(lambda: all(record(running, uid).vm.status.state == CREATED for uid in uids))
        assert running.boots.stats.pulls == {"registry.example/kernel:5.10": 1}


async def test_created_shows_mounts_and_interfaces() -> None:
    async with fake() as running:
        uid = create(running, spec(allow_guest_agent=True))
        await until(lambda: record(running, uid).vm.status.state == CREATED)
        status = record(running, uid).vm.status
        assert set(status.network_interfaces) == {"eth0", "eth1"}
        assert status.volumes["root"].mount.source
        assert status.kernel_mount.source
        assert status.vsock_path


async def test_a_boot_that_always_fails_ends_failed_after_eleven_attempts() -> None:
    async with fake(boot_failure_share=1.0, time_scale=0.0) as running:
        uid = create(running)
        await until(lambda: record(running, uid).vm.status.state == FAILED)
        assert running.boots.stats.attempts == 11
        assert record(running, uid).vm.status.retry == 11
        assert record(running, uid).vm.version == 1 + 11 + 1


async def test_a_boot_that_fails_twice_is_retried_and_others_go_on() -> None:
    async with fake(time_scale=0.0001) as running:
        running.faults.add(Fault(FaultKind.FAIL_BOOT, count=2))
        uid = create(running)
        await until(lambda: record(running, uid).vm.status.state == CREATED)
        assert record(running, uid).vm.status.retry == 2


async def test_the_worker_does_not_wait_for_a_retry() -> None:
    async with fake(time_scale=NEVER_S) as running:
        running.faults.add(Fault(FaultKind.FAIL_BOOT))
        stuck, fine = create(running), create(running)
        await until(lambda: record(running, fine).vm.status.state == CREATED)
        assert (record(running, stuck).vm.status.state, record(running, stuck).vm.status.retry) == (PENDING, 1)


async def test_delete_while_booting_waits_for_the_boot_then_removes() -> None:
    async with fake(boot_mean_s=0.05) as running:
        uid = create(running)
        await until(lambda: running.boots.stats.running)
        running.vms.delete(with_uid(uid))
        assert record(running, uid).vm.status.state == DELETING
        await until(lambda: not running.records)
        assert uid not in running.boots.stats.created_s


async def test_a_failed_one_can_be_deleted() -> None:
    async with fake(time_scale=0.0) as running:
        running.faults.add(Fault(FaultKind.FAIL_BOOT, count=ALWAYS))
        uid = create(running)
        await until(lambda: record(running, uid).vm.status.state == FAILED)
        running.vms.delete(with_uid(uid))
        await until(lambda: not running.records)


async def test_an_empty_kernel_kills_when_its_boot_gets_there() -> None:
    deaths: list[int] = []
    async with fake(die=deaths.append) as running:
        bare = spec()
        bare.ClearField("kernel")
        create(running, bare)
        assert deaths == []
        await until(lambda: deaths)
        assert deaths == [2]


async def test_same_seed_same_times_and_the_mean_is_the_mean() -> None:
    def draws(seed: int) -> list[float]:
        boots = FakeFlintlockd(FakeConfig(seed=seed)).boots
        return [boots.draw_s(0.5) for _ in range(4000)]

    assert draws(1) == draws(1) != draws(2)
    assert 0.48 < mean(draws(1)) < 0.52


async def test_many_in_one_process() -> None:
    async with fake() as one, fake() as other:
        assert one.grpc_address != other.grpc_address
        create(one)
        assert (one.stats()["creates_accepted"], other.stats()["creates_accepted"]) == (1, 0)
