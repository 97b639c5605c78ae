"""A gRPC client: calls of bytes to one address, over one connection at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from importlib.metadata import version

from billet.core.errors import Code
from billet.grpc import metadata as md
from billet.grpc.client_connection import ClientCall, ClientConnection, NotSeen
from billet.grpc.dial import Address, dial
from billet.grpc.http2 import NO_ERROR
from billet.grpc.interface import Response
from billet.grpc.limits import MIB, Limits
from billet.grpc.metadata import Metadata
from billet.grpc.status import RpcError

CLIENT_LIMITS = Limits(
    idle_s=0, stalled_s=0, held_bytes=0, resets_per_s=0, control_frames_per_s=5_000, message_bytes=0, window_bytes=MIB
)
BACKOFF_S = (0.1, 1.0)  # pause after a failed connect: the first, and the longest
CONNECT_S = 20.0
ATTEMPTS = 5  # connections on which a call is tried that no server has seen
USER_AGENT = f"grpc-python-billet/{version('billet')}".encode()


class Channel:
    """interface.Channel: one connection, shared by all calls."""

    def __init__(self, address: Address, limits: Limits = CLIENT_LIMITS) -> None:
        self._address = address
        self._context = address.context()
        self._limits = limits
        self._pseudo = [
            (b":method", b"POST"),
            (b":scheme", b"https" if address.tls else b"http"),
            (b":authority", address.authority.encode()),
        ]
        self._head = [
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", USER_AGENT),
            (b"grpc-accept-encoding", b"identity,gzip"),
        ]
        self._connection: ClientConnection | None = None
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._failures = 0
        self._retry_at_s = 0.0
        self._last_error = RpcError(Code.UNAVAILABLE, unsent=True)
        self._closed = False

    async def ready(self, timeout_s: float) -> bool:
        """Wait for a connection; False means that a call now would certainly not be sent."""
        if self.usable():
            return True
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._closed:
                    await asyncio.sleep(max(0.0, self._retry_at_s - loop.time()))
                    with suppress(RpcError):
                        await self._connected()
                        return True
        except TimeoutError:
            pass
        return False

    async def unary(
        self, method: str, request: bytes, timeout_s: float | None = None, metadata: Metadata = ()
    ) -> Response:
        """Make a unary call. Raises RpcError. Cancelling it cancels the call."""
        until_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        for left in reversed(range(ATTEMPTS)):
            try:
                return await self._unary_once(method, request, until_s, metadata)
            except NotSeen:
                if not left:
                    raise
        raise AssertionError

    async def _unary_once(self, method: str, request: bytes, until_s: float | None, metadata: Metadata) -> Response:
        call = await self._begin(method, until_s, metadata)
        call.send_only(request)
        try:
            error = await call.done
        except asyncio.CancelledError:
            call.cancel()
            raise
        if error:
            raise error
        reply = call.only()
        if reply is None:
            raise RpcError(Code.INTERNAL, "the server has sent no message, or more than one")
        return Response(reply, call.headers, call.trailers)

    async def stream(self, method: str, timeout_s: float | None = None, metadata: Metadata = ()) -> ClientCall:
        """Begin a call with any number of messages each way. Raises RpcError."""
        until_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        return await self._begin(method, until_s, metadata)

    async def close(self) -> None:
        """Cancel all calls and close the connection."""
        self._closed = True
        if self._connecting:
            self._connecting.cancel()
        if self._connection:
            for call in list(self._connection.calls.values()):
                call.cancel()
            self._connection.give_up("the channel is closed", NO_ERROR)
        self._connection = None

    def _lost(self, connection: ClientConnection) -> None:
        """A connection takes no further calls."""
        if self._connection is connection:
            self._connection = None

    def usable(self) -> ClientConnection | None:
        """The connection on which calls may begin now, if there is one."""
        connection = self._connection
        return connection if connection and connection.usable else None

    async def _begin(self, method: str, until_s: float | None, metadata: Metadata) -> ClientCall:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(until_s):
                call = None
                while call is None:
                    connection = self.usable() or await self._connected()
                    call = await connection.begin(self._headers(method, until_s, metadata))
        except TimeoutError:
            raise RpcError(
                Code.DEADLINE_EXCEEDED, "deadline exceeded before the call was sent", unsent=True
            ) from None
        except md.Malformed as error:
            raise RpcError(Code.INTERNAL, str(error), unsent=True) from None
        if until_s is not None:
            late = RpcError(Code.DEADLINE_EXCEEDED, "deadline exceeded")
            call.deadline = loop.call_at(until_s, connection.failed, call, late)
        return call

    def _headers(self, method: str, until_s: float | None, metadata: Metadata) -> list[tuple[bytes, bytes]]:
        head = [*self._pseudo, (b":path", method.encode()), *self._head]
        if metadata:
            head += md.encode(metadata)
        if until_s is not None:
            left_s = until_s - asyncio.get_running_loop().time()
            head.append((b"grpc-timeout", md.encode_timeout(left_s)))
        return head

    async def _connected(self) -> ClientConnection:
        """A connection: the one there is, or a new one. Callers share one attempt. Raises RpcError."""
        if self._closed:
            raise RpcError(Code.CANCELLED, "the channel is closed", unsent=True)
        if connection := self.usable():
            return connection
        loop = asyncio.get_running_loop()
        if not self._connecting and loop.time() < self._retry_at_s:
            last = self._last_error
            raise RpcError(Code.UNAVAILABLE, last.text, unsent=True) from last.__cause__
        if not self._connecting:
            self._connecting = loop.create_task(self._connect())
            self._connecting.add_done_callback(self._connect_ended)
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            if self._closed:
                raise RpcError(Code.CANCELLED, "the channel is closed", unsent=True) from None
            raise

    async def _connect(self) -> ClientConnection:
        try:
            async with asyncio.timeout(CONNECT_S):
                new = partial(ClientConnection, self._limits, self._lost)
                connection = await dial(self._address, self._context.value if self._context else None, new)
                try:
                    await connection.ready
                except BaseException:
                    connection.transport.abort()
                    raise
                if not connection.usable:
                    raise ConnectionError("the server goes away")
        except (OSError, TimeoutError, UnicodeError) as error:
            text = f"no answer within {CONNECT_S:g} s" if isinstance(error, TimeoutError) else str(error)
            raise RpcError(
                Code.UNAVAILABLE, f"cannot connect to {self._address.authority}: {text}", unsent=True
            ) from error
        self._connection = connection
        return connection

    def _connect_ended(self, attempt: asyncio.Task[ClientConnection]) -> None:
        self._connecting = None
        error = None if attempt.cancelled() else attempt.exception()
        if error is None:
            self._failures = 0
            return
        first_s, longest_s = BACKOFF_S
        self._retry_at_s = asyncio.get_running_loop().time() + min(longest_s, first_s * 2**self._failures)
        self._failures += 1
        self._last_error = error if isinstance(error, RpcError) else RpcError(Code.UNAVAILABLE, str(error))
