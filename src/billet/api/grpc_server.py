"""The gRPC server for clients: Flintlock's service, Fleet, reflection and health. Passes bytes to a Backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from hmac import compare_digest
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from billet.api import fleet_service as fleet
from billet.closing import closing
from billet.core.errors import BilletError, Cancelled, HostVerdict, LeaderLost
from billet.core.metadata import ReplyMetadata
from billet.ports import Backend
from billet.wire import flintlock as wire
from billet.wire import newer, tls
from billet.wire.auth import check_basic
from billet.wire.headers import ANSWERED, FORWARDED, INTERNAL, ZONE
from billet.wire.metadata import CHANNEL_BYTES, CallMetadata
from billet.wire.pb import fleet_pb2, flintlock_pb2
from billet.wire.reflection import METHODS, reflection_handler

log = structlog.get_logger()

UNARY = frozenset(
    {
        wire.CREATE,
        wire.DELETE,
        wire.GET,
        wire.LIST,
        newer.SERVER_INFO,
        fleet.HOSTS,
        fleet.PLACEMENTS,
        fleet.EXPLAIN,
        fleet.RECORDS,
        fleet.ACCURACY,
        fleet.CHANGE_HOST,
    }
)
HEALTH = (f"/{health.SERVICE_NAME}/Check", f"/{health.SERVICE_NAME}/Watch")
CODES = {code.value[0]: code for code in grpc.StatusCode}
FOREVER_S = 1e6  # a call without a deadline
CANCEL_WITHIN_S = 0.02  # grpc.aio tells of a cancel within this time of the end of the client's messages
QUIET_S = 0.1  # a call that gRPC has accepted reaches our handler within this time

if TYPE_CHECKING:  # at run time, grpc's classes are not generic
    Context = grpc.aio.ServicerContext[Any, Any]


class GrpcServer:
    """One listening gRPC server in front of a Backend.

    `token` is the Basic token required from clients, "" = none. `proof` is the secret of servers that forward calls.
    `zone`, unless "", is the zone that creates through this address are constrained to.
    """

    def __init__(self, backend: Backend, token: str, proof: str, zone: str = "") -> None:
        self._backend = backend
        self._proof = proof
        self._zone = {ZONE: zone} if zone else {}
        self._calls = 0  # in flight, not counting health checks
        self._idle = asyncio.Event()
        self._idle.set()
        self._health = health.aio.HealthServicer()
        interceptors = [BasicAuth(token)] if token else []
        # Otherwise a second server on the same port would silently share it.
        options = [("grpc.so_reuseport", 0), ("grpc.max_metadata_size", CHANNEL_BYTES)]
        self._server = grpc.aio.server(interceptors=interceptors, options=options)
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        services = [
            flintlock_pb2.DESCRIPTOR.services_by_name["MicroVM"].full_name,
            fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name,
            health.SERVICE_NAME,
        ]
        self.reflection = reflection_handler(services)

    async def listen(self, endpoint: str, settings: tls.TlsSettings) -> int:
        """Start serving; returns the port. RuntimeError if the port is in use."""
        credentials = tls.server_credentials(settings)
        port = (
            self._server.add_secure_port(endpoint, credentials)
            if credentials
            else self._server.add_insecure_port(endpoint)
        )
        await self._server.start()
        return port

    async def serving(self, yes: bool) -> None:
        """Set the gRPC health status to SERVING or NOT_SERVING."""
        status = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", wire.SERVICE):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Reject new calls and wait up to `grace_s` for calls in flight, except for health watches."""
        stopping = asyncio.create_task(self._server.stop(grace_s))
        quiet = asyncio.create_task(self._quiet())
        await asyncio.wait((stopping, quiet), return_when=asyncio.FIRST_COMPLETED)
        await self._server.stop(None)
        quiet.cancel()
        await stopping

    async def _quiet(self) -> None:
        """Return after QUIET_S without calls: stopping sooner would cancel calls that gRPC just accepted."""
        while True:
            await self._idle.wait()
            await asyncio.sleep(QUIET_S)
            if self._idle.is_set():
                return

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def _metadata(self, context: Context) -> dict[str, str]:
        """The call's metadata. Headers reserved for servers are dropped unless the caller presents the proof."""
        pairs = tuple(context.invocation_metadata() or ())
        texts = {key: value for key, value in pairs if isinstance(value, str)}
        if not compare_digest(texts.get(FORWARDED, "").encode(), self._proof.encode()):
            texts = {key: value for key, value in texts.items() if key not in INTERNAL} | self._zone
        return CallMetadata(texts, pairs)

    async def unary(self, method: str, request: bytes, context: Context) -> bytes:
        """Handle a unary call."""
        left_s = context.time_remaining()
        try:
            with self._in_flight():
                answer = await self._backend.unary(
                    method, request, FOREVER_S if left_s is None else left_s, self._metadata(context)
                )
        except Exception as error:
            await _abort(context, method, error)
            raise
        if answer.headers:
            await context.send_initial_metadata(answer.headers)
        if answer.trailers:
            context.set_trailing_metadata(answer.trailers)
        return answer.payload

    async def stream(self, method: str, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Handle a call with any number of messages each way."""
        told, begun = ReplyMetadata(), False
        try:
            with self._in_flight():
                left_s, metadata = context.time_remaining(), self._metadata(context)
                replies = self._backend.stream(method, _until_cancelled(requests, context), left_s, metadata, told)
                async with closing(replies):
                    async for reply in replies:
                        if told.headers and not begun:
                            await context.send_initial_metadata(told.headers)
                        begun = True
                        yield reply
            if told.headers and not begun:
                await context.send_initial_metadata(told.headers)
            if told.trailers:
                context.set_trailing_metadata(told.trailers)
        except Exception as error:
            await _abort(context, method, error)
            raise


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of each method by name."""

    def __init__(self, grpc_server: GrpcServer) -> None:
        self._grpc_server = grpc_server

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method; None for health, which has its own handlers."""
        method = handler_call_details.method
        if method in UNARY:
            return grpc.unary_unary_rpc_method_handler(_unary(self._grpc_server, method))
        if method in METHODS:
            return self._grpc_server.reflection
        if method in HEALTH:
            return None
        return grpc.stream_stream_rpc_method_handler(_stream(self._grpc_server, method))


def _unary(grpc_server: GrpcServer, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def call(request: bytes, context: Context) -> bytes:
        return await grpc_server.unary(method, request, context)

    return call


def _stream(grpc_server: GrpcServer, method: str) -> Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]:
    async def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async with closing(grpc_server.stream(method, requests, context)) as replies:
            async for reply in replies:  # gRPC wants a generator function here
                yield reply

    return call


async def _until_cancelled(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    """A call's messages, as Backend.stream wants them: of grpc.aio they just end when the client cancels.

    The call itself ends a moment later.
    """
    ended = asyncio.Event()
    context.add_done_callback(lambda _: ended.set())  # type: ignore[arg-type]  # its stub wants a class
    async for request in requests:
        yield request
    with suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WITHIN_S):
            await ended.wait()
    if ended.is_set():
        raise Cancelled("the client cancelled the call")


class BasicAuth(grpc.aio.ServerInterceptor):
    """flintlockd's Basic authentication for all calls but health, which load balancers call without a token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Pass the call on, or fail it with UNAUTHENTICATED."""
        given = dict(handler_call_details.invocation_metadata or ()).get("authorization")
        problem = check_basic(given if isinstance(given, str) else None, self._token)
        if problem is None or handler_call_details.method in HEALTH:
            return await continuation(handler_call_details)

        async def refuse(request: bytes, context: Context) -> bytes:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, problem or "")
            return b""

        return grpc.unary_unary_rpc_method_handler(refuse)


async def _abort(context: Context, method: str, error: Exception) -> None:
    """End the call with the error's code and text. An unexpected error is logged; the client gets a generic text."""
    match error:
        case BilletError():
            code, text = error.status, error.text
        case grpc.aio.AbortError() | asyncio.CancelledError():
            return
        case _:
            log.exception("unexpected error", method=method)
            code, text = 13, "internal error; see the server's log"
    answered = () if isinstance(error, LeaderLost) else ((ANSWERED, "1"),)
    trailers = error.trailers if isinstance(error, HostVerdict) else ()
    await context.abort(CODES[code], text, (*trailers, *answered))
