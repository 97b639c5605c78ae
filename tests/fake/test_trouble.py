"""What real flintlockds do when something beneath them fails, on command: one test for each kind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from billet.core.errors import HostVerdict
from billet.fake.boots import DEAD_PID, RETRIES_MAX, RETRY_STEP_S
from billet.fake.faults import ALWAYS, Fault, FaultKind
from billet.fake.model import CREATED, DELETING, PENDING
from billet.fake.server import FakeFlintlockd
from billet.fake.trouble import ANSWERS
from billet.host.verdicts import Meaning, meaning
from billet.wire import flintlock as wire
from tests.conformance.calls import Client, refused, spec
from tests.fake.test_boots import NEVER_S, create, fake, record, until


def state(running: FakeFlintlockd, uid: str) -> int:
    return record(running, uid).vm.status.state


async def test_containerd_down_fails_every_call_and_nothing_is_created() -> None:
    async with fake() as running:
        running.faults.add(Fault(FaultKind.CONTAINERD_DOWN))
        for call in (
            lambda: create(running),
            lambda: running.vms.get(wire.with_uid("x")),
            lambda: running.vms.list_all(b""),
        ):
            with pytest.raises(HostVerdict, match="connection refused"):
                call()
        with pytest.raises(HostVerdict) as raised:
            create(running)
        assert meaning(raised.value.status, raised.value.text) is Meaning.HOST_FAULT
        bad = spec()
        bad.vcpu = 65
        with pytest.raises(HostVerdict, match="'VCPU' failed"):
            create(running, bad)
        assert not running.records
        running.faults.clear(FaultKind.CONTAINERD_DOWN)
        create(running)


async def test_a_full_containerd_looks_like_the_emptiest_host() -> None:
    async with fake() as running:
        running.faults.add(Fault(FaultKind.CONTAINERD_FULL))
        with pytest.raises(HostVerdict, match="no space left on device") as raised:
            create(running)
        assert meaning(raised.value.status, raised.value.text) is Meaning.HOST_FAULT
        assert wire.read_list(running.vms.list_all(b"")) == []


async def test_after_a_restart_of_containerd_nothing_boots_until_the_resync() -> None:
    async with fake(time_scale=0.001) as running:
        running.faults.add(Fault(FaultKind.CONTAINERD_RESTARTED))
        uid = create(running)
        assert (state(running, uid), running.boots.stats.attempts) == (PENDING, 0)
        await until(lambda: state(running, uid) == CREATED)
        running.vms.delete(wire.with_uid(uid))
        await until(lambda: not running.records)


async def test_without_a_resync_it_would_wait_for_ever() -> None:
    async with fake(time_scale=NEVER_S) as running:
        running.faults.add(Fault(FaultKind.CONTAINERD_RESTARTED))
        uid = create(running)
        running.faults.clear()
        other = create(running)
        await until(lambda: state(running, other) == CREATED)
        assert state(running, uid) == PENDING


@pytest.mark.parametrize("kind", [FaultKind.COMMIT_UNCLEAR, FaultKind.PUBLISH_FAILS, FaultKind.COMMIT_FAILS])
async def test_an_unclear_create_is_there_or_not_and_boots_at_the_resync(kind: FaultKind) -> None:
    async with fake(time_scale=0.001) as running:
        client = Client(running.grpc_address)
        running.faults.add(Fault(kind))
        answer = await asyncio.to_thread(refused, client.create, spec())
        assert meaning(answer.code.value[0], answer.text) is Meaning.OUTCOME_UNKNOWN
        client.close()
        if kind is FaultKind.COMMIT_FAILS:
            assert not running.records
        else:
            (uid,) = running.records
            await until(lambda: state(running, uid) == CREATED)


async def test_a_locked_record_and_a_list_race_pass() -> None:
    async with fake() as running:
        client = Client(running.grpc_address)
        running.faults.add(Fault(FaultKind.LOCKED))
        running.faults.add(Fault(FaultKind.LIST_RACE))
        assert "locked for" in (await asyncio.to_thread(refused, client.create, spec())).text
        assert not running.records
        await asyncio.to_thread(client.create, spec())
        assert "failed reading from content store" in (await asyncio.to_thread(refused, client.list)).text
        assert len(await asyncio.to_thread(client.list)) == 1
        client.close()
    assert ANSWERS.keys() < set(FaultKind)


async def test_a_delete_waits_in_the_boot_queue() -> None:
    async with fake(boot_mean_s=0.05, sigma=0.0) as running:
        first = create(running)
        await until(lambda: state(running, first) == CREATED)
        others = [create(running) for _ in range(3)]
        running.vms.delete(wire.with_uid(first))
        await until(lambda: first not in running.records)
        assert [state(running, uid) for uid in others] == [CREATED] * 3


async def test_a_delete_during_the_boot_may_be_lost_and_a_second_one_removes() -> None:
    async with fake(boot_mean_s=0.05) as running:
        running.faults.add(Fault(FaultKind.LOSE_DELETE))
        uid = create(running)
        await until(lambda: running.boots.stats.running)
        running.vms.delete(wire.with_uid(uid))
        assert (state(running, uid), record(running, uid).vm.version) == (DELETING, 2)
        await until(lambda: state(running, uid) == CREATED)
        assert record(running, uid).vm.version == 2
        running.vms.delete(wire.with_uid(uid))
        await until(lambda: not running.records)
        assert running.stats()["spinning"] == []


async def test_a_second_delete_before_the_removal_spins() -> None:
    async with fake(delete_mean_s=0.1) as running:
        uid = create(running)
        running.vms.delete(wire.with_uid(uid))
        running.vms.delete(wire.with_uid(uid))
        assert running.stats()["spinning"] == [uid]


async def test_a_delete_waits_the_back_off_out() -> None:
    async with fake(time_scale=0.01) as running:
        running.faults.add(Fault(FaultKind.FAIL_BOOT))
        uid = create(running)
        await until(lambda: record(running, uid).vm.status.retry == 1)
        running.vms.delete(wire.with_uid(uid))
        other = create(running)
        await until(lambda: state(running, other) == CREATED)
        assert state(running, uid) == DELETING
        await until(lambda: uid not in running.records)


async def test_a_removal_that_fails_is_retried_and_never_failed() -> None:
    async with fake(time_scale=0.001) as running:
        uid = create(running)
        await until(lambda: state(running, uid) == CREATED)
        running.faults.add(Fault(FaultKind.FAIL_DELETE, count=12))
        running.vms.delete(wire.with_uid(uid))
        await until(lambda: record(running, uid).vm.status.retry == 12)
        assert state(running, uid) == DELETING
        await until(lambda: not running.records)


def test_failed_comes_after_1100_s_of_waits() -> None:
    assert sum(retry * RETRY_STEP_S for retry in range(1, RETRIES_MAX + 1)) == 1100.0


async def test_a_dead_vmm_is_created_and_its_pid_file_names_no_process(tmp_path: Path) -> None:
    async with fake(state_dir=str(tmp_path)) as running:
        running.faults.add(Fault(FaultKind.DEAD_VMM))
        uid = create(running, spec("dead"))
        await until(lambda: state(running, uid) == CREATED)
        vm = record(running, uid).vm.spec
        file = tmp_path / vm.namespace / vm.id / uid / "firecracker.pid"
        assert int(file.read_text()) == DEAD_PID
        assert not psutil.pid_exists(DEAD_PID)
        running.vms.delete(wire.with_uid(uid))
        await until(lambda: not running.records)
        assert not file.exists()


async def test_a_restart_loses_the_back_off(tmp_path: Path) -> None:
    """The next look at it is a resync, and the one at the start leaves what backs off."""
    file = str(tmp_path / "vms.db")
    async with fake(state_file=file, time_scale=NEVER_S) as running:
        running.faults.add(Fault(FaultKind.FAIL_BOOT))
        uid = create(running)
        await until(lambda: record(running, uid).vm.status.retry == 1)
    async with fake(state_file=file, time_scale=NEVER_S) as running:
        other = create(running)
        await until(lambda: state(running, other) == CREATED)
        assert state(running, uid) == PENDING
    async with fake(state_file=file, time_scale=0.001) as running:
        await until(lambda: state(running, uid) == CREATED)


# Names.


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ('a"b', "filters: parse error"),
        ("a\nb", "filters: parse error"),
        ("a b", "filters: parse error"),
        ("a,b", "filters: parse error"),
        ("a\tb", "filters: parse error"),
        ("é", "non-printable ASCII"),
    ],
)
@pytest.mark.parametrize("field", ["id", "namespace"])
async def test_a_name_that_containerd_cannot_take_is_a_verdict(name: str, text: str, field: str) -> None:
    async with fake() as running:
        bad = spec()
        setattr(bad, field, name)
        with pytest.raises(HostVerdict, match=text) as raised:
            create(running, bad)
        assert meaning(raised.value.status, raised.value.text) is Meaning.VERDICT


async def test_strange_but_harmless_names_boot() -> None:
    async with fake() as running:
        named = spec()
        named.id = "=~!<>()'`:#%@+*?[]{}|&;$^-_." + "x" * 100
        uid = create(running, named)
        await until(lambda: state(running, uid) == CREATED)


async def test_a_slash_in_a_name_poisons_the_host() -> None:
    async with fake(time_scale=0.001) as running:
        before = create(running)
        await until(lambda: state(running, before) == CREATED)
        bad = spec()
        bad.id = "a/b"
        uid = create(running, bad)
        assert state(running, uid) == PENDING
        for call in (running.vms.get, running.vms.delete, running.vms.list_all):
            with pytest.raises(HostVerdict, match=f"unexpected vmid format: {bad.namespace}/a/b/{uid}"):
                call(b"" if call == running.vms.list_all else wire.with_uid(uid))
        running.vms.get(wire.with_uid(before))


async def test_a_backslash_in_a_name_never_boots_and_never_goes() -> None:
    async with fake() as running:
        bad = spec()
        bad.id = "a\\b"
        uid, other = create(running, bad), create(running)
        await until(lambda: state(running, other) == CREATED)
        running.vms.delete(wire.with_uid(uid))
        running.vms.delete(wire.with_uid(other))
        await until(lambda: list(running.records) == [uid])
        assert state(running, uid) == DELETING


async def test_a_name_of_300_characters_never_boots() -> None:
    async with fake(time_scale=NEVER_S) as running:
        long = spec()
        long.id = "x" * 300
        uid = create(running, long)
        await until(lambda: record(running, uid).vm.status.retry == 1)


async def test_a_create_may_cost_time() -> None:
    async with fake(create_mean_s=0.02, sigma=0.0) as running:
        client = Client(running.grpc_address)
        begun_s = asyncio.get_running_loop().time()
        await asyncio.to_thread(client.create, spec())
        assert asyncio.get_running_loop().time() - begun_s >= 0.02
        client.close()


async def test_a_fault_can_be_cleared_alone() -> None:
    async with fake() as running:
        running.faults.add(Fault(FaultKind.CONTAINERD_FULL))
        running.faults.add(Fault(FaultKind.FAIL_BOOT, count=ALWAYS))
        running.faults.clear(FaultKind.CONTAINERD_FULL)
        assert running.faults.standing == [FaultKind.FAIL_BOOT]
