"""The client of the command line blocks, and has its event loop in a thread: with either implementation of gRPC."""

from __future__ import annotations

import asyncio
import socket

import pytest

from billet.client import FLEET, Address, Client
from billet.core.errors import Unreachable
from billet.demo.processes import free_port
from billet.grpc.engine import GRPCIO, OWN, VARIABLE
from billet.grpc.interface import Routes, ServerCall
from billet.grpc.server import Server
from billet.wire.headers import STALE
from billet.wire.pb.fleet_pb2 import HostsReply, HostsRequest, HostView
from tests.grpc_layer.peers import INSECURE


@pytest.mark.parametrize("engine", [OWN, GRPCIO])
async def test_a_blocking_client_calls_with_either_implementation(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose (the channel is created outside its loop): grpcio's calls fail with RuntimeError."""
    monkeypatch.setenv(VARIABLE, engine)

    async def hosts(request: bytes, call: ServerCall) -> bytes:
        return HostsReply(hosts=[HostView(id="h1")]).SerializeToString()

    def ask() -> list[str]:
        with Client(Address(f"127.0.0.1:{port}")) as client:
            return [host.id for host in client.fleet("Hosts", HostsRequest(), HostsReply).hosts]

    server = Server(Routes({f"{FLEET}Hosts": hosts}))
    port = await server.listen("127.0.0.1", 0, INSECURE)
    assert await asyncio.to_thread(ask) == ["h1"]
    await server.stop(0)


async def hosts_of_h1(request: bytes, call: ServerCall) -> bytes:
    call.trailers = ((STALE, "12.34"),)
    return HostsReply(hosts=[HostView(id="h1")]).SerializeToString()


def ask(endpoints: str) -> list[str]:
    with Client(Address(endpoints)) as client:
        return [host.id for _ in range(2) for host in client.fleet("Hosts", HostsRequest(), HostsReply).hosts]


@pytest.mark.parametrize("engine", [OWN, GRPCIO])
async def test_of_several_servers_the_first_that_answers_is_asked(
    engine: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One refuses connections; one accepts them and says nothing, as a process does that is stopped.

    Broken on purpose (only the first is tried): cannot reach it. Broken on purpose (a connection alone counts as an
    answer): the silent server is asked. Broken on purpose (nothing is said of the trailer): no line on stderr.
    """
    monkeypatch.setenv(VARIABLE, engine)
    server = Server(Routes({f"{FLEET}Hosts": hosts_of_h1}))
    port = await server.listen("127.0.0.1", 0, INSECURE)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"127.0.0.1:{free_port()}"
        endpoints = f"{dead}, 127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
        assert await asyncio.to_thread(ask, endpoints) == ["h1", "h1"]
    assert capfd.readouterr().err == "billet: no server leads; this answer is 12.3 s old (billet status)\n"
    await server.stop(0)
    others = f"{dead},127.0.0.1:{port}"
    with pytest.raises(Unreachable) as caught:
        await asyncio.to_thread(ask, others)
    nor = f"cannot reach {dead} (nor 127.0.0.1:{port}): connection refused"
    assert (nor if engine == OWN else dead) in caught.value.text  # grpcio does not say that nothing was sent
