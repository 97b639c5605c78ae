"""The client of the command line blocks, and has its event loop in a thread: with either implementation of gRPC."""

from __future__ import annotations

import asyncio

import pytest

from billet.client import FLEET, Address, Client
from billet.grpc.engine import GRPCIO, OWN, VARIABLE
from billet.grpc.interface import Routes, ServerCall
from billet.grpc.server import Server
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
