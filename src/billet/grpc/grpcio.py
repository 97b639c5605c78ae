"""The other engine: grpcio's asyncio server and client behind the same interface, for one release (docs/adr/0029)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc
import grpc.aio
import psutil

from billet.core.errors import Code
from billet.grpc.dial import Address
from billet.grpc.interface import Pairs, Response, Routes, StreamHandler, UnaryHandler
from billet.grpc.limits import Limits
from billet.grpc.metadata import Metadata
from billet.grpc.status import RpcError
from billet.wire import tls

if TYPE_CHECKING:  # at run time, grpc's classes are not generic
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

CODES = {code.value[0]: code for code in grpc.StatusCode}
BROKEN = {Code.CANCELLED, Code.INTERNAL, Code.UNAVAILABLE}
CANCEL_WITHIN_S = 0.02  # grpcio tells of a cancel within this time of the end of the client's messages
PENDING = (1 << 31) - 1
QUIET_S = 0.1  # a call that grpcio has accepted reaches its handler within this time


class AioServerCall:
    """interface.ServerCall. grpcio just ends the messages of a cancelled call; read() looks for that reason."""

    def __init__(self, method: str, context: Context, requests: AsyncIterator[bytes]) -> None:
        self.method = method
        self.trailers: Metadata = ()
        self.identity = ""
        self._context = context
        self._requests = requests
        self._head: Metadata | None = ()
        self._ended = asyncio.Event()
        context.add_done_callback(lambda _: self._ended.set())  # type: ignore[arg-type]  # its stub wants a class

    @property
    def metadata(self) -> Pairs:
        """See ServerCall."""
        return tuple(self._context.invocation_metadata() or ())

    @property
    def peer(self) -> str:
        """See ServerCall."""
        return unquote(self._context.peer().partition(":")[2])

    @property
    def certificate(self) -> tuple[str, ...]:
        """See ServerCall. grpcio does not say which kind of name an alternative one is."""
        shown: Mapping[str, Iterable[bytes]] = self._context.auth_context()
        names = [name.decode() for name in shown.get("x509_subject_alternative_name", ())]
        common = [name.decode() for name in shown.get("x509_common_name", ())]
        return tuple(sorted(names, key=lambda name: "://" not in name)) + tuple(common)

    def time_left_s(self) -> float | None:
        """See ServerCall."""
        return self._context.time_remaining()

    def start(self, metadata: Metadata = ()) -> None:
        """See ServerCall. grpcio sends headers only when awaited, so they wait for the first message."""
        self._head = metadata if self._head is not None else None

    async def send_head(self) -> None:
        """Send the headers that `start` has set."""
        head, self._head = self._head, None
        if head:
            await self._context.send_initial_metadata(tuple(head))

    async def read(self) -> bytes | None:
        """See ServerCall."""
        message = await anext(self._requests, None)
        if message is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_WITHIN_S):
                    await self._ended.wait()
            if self._ended.is_set():
                raise RpcError(Code.CANCELLED, "the client has cancelled the call")
        return message

    async def write(self, message: bytes) -> None:
        """See ServerCall."""
        await self.send_head()
        try:
            await self._context.write(message)
        except Exception as error:  # grpcio raises errors of several kinds, none of them public
            raise RpcError(Code.CANCELLED, f"the call is over: {error}") from None

    def cut(self) -> None:
        """See ServerCall. grpcio hides its sockets, but they are files of this process."""
        port = int(self._context.peer().rpartition(":")[2])
        for connection in psutil.Process().net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port and connection.fd >= 0:
                with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as duplicate:
                    duplicate.shutdown(socket.SHUT_RDWR)


class AioServer(grpc.GenericRpcHandler):
    """interface.Server."""

    def __init__(self, routes: Routes, limits: Limits) -> None:
        self._routes = routes
        options = [
            ("grpc.so_reuseport", 0),  # otherwise a second server on the same port would silently share it
            ("grpc.max_receive_message_length", limits.message_bytes or -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.header_list_bytes),
            ("grpc.absolute_max_metadata_size", limits.header_list_bytes),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_ping_strikes", 0),
            # Above so many calls that its loop has not taken up yet, grpcio cancels new ones at random.
            ("grpc.server.max_pending_requests", PENDING),
            ("grpc.server.max_pending_requests_hard_limit", PENDING),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((self,))
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def listen(self, host: str, port: int, settings: tls.TlsSettings) -> int:
        """See Server."""
        endpoint = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        credentials = tls.server_credentials(settings)
        if credentials:
            port = self._server.add_secure_port(endpoint, credentials)
        else:
            port = self._server.add_insecure_port(endpoint)
        await self._server.start()
        return port

    async def stop(self, grace_s: float) -> None:
        """See Server. Health watches never end by themselves, so it stops once all handlers have been quiet."""
        stopping = asyncio.create_task(self._server.stop(grace_s))
        quiet = asyncio.create_task(self._quiet())
        await asyncio.wait((stopping, quiet), return_when=asyncio.FIRST_COMPLETED)
        await self._server.stop(None)
        quiet.cancel()
        await stopping

    async def _quiet(self) -> None:
        """Return after QUIET_S without calls: stopping sooner would cancel calls that grpcio just accepted."""
        while True:
            await self._idle.wait()
            await asyncio.sleep(QUIET_S)
            if self._idle.is_set():
                return

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a method."""
        method = handler_call_details.method
        if unary := self._routes.unary.get(method):
            return grpc.unary_unary_rpc_method_handler(self._unary(method, unary))
        handler = self._routes.streams.get(method, self._routes.fallback)
        return grpc.stream_stream_rpc_method_handler(self._stream(method, handler))

    def _unary(self, method: str, handler: UnaryHandler) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def handle(request: bytes, context: Context) -> bytes:
            call = AioServerCall(method, context, _none())
            replies: list[bytes] = []

            async def answer() -> None:
                replies.append(await handler(request, call))
                await call.send_head()

            await self._handle(call, context, answer)
            return replies[0]

        return handle

    def _stream(
        self, method: str, handler: StreamHandler
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            call = AioServerCall(method, context, aiter(requests))
            await self._handle(call, context, lambda: handler(call))

        return handle

    async def _handle(self, call: AioServerCall, context: Context, answer: Callable[[], Awaitable[None]]) -> None:
        self._calls += 1
        self._idle.clear()
        try:
            if self._routes.admit:
                call.identity = self._routes.admit(call)
            await answer()
            if call.trailers:
                context.set_trailing_metadata(tuple(call.trailers))
        except RpcError as error:
            await context.abort(
                CODES.get(error.code, grpc.StatusCode.UNKNOWN), error.text, tuple(error.trailers or call.trailers)
            )
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()


async def _none() -> AsyncIterator[bytes]:
    return
    yield b""  # makes it a generator


class AioClientCall:
    """interface.ClientCall."""

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self._call = call
        self.headers: Pairs = ()
        self.trailers: Pairs = ()
        self._ending: asyncio.Task[None] | None = None

    async def read(self) -> bytes | None:
        """See ClientCall."""
        try:
            message = await self._call.read()
            self.headers = self.headers or tuple(await self._call.initial_metadata() or ())
            if message is not grpc.aio.EOF:
                return message  # type: ignore[return-value]
            self.trailers = tuple(await self._call.trailing_metadata() or ())
            code = await self._call.code()
        except grpc.aio.AioRpcError as error:
            self.trailers = tuple(error.trailing_metadata() or ())
            raise rpc_error(error) from None
        except asyncio.CancelledError:
            if not self._call.done():
                raise  # it is our task that is cancelled
            code = await self._call.code()
        if code is not grpc.StatusCode.OK:
            number: int = code.value[0]
            raise RpcError(number, await self._call.details() or "", self.trailers, answered=True)
        return None

    async def write(self, message: bytes) -> bool:
        """See ClientCall."""
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    def end(self) -> None:
        """See ClientCall."""

        async def done_writing() -> None:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.done_writing()

        self._ending = asyncio.create_task(done_writing())

    def cancel(self) -> None:
        """See ClientCall."""
        self._call.cancel()


class AioChannel:
    """interface.Channel."""

    def __init__(self, address: Address, limits: Limits) -> None:
        options = [
            ("grpc.max_receive_message_length", limits.message_bytes or -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", limits.header_list_bytes),
            ("grpc.absolute_max_metadata_size", limits.header_list_bytes),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.enable_http_proxy", 0),
        ]
        target = f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
        if files := address.tls:
            credentials = tls.channel_credentials(files.ca, files.cert, files.key)
            self._channel = grpc.aio.secure_channel(target, credentials, options=options)
        else:
            self._channel = grpc.aio.insecure_channel(target, options=options)

    async def ready(self, timeout_s: float) -> bool:
        """See Channel."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def unary(
        self, method: str, request: bytes, timeout_s: float | None = None, metadata: Metadata = ()
    ) -> Response:
        """See Channel."""
        caller: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        try:
            call = caller(request, timeout=timeout_s, metadata=tuple(metadata))
            payload = await call
            return Response(
                payload, tuple(await call.initial_metadata() or ()), tuple(await call.trailing_metadata() or ())
            )
        except grpc.aio.AioRpcError as error:
            raise rpc_error(error) from None
        except grpc.aio.UsageError:
            raise RpcError(Code.CANCELLED, "the channel is closed", unsent=True) from None

    async def stream(self, method: str, timeout_s: float | None = None, metadata: Metadata = ()) -> AioClientCall:
        """See Channel."""
        caller: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        try:
            return AioClientCall(caller(timeout=timeout_s, metadata=tuple(metadata)))
        except grpc.aio.UsageError:
            raise RpcError(Code.CANCELLED, "the channel is closed", unsent=True) from None

    async def close(self) -> None:
        """See Channel."""
        await self._channel.close()


def rpc_error(error: grpc.aio.AioRpcError) -> RpcError:
    """grpcio's error as ours.

    It does not say whose status it is: the codes of a broken connection are the server's only if they have trailers.
    """
    trailers = tuple(error.trailing_metadata() or ())
    code: int = error.code().value[0]
    return RpcError(code, error.details() or "", trailers, answered=bool(trailers) or code not in BROKEN)
