"""A server and clients that speak for both sides of a call: Billet's own, and grpc.aio's to compare with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Container
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from billet.core.errors import Code
from billet.grpc.client import CLIENT_LIMITS, Channel
from billet.grpc.dial import Address
from billet.grpc.interface import Routes
from billet.grpc.limits import Limits
from billet.grpc.server import Server
from billet.grpc.status import RpcError
from billet.wire.tls import TlsSettings

ECHO, FAIL, WAIT, MIRROR, COUNT, EARLY, ASK = (
    "/t.T/Echo", "/t.T/Fail", "/t.T/Wait", "/t.T/Mirror", "/t.T/Count", "/t.T/Early", "/t.T/Ask",
)  # fmt: skip
INSECURE = TlsSettings(insecure=True)
BOUND_S = 30.0  # how long a test waits for what should happen at once


class TestService:
    """Handlers for the tests, and what they have seen."""

    __test__ = False

    def __init__(self) -> None:
        self.cancelled = asyncio.Queue[str]()
        self.waiting = asyncio.Queue[str]()
        self.release = asyncio.Event()
        self.seen: list[bytes | None] = []
        self.certificates: list[object] = []
        self.routes = Routes(
            unary={ECHO: self.echo, FAIL: self.fail, WAIT: self.wait, ASK: self.ask},
            streams={MIRROR: self.mirror, COUNT: self.count, EARLY: self.early},
        )

    async def echo(self, request: bytes, call: Any) -> bytes:
        call.start((("x-head", "h"), ("x-head-bin", b"\0\xff")))
        call.trailers = call.metadata
        tls = call.transport.get_extra_info("ssl_object")
        self.certificates.append(tls.getpeercert() if tls else None)
        return request

    async def fail(self, request: bytes, call: Any) -> bytes:
        raise RpcError(
            int(request), "no: ünï, 100 %\n\t", (("grpc-status-details-bin", b"\x01\x02"), ("x-why", "so"))
        )

    async def wait(self, request: bytes, call: Any) -> bytes:
        self.waiting.put_nowait("wait")
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.put_nowait("wait")
            raise
        return request

    async def ask(self, request: bytes, call: Any) -> bytes:
        return b"%.1f" % (call.time_left_s() or -1)

    async def mirror(self, call: Any) -> None:
        self.waiting.put_nowait("mirror")
        try:
            while (message := await call.read()) is not None:
                self.seen.append(message)
                await call.write(message)
            self.seen.append(None)
        except (asyncio.CancelledError, RpcError):
            self.cancelled.put_nowait("mirror")
            raise

    async def count(self, call: Any) -> None:
        """Send messages of the size that was asked for, without end."""
        size = int(await call.read() or b"1")
        for number in range(1 << 30):
            await call.write(b"x" * size)
            self.seen.append(b"%d" % number)

    async def early(self, call: Any) -> None:
        """End while the client still sends."""
        await call.read()
        raise RpcError(Code.FAILED_PRECONDITION, "enough")


@asynccontextmanager
async def serving(
    limits: Limits | None = None, tls: TlsSettings = INSECURE, small: Container[str] = ()
) -> AsyncIterator[tuple[TestService, Server, int]]:
    """A server of ours on a free port."""
    service = TestService()
    server = Server(replace(service.routes, small=small), limits)
    port = await server.listen("127.0.0.1", 0, tls)
    try:
        yield service, server, port
    finally:
        await server.stop(0)


@asynccontextmanager
async def connected(port: int, limits: Limits = CLIENT_LIMITS, **address: object) -> AsyncIterator[Channel]:
    """A channel of ours."""
    channel = Channel(Address("127.0.0.1", port, **address), limits)  # type: ignore[arg-type]
    try:
        yield channel
    finally:
        await channel.close()


async def until(done: object, bound_s: float = BOUND_S) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(bound_s):
        while not done():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def grpcio_channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of grpc.aio."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


class GrpcioHandlers(grpc.GenericRpcHandler):
    """The same methods on grpc.aio's server, as far as the tests of our client need them."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Queue[str]()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:  # type: ignore[type-arg]
        match details.method:
            case "/t.T/Echo":
                return grpc.unary_unary_rpc_method_handler(self._echo)
            case "/t.T/Fail":
                return grpc.unary_unary_rpc_method_handler(self._fail)
            case "/t.T/Wait":
                return grpc.unary_unary_rpc_method_handler(self._wait)
            case "/t.T/Mirror":
                return grpc.stream_stream_rpc_method_handler(self._mirror)
        return None

    async def _echo(self, request: bytes, context) -> bytes:  # type: ignore[no-untyped-def]
        await context.send_initial_metadata((("x-head", "h"), ("x-head-bin", b"\0\xff")))
        given = ((k, v) for k, v in context.invocation_metadata() if k.startswith("x-"))
        context.set_trailing_metadata(tuple(given))
        return request

    async def _fail(self, request: bytes, context) -> bytes:  # type: ignore[no-untyped-def]
        code = next(code for code in grpc.StatusCode if code.value[0] == int(request))
        trailers = (("grpc-status-details-bin", b"\x01\x02"), ("x-why", "so"))
        await context.abort(code, "no: ünï, 100 %\n\t", trailers)
        return b""

    async def _wait(self, request: bytes, context) -> bytes:  # type: ignore[no-untyped-def]
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.put_nowait("wait")
            raise
        return b""

    async def _mirror(self, requests, context):  # type: ignore[no-untyped-def]
        async for request in requests:
            yield request


@asynccontextmanager
async def grpcio_serving() -> AsyncIterator[tuple[GrpcioHandlers, int]]:
    """grpc.aio's server on a free port."""
    handlers = GrpcioHandlers()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((handlers,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handlers, port
    finally:
        await server.stop(None)
