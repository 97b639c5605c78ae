"""What clients see of an overload, over gRPC and HTTP, on the leader and on another server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from billet.adapters.forward import LeaderForward
from billet.api.grpc_server import GrpcServer
from billet.api.http import http_app
from billet.api.http_server import HttpServer
from billet.api.leader_proxy import PASSED_ON, LeaderProxy
from billet.core.errors import Overloaded
from billet.core.fair_queue import DEFAULT_BOUNDS
from billet.core.metadata import RETRY_PUSHBACK
from billet.ports import Answer, Backend, Leader
from billet.wire import flintlock as wire
from billet.wire.tls import TlsSettings
from tests.api.callers import callers
from tests.cluster.clients import create_request

PLAIN = TlsSettings(insecure=True)
WITHIN_S = 60.0


class Full:
    """A leader that is overloaded."""

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        raise Overloaded("too much at once; nothing was created", 1234)


def proxied(backend: object) -> LeaderProxy:
    proxy = LeaderProxy(lambda request, metadata: "token", hold_s=60.0)
    proxy.route(backend, leads=True)  # type: ignore[arg-type]  # it has no streams
    return proxy


@asynccontextmanager
async def serving(backend: Backend) -> AsyncIterator[str]:
    server = GrpcServer(backend, callers(), lambda shown: shown == "secret")
    port = await server.listen("127.0.0.1:0", PLAIN)
    yield f"127.0.0.1:{port}"
    await server.stop(0.0)


@pytest.mark.parametrize("through", ["leader", "follower"])
async def test_grpc_clients_get_unavailable_with_the_reason_and_when_to_try_again(through: str) -> None:
    """Broken on purpose (trailers named grpc-… are dropped between servers): no hint through a follower."""
    async with serving(proxied(Full())) as leader:
        forward = LeaderForward(Leader("l", leader, ""), PLAIN, "", (("x-billet-forwarded", "secret"),))
        async with serving(proxied(forward)) as follower:
            address = leader if through == "leader" else follower
            async with grpc.aio.insecure_channel(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(wire.CREATE)(create_request("vm"), timeout=WITHIN_S)
        await forward.close()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "too much at once; nothing was created; try again in 1.2 s"
    assert (RETRY_PUSHBACK, "1234") in list(caught.value.trailing_metadata() or ())


async def test_http_clients_get_503_and_when_to_try_again_in_whole_seconds() -> None:
    """Broken on purpose (rounded down): they come back too early."""
    server = HttpServer(http_app(proxied(Full()), callers(), lambda: b""), PLAIN)
    port = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1alpha1/microvm HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    async with asyncio.timeout(WITHIN_S):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
    writer.close()
    await server.close()
    assert head.startswith(b"http/1.1 503")
    assert b"\r\nretry-after: 2\r\n" in head


class Holding:
    """A leader that holds creates until it is told to answer, and answers reads at once."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.go_on = asyncio.Semaphore(0)

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        if method == wire.CREATE:
            self.held.append(wire.namespace_of(request))
            await self.go_on.acquire()
        return Answer(b"")


async def test_a_follower_passes_on_a_bounded_number_of_creates_in_fair_order_and_reads_at_once() -> None:
    """Broken on purpose (all are passed on): they fill the connection to the leader, and a Get waits behind them."""
    leader = Holding()
    proxy = proxied(leader)

    def create(namespace: str) -> asyncio.Task[Answer]:
        request = create_request("vm").replace(b"ns", namespace.encode())
        assert wire.namespace_of(request) == namespace
        return asyncio.create_task(proxy.unary(wire.CREATE, request, WITHIN_S, {}))

    calls = [create("xx") for _ in range(PASSED_ON + 100)]
    await asyncio.sleep(0.01)
    calls.append(create("yy"))
    await asyncio.sleep(0.01)
    assert leader.held == ["xx"] * PASSED_ON
    await proxy.unary(wire.GET, wire.with_uid("U1"), WITHIN_S, {})
    for _ in range(2):
        leader.go_on.release()
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.01)
    assert leader.held[PASSED_ON:] == ["xx", "yy"]
    for _ in range(len(calls)):
        leader.go_on.release()
    await asyncio.gather(*calls)


async def test_creates_that_wait_for_a_leader_have_a_bound_in_bytes_and_other_namespaces_a_share_of_it() -> None:
    """Broken on purpose (only what the leader holds is counted): a server without a leader takes all that comes."""
    proxy = LeaderProxy(lambda request, metadata: "token", 60.0, DEFAULT_BOUNDS._replace(held_bytes=16 << 20))
    large = create_request("vm") + wire.field(15, b"x" * (3 << 20))
    calls = [asyncio.create_task(proxy.unary(wire.CREATE, large, WITHIN_S, {})) for _ in range(20)]
    await asyncio.sleep(0.01)
    refused = [task.exception() for task in calls if task.done()]
    assert {type(error) for error in refused} == {Overloaded}
    assert len(calls) - len(refused) == 3
    other = asyncio.create_task(proxy.unary(wire.CREATE, create_request("vm").replace(b"ns", b"yy"), WITHIN_S, {}))
    await asyncio.sleep(0.01)
    assert not other.done()
    proxy.route(Holding())  # type: ignore[arg-type]  # it has no streams
    for task in (*calls, other):
        task.cancel()
    await asyncio.gather(*calls, other, return_exceptions=True)
    assert proxy.slots.queue.held_bytes == 0
