"""A host's name belongs to one machine, and one flintlockd to one host, with real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from billet.adapters.identity import KeyIdentity
from billet.api import fleet_service as fleet
from billet.core.model import Host, Resources
from billet.demo.processes import ChildProcess
from billet.fake.process import FakeProcess
from billet.fake.settings import FakeConfig
from billet.link.hello import put_hello, sign
from billet.wire.pb import fleet_pb2
from billet.wire.pb import link_pb2 as pb
from tests.cluster.clients import Clients, billet, eventually, numbered, uids_on_hosts
from tests.cluster.conftest import Start
from tests.harness import LINK_TOKEN, Cluster
from tests.zygote import ZYGOTE

ROOM = Resources(8, 16384, 100_000, 10)


def start_agent(cluster: Cluster, name: str, *flags: str, state: str = "other") -> ChildProcess:
    """One more agent, with the settings of the first host's but for these flags and a state folder of its own."""
    base = cluster.agent_arguments(0)
    return cluster.processes.billet(
        f"agent-{name}", "agent", *base, "--state", str(cluster.folder / state), *flags
    )  # fmt: skip


def log_of(process: ChildProcess) -> str:
    return process.log.read_text()


def said(process: ChildProcess, text: str) -> Callable[[], bool]:
    return lambda: text in log_of(process)


async def agents(clients: Clients) -> list[fleet_pb2.AgentView]:
    return list(fleet_pb2.HostsReply.FromString(await clients.call(fleet.HOSTS, b"")).agents)


async def change(clients: Clients, host: str, verb: fleet_pb2.HostVerb.ValueType) -> fleet_pb2.ChangeHostReply:
    request = fleet_pb2.ChangeHostRequest(host=host, verb=verb).SerializeToString()
    return fleet_pb2.ChangeHostReply.FromString(await clients.call(fleet.CHANGE_HOST, request))


async def state_of(clients: Clients, host: str) -> str:
    hosts = await clients.hosts()
    return fleet_pb2.HostState.Name(hosts[host].state) if host in hosts else ""


def is_ready(clients: Clients, host: str) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await state_of(clients, host) == "READY"

    return ready


async def never_gone(clients: Clients, uids: list[str], seconds: float) -> None:
    """Get these microVMs for a while: each is there, or its host cannot be reached; none is gone."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        said = await asyncio.gather(*(clients.get(uid) for uid in uids), return_exceptions=True)
        errors = [error for error in said if isinstance(error, grpc.aio.AioRpcError)]
        assert {error.code() for error in errors} <= {grpc.StatusCode.UNAVAILABLE}, errors
        await asyncio.sleep(0.1)


@contextmanager
def twin_of(cluster: Cluster) -> Iterator[FakeProcess]:
    """Another machine's flintlockd, without microVMs."""
    fake = FakeProcess(FakeConfig(grpc_endpoint="127.0.0.1:0", boot_mean_s=0.0, pull_mean_s=0.0), ZYGOTE.spawn)
    fake.start()
    try:
        yield fake
    finally:
        fake.kill()


async def test_a_twin_never_takes_over_a_name(start: Start) -> None:
    """A second machine has the name of a host, whose agent is restarted; its microVMs are at no time gone."""
    cluster, clients = await start(1)
    uids = [await clients.create(name) for name in numbered("vm", 2)]
    with twin_of(cluster) as fake:
        twin = start_agent(cluster, "twin", "--flintlock", fake.grpc_address)
        await eventually(said(twin, "is bound to key"))
        assert "billet host rebind h0" in log_of(twin)
        (refused,) = await agents(clients)
        assert (refused.host, refused.state) == ("h0", fleet_pb2.REFUSED)
        assert "billet host rebind h0" in refused.why
        await asyncio.to_thread(cluster.agent[0].kill)
        await never_gone(clients, uids, 3.0)
        await asyncio.to_thread(cluster.restart_agent, 0)
        await never_gone(clients, uids, 1.0)
        await eventually(is_ready(clients, "h0"))
        assert [(await clients.get(uid)).spec.uid for uid in uids] == uids
        assert sorted(uids_on_hosts(cluster)) == sorted(uids)


async def has_another_key(clients: Clients, old_key: str) -> bool:
    return (await clients.hosts())["h0"].key not in ("", old_key)


async def test_a_new_machine_gets_an_old_name_by_rebind(start: Start) -> None:
    """The name outlasts the machine: an operator binds it to the new one, and the old one is refused from then on."""
    cluster, clients = await start(1)
    with twin_of(cluster) as fake:
        twin = start_agent(cluster, "twin", "--flintlock", fake.grpc_address)
        await eventually(said(twin, "is bound to key"))
        assert (await change(clients, "h0", fleet_pb2.REBIND)).host.connected  # the old one keeps the name
        await asyncio.sleep(3.0)
        assert "joined leader" not in log_of(twin)
        old_key = (await clients.hosts())["h0"].key
        await asyncio.to_thread(cluster.agent[0].kill)
        await eventually(lambda: _is_away(clients))
        await change(clients, "h0", fleet_pb2.REBIND)
        await asyncio.to_thread(twin.ready, 60)
        await eventually(is_ready(clients, "h0"))
        await eventually(lambda: has_another_key(clients, old_key))  # READY was said of the old record until then
        cluster.agent[0] = cluster.launch_agent(0)
        await eventually(said(cluster.agent[0], "is bound to key"))


async def _is_away(clients: Clients) -> bool:
    return await state_of(clients, "h0") == "AWAY"


async def test_one_machine_runs_one_agent_of_a_name(start: Start) -> None:
    cluster, _ = await start(1)
    second = start_agent(cluster, "second", state="agents")
    assert await asyncio.to_thread(second.popen.wait) == 2
    assert "an agent of host 'h0' runs on this machine already" in log_of(second)


async def test_two_agents_beside_one_flintlockd_are_one_host(start: Start) -> None:
    """The second is refused, at once and also when the first was away meanwhile; no room is sold twice."""
    cluster, clients = await start(1, vcpu=8)
    second = start_agent(cluster, "second", "--id", "h0-b")
    await eventually(said(second, "have the same flintlockd"))
    assert [(agent.host, agent.state) for agent in await agents(clients)] == [("h0-b", fleet_pb2.REFUSED)]
    crowd = await clients.crowd(numbered("vm", 12), at_once=4)
    assert len(crowd.uids) == len(uids_on_hosts(cluster)) == 8
    await asyncio.to_thread(cluster.agent[0].kill)
    await eventually(said(second, "shows microVM"))
    await asyncio.to_thread(cluster.restart_agent, 0)
    await eventually(is_ready(clients, "h0"))
    assert await state_of(clients, "h0-b") in ("", "AWAY")
    assert sorted([(await clients.get(uid)).spec.uid for uid in crowd.uids.values()]) == sorted(crowd.uids.values())


async def test_what_a_second_name_was_given_goes_back_to_the_host_whose_flintlockd_it_is(start: Start) -> None:
    """The second agent joins while the first is away, and is given microVMs before the first is back."""
    cluster, clients = await start(1, vcpu=8)
    await asyncio.to_thread(cluster.agent[0].kill)
    second = start_agent(cluster, "second", "--id", "h0-b")
    await eventually(is_ready(clients, "h0-b"))
    crowd = await clients.crowd(numbered("vm", 3), at_once=3)
    first = cluster.launch_agent(0)
    await eventually(said(first, "have the same flintlockd"))
    await asyncio.to_thread(second.kill)
    await eventually(said(first, "shows microVM"))
    refused = await billet(cluster, "host", "remove", "h0-b")
    assert "h0 shows them too. If both names mean one machine, give --to h0" in refused.stderr
    removed = await billet(cluster, "host", "remove", "h0-b", "--to", "h0")
    assert removed.stdout == "h0-b is no longer part of the fleet. Its microVMs are h0's.\n"
    await eventually(is_ready(clients, "h0"))
    assert set(await clients.hosts()) == {"h0"}
    assert sorted([(await clients.get(uid)).spec.uid for uid in crowd.uids.values()]) == sorted(crowd.uids.values())
    for uid in crowd.uids.values():
        await clients.delete(uid)
    await eventually(lambda: not uids_on_hosts(cluster))


async def test_a_new_host_waits_until_it_is_admitted(start: Start) -> None:
    cluster, clients = await start(0, server_flags=("--join", "approve"))
    with twin_of(cluster) as fake:
        cluster.plans, cluster.fakes = _plan_of_one(cluster), [fake]
        agent = cluster.launch_agent(0)
        await eventually(said(agent, "waits for an operator"))
        (waiting,) = await agents(clients)
        assert (waiting.host, waiting.state) == ("h0", fleet_pb2.PENDING)
        assert await clients.hosts() == {}
        reply = await change(clients, "h0", fleet_pb2.ADMIT)
        assert reply.host.key == waiting.key
        await asyncio.to_thread(agent.ready, 60)
        await eventually(is_ready(clients, "h0"))
        assert await agents(clients) == []
        await asyncio.to_thread(agent.kill)
        await asyncio.to_thread(cluster.server[0].stop)
        await asyncio.to_thread(cluster.restart_server)
        again = cluster.launch_agent(0)  # it was admitted for good
        await asyncio.to_thread(again.ready, 60)


def _plan_of_one(cluster: Cluster) -> Any:
    from tests.harness import plans

    return plans(1, cluster.folder)


class Liar(WSListener):
    """A program that has the link token only. It says what it likes."""

    def __init__(self, *hellos: pb.Hello, identity: KeyIdentity | None = None) -> None:
        self.goodbye = ""
        self.welcomed = self.closed = False
        self._hellos = hellos
        self._identity = identity

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.BINARY:
            return
        down = pb.Down.FromString(frame.get_payload_as_bytes())
        self.goodbye = down.goodbye.why or self.goodbye
        self.welcomed = self.welcomed or down.HasField("welcome")
        if down.HasField("challenge"):
            for hello in self._hellos:
                if self._identity:
                    sign(hello, self._identity, down.challenge.nonce)
                transport.send(WSMsgType.BINARY, pb.Up(hello=hello).SerializeToString())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed = True


async def dial(cluster: Cluster, liar: Liar) -> WSTransport:
    transport, _ = await ws_connect(
        lambda: liar,
        f"ws://127.0.0.1:{cluster.ports[0][2]}/agent?host=x",
        extra_headers={"Authorization": f"Bearer {LINK_TOKEN}"},
    )
    return transport


@pytest.mark.parametrize("store", ["sqlite", "etcd"])
async def test_a_lying_term_deposes_nobody(start: Start, store: str) -> None:
    """One hello with a huge term: the leader goes on, and the next term is the next number."""
    cluster, clients = await start(2, store)
    for term in (10**9, 2**62, 2**63 - 1, 2**64 - 1):
        liar = Liar(put_hello(Host(f"evil-{term}", ROOM, ROOM), "x", "x", term))
        transport = await dial(cluster, liar)
        await asyncio.sleep(0.3)
        await clients.create(f"vm-{term}")
        assert (liar.goodbye != "") == (term > 2**61)
        transport.disconnect()
    assert "lost leadership" not in log_of(cluster.server[0])
    await asyncio.to_thread(cluster.server[0].stop)
    await asyncio.to_thread(cluster.restart_server)
    await clients.create("later")
    terms = [word for word in log_of(cluster.server[0]).split() if word.startswith("term=")]
    assert all(int(word.removeprefix("term=")) < 10**6 for word in terms)


async def test_one_connection_says_hello_for_one_agent(start: Start) -> None:
    """Else the other names would stay taken after the connection has closed, and their agents be refused."""
    cluster, clients = await start(1)
    liar = Liar(*(put_hello(Host(name, ROOM, ROOM), "x", "x", 0) for name in ("new-1", "new-2")))
    await dial(cluster, liar)
    await eventually(lambda: liar.closed)
    assert "one connection says hello for one agent only" in liar.goodbye
    assert "new-2" not in await clients.hosts()
    with twin_of(cluster) as fake:
        second = start_agent(cluster, "new-2", "--id", "new-2", "--flintlock", fake.grpc_address)
        await asyncio.to_thread(second.ready, 60)


async def test_an_agent_without_a_key_joins_until_its_name_is_bound(start: Start) -> None:
    cluster, clients = await start(1)
    host = Host("old", ROOM, ROOM)
    keyless = Liar(put_hello(host, "0.0", "first", 0))
    transport = await dial(cluster, keyless)
    await eventually(lambda: keyless.welcomed)
    transport.disconnect()
    await eventually(lambda: keyless.closed)
    upgraded = Liar(put_hello(host, "0.1", "second", 0), identity=KeyIdentity.of_seed(bytes(32), "m", "b"))
    transport = await dial(cluster, upgraded)
    await eventually(lambda: upgraded.welcomed)

    async def bound() -> bool:
        return bool((await clients.hosts())["old"].key)

    await eventually(bound)
    transport.disconnect()
    await eventually(lambda: upgraded.closed)
    downgraded = Liar(put_hello(host, "0.0", "third", 0))
    await dial(cluster, downgraded)
    await eventually(lambda: downgraded.closed)
    assert "this agent shows no key" in downgraded.goodbye


async def test_a_copied_identity_is_noticed_when_both_speak(start: Start) -> None:
    """Neither replaces the other: the one that is connected stays, and only its boot is let in, until a rebind."""
    cluster, clients = await start(1)
    host = Host("image", ROOM, ROOM)

    def machine(boot: str, instance: str) -> Liar:
        return Liar(put_hello(host, "x", instance, 0), identity=KeyIdentity.of_seed(bytes(32), "m", boot))

    first, copy = machine("boot-1", "a"), machine("boot-2", "b")
    transport = await dial(cluster, first)
    await eventually(lambda: first.welcomed)
    await dial(cluster, copy)
    await eventually(lambda: copy.closed)

    async def noticed() -> bool:
        return (await clients.hosts())["image"].duplicate

    await eventually(noticed)
    transport.disconnect()
    await eventually(lambda: first.closed)
    for boot, let_in in (("boot-2", False), ("boot-1", True)):
        again = machine(boot, f"again {boot}")
        transport = await dial(cluster, again)
        await eventually(lambda again=again: again.closed or again.welcomed)
        assert again.welcomed == let_in, again.goodbye
        assert let_in or "was copied" in again.goodbye
    assert not (await change(clients, "image", fleet_pb2.REBIND)).host.duplicate
