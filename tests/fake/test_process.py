"""Faults, crashes and restarts of a fake in a process of its own."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest

from billet.fake.faults import FaultKind
from billet.fake.process import FakeProcess
from billet.fake.settings import FakeConfig
from billet.wire import flintlock as wire
from billet.wire.pb import flintlock_pb2 as rpc
from tests.conformance.calls import Client, refused, spec
from tests.zygote import ZYGOTE

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def host() -> Iterator[FakeProcess]:
    config = FakeConfig(grpc_endpoint="127.0.0.1:0", boot_mean_s=0.0, pull_mean_s=0.0)
    running = FakeProcess(config, ZYGOTE.spawn).start()
    yield running
    running.stop()


@pytest.fixture
def client(host: FakeProcess) -> Iterator[Client]:
    client = Client(host.grpc_address)
    yield client
    client.close()
    host.clear_faults()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., FakeProcess]]:
    """A fake of one's own, which keeps its microVMs."""
    started: list[FakeProcess] = []

    def run(**settings: object) -> FakeProcess:
        config = {"grpc_endpoint": "127.0.0.1:0", "pull_mean_s": 0.0, "state_file": str(tmp_path / "vms.db")}
        started.append(FakeProcess(FakeConfig(**{**config, **settings}), ZYGOTE.spawn).start())
        return started[-1]

    yield run
    for process in started:
        process.kill()


def held(host: FakeProcess, name: str) -> int:
    return sum(vm["id"] == name for vm in host.stats()["microvms"])


def test_refuse(host: FakeProcess, client: Client) -> None:
    host.fault(FaultKind.REFUSE, text="busy", code=8)
    assert refused(client.create, spec("refused")) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
    assert held(host, "refused") == 0
    assert client.create(spec()).version == 1  # once only


def test_refuse_any_method_until_cleared(host: FakeProcess, client: Client) -> None:
    host.fault(FaultKind.REFUSE, method="*", count=-1)
    assert refused(client.list).code == UNAVAILABLE
    assert refused(client.get, "x").code == UNAVAILABLE
    assert refused(client.stream, "x").code == UNAVAILABLE
    host.clear_faults()
    client.list()


@pytest.mark.parametrize(("kind", "kept"), [(FaultKind.HANG, 0), (FaultKind.HANG_AFTER_ACCEPT, 1)])
def test_hang(host: FakeProcess, client: Client, kind: FaultKind, kept: int) -> None:
    host.fault(kind)
    request = rpc.CreateMicroVMRequest(microvm=spec(kind)).SerializeToString()
    hanging = client.channel.unary_unary(wire.CREATE).future(request, timeout=60)
    host.wait_for(lambda stats: not stats["faults"])
    assert client.create(spec()).version == 1  # accepted after the one that hangs
    assert held(host, kind) == kept
    assert not hanging.done()
    hanging.cancel()


@pytest.mark.parametrize(("kind", "kept"), [(FaultKind.CUT_BEFORE_ACCEPT, 0), (FaultKind.CUT_AFTER_ACCEPT, 1)])
def test_cut_is_seen_by_one_client_only(host: FakeProcess, client: Client, kind: FaultKind, kept: int) -> None:
    other = Client(host.grpc_address)
    host.fault(FaultKind.SLOW, delay_s=0.5)
    request = rpc.CreateMicroVMRequest(microvm=spec()).SerializeToString()
    slow = other.channel.unary_unary(wire.CREATE).future(request, timeout=60)
    host.wait_for(lambda stats: not stats["faults"])  # the other client is in the middle of its call
    host.fault(kind)
    assert refused(client.create, spec(kind)).code == UNAVAILABLE
    assert slow.code() == grpc.StatusCode.OK
    assert held(host, kind) == kept
    assert client.create(spec()).version == 1  # a new connection is made
    other.close()


def test_slow(host: FakeProcess, client: Client) -> None:
    host.fault(FaultKind.SLOW, delay_s=0.05)
    assert client.create(spec("slow")).version == 1


def test_a_fault_that_cannot_be_is_refused(host: FakeProcess) -> None:
    for settings in ({"kind": "melt"}, {"kind": "hang", "count": 0}, {"kind": "hang", "nonsense": 1}):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            host.fault(**settings)


@pytest.mark.parametrize(("kind", "kept"), [(FaultKind.DIE, 0), (FaultKind.DIE_AFTER_ACCEPT, 1)])
def test_die(own: Callable[..., FakeProcess], kind: FaultKind, kept: int) -> None:
    host = own()
    host.fault(kind)
    assert refused(Client(host.grpc_address).create, spec("last")).code == UNAVAILABLE
    assert host.wait_exit(30) == 2
    host.kill()
    assert held(host.start(), "last") == kept


def test_overrides_without_a_bridge_kill_at_once(own: Callable[..., FakeProcess]) -> None:
    host = own()
    poison = spec("poison")
    poison.interfaces[0].overrides.SetInParent()
    assert refused(Client(host.grpc_address).create, poison).code == UNAVAILABLE
    assert host.wait_exit(30) == 2
    host.kill()
    assert held(host.start(), "poison") == 0


def test_an_empty_kernel_kills_again_after_each_restart(own: Callable[..., FakeProcess]) -> None:
    host = own(boot_mean_s=0.0)
    poison = spec("poison")
    poison.ClearField("kernel")
    with suppress(grpc.RpcError):  # it accepts it, and may be dead before its answer is out
        assert Client(host.grpc_address).create(poison).version == 1
    assert host.wait_exit(30) == 2
    host.kill()
    try:
        host.start()
    except RuntimeError:
        return  # it died before it could say that it was ready
    assert host.wait_exit(30) == 2


def test_kill_and_restart_shows_the_same_microvms_on_the_same_port(own: Callable[..., FakeProcess]) -> None:
    host = own(boot_mean_s=10_000.0)
    client = Client(host.grpc_address)
    before = {client.create(spec()).spec.uid for _ in range(20)}
    gone = before.pop()
    client.delete(gone)
    address = host.grpc_address
    host.kill()
    assert host.start().grpc_address == address
    again = Client(address)
    assert before <= {vm.spec.uid for vm in again.list()} <= before | {gone}


def test_without_a_state_file_nothing_is_kept(own: Callable[..., FakeProcess]) -> None:
    host = own(state_file="")
    Client(host.grpc_address).create(spec())
    host.kill()
    assert host.start().stats()["microvms"] == []


def run(*arguments: str) -> tuple[int, list[str]]:
    done = ZYGOTE.run(*arguments, module="billet.fake")
    return done.returncode, done.stderr.splitlines()


def test_a_port_that_is_taken_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, lines = run("--insecure", f"--grpc-endpoint=127.0.0.1:{taken.getsockname()[1]}")
    assert (code, len(lines)) == (1, 1)
    assert "Address already in use" in lines[0]
    assert "--grpc-endpoint" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--tls-cert=/nowhere.crt", "--tls-key=/nowhere.key"], "/nowhere.crt"),
        ([], "--insecure"),
        (["--insecure", "--tls-cert=x"], "--insecure"),
        (["--insecure", "--flintlock-version=new"], "0.11.0"),
        (["--insecure", "--grpc-endpoint=9090"], "host:port"),
        (["--insecure", "--state=/nowhere/x.db"], "/nowhere/x.db"),
    ],
)
def test_a_bad_setting_is_one_line_and_exit_2(arguments: list[str], word: str) -> None:
    code, lines = run("--control-endpoint=127.0.0.1:0", *arguments)  # the usual port may be taken
    assert (code, len(lines)) == (2, 1)
    assert word in lines[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_kill_9_of_the_starter_takes_the_fake_along() -> None:
    code = (
        "import time; from billet.fake.process import FakeProcess; from billet.fake.settings import FakeConfig\n"
        "print(FakeProcess(FakeConfig(grpc_endpoint='127.0.0.1:0')).start().pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        fake = psutil.Process(int(starter.stdout.readline()))
        starter.kill()
        starter.wait()
    _, alive = psutil.wait_procs([fake], timeout=60.0)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
