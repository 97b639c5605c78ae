"""What both engines offer, Billet's own (`server`, `client`) and grpcio's. The rest of Billet uses only this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from billet.core import metadata as core
from billet.core.errors import Code
from billet.grpc.metadata import Metadata
from billet.grpc.status import RpcError
from billet.wire.tls import TlsSettings

Pairs = core.Metadata  # what comes; what is sent may be any sequence of pairs


class ServerCall(Protocol):
    """One call, as its handler sees it.

    A handler is cancelled once the client has cancelled, its connection has broken or the deadline has passed; read()
    then raises RpcError. `trailers` are sent at the end of the call, with an error too if that has none of its own.
    """

    method: str
    trailers: Metadata
    identity: str  # who calls, as `Routes.admit` has found out; "" otherwise

    @property
    def metadata(self) -> Pairs:
        """The client's metadata."""

    @property
    def peer(self) -> str:
        """The client's address, "ip:port"; "" if it is not known."""

    @property
    def certificate(self) -> tuple[str, ...]:
        """The names in the client's certificate, as names_of_peer orders them; () = it has shown none."""

    def time_left_s(self) -> float | None:
        """The time until the deadline; None without one."""

    def start(self, metadata: Metadata = ()) -> None:
        """Send the reply's headers, with metadata. The first write does it otherwise. Later calls have no effect."""

    async def read(self) -> bytes | None:
        """The next message; None when the client has ended its messages. Raises RpcError if the call is over."""

    async def write(self, message: bytes) -> None:
        """Send a message, and wait while the client reads too slowly. Raises RpcError once the call is over."""

    def cut(self) -> None:
        """Break the client's connection, and so all calls on it."""


UnaryHandler = Callable[[bytes, ServerCall], Awaitable[bytes]]
StreamHandler = Callable[[ServerCall], Awaitable[None]]


async def unknown_method(call: ServerCall) -> None:
    """The answer to a method that a server does not have."""
    raise RpcError(Code.UNIMPLEMENTED, f"unknown method {call.method}")


@dataclass(frozen=True, slots=True)
class Routes:
    """A server's methods, by their paths. Handlers fail a call by raising RpcError.

    `admit` names the caller, or refuses the call by raising RpcError, before any of its data came. Unary methods in
    `small` take no large requests: strangers may call them. `fallback` handles every other method.
    """

    unary: Mapping[str, UnaryHandler] = field(default_factory=dict)
    streams: Mapping[str, StreamHandler] = field(default_factory=dict)
    fallback: StreamHandler = unknown_method
    admit: Callable[[ServerCall], str] | None = None
    small: Container[str] = ()


class Server(Protocol):
    """A gRPC server."""

    async def listen(self, host: str, port: int, tls: TlsSettings) -> int:
        """Start to serve; returns the port. Raises OSError or RuntimeError if it is taken, ConfigError."""

    async def stop(self, grace_s: float) -> None:
        """Accept no more; let the calls that arrived finish within `grace_s`; fail the rest with UNAVAILABLE."""


class Response(NamedTuple):
    """The reply to a unary call, and the metadata that came before and after it."""

    payload: bytes
    headers: Pairs
    trailers: Pairs


class ClientCall(Protocol):
    """One call, as its caller sees it."""

    @property
    def headers(self) -> Pairs:
        """The metadata that came with the first message."""

    @property
    def trailers(self) -> Pairs:
        """The metadata that came at the end."""

    async def read(self) -> bytes | None:
        """The next message; None at the end of a call that ended with OK. Raises RpcError if it failed."""

    async def write(self, message: bytes) -> bool:
        """Send a message, and wait while the server reads too slowly. False: the call is over; read() says how."""

    def end(self) -> None:
        """Send no more messages."""

    def cancel(self) -> None:
        """Give the call up; the server is told at once. No effect once it is over."""


class Channel(Protocol):
    """Calls to one address. It connects at the first call, and again after a connection is lost."""

    async def ready(self, timeout_s: float) -> bool:
        """Wait for a connection; False means that a call now would certainly not be sent."""

    async def unary(
        self, method: str, request: bytes, timeout_s: float | None = None, metadata: Metadata = ()
    ) -> Response:
        """Make a unary call. Raises RpcError. Cancelling it cancels the call."""

    async def stream(self, method: str, timeout_s: float | None = None, metadata: Metadata = ()) -> ClientCall:
        """Begin a call with any number of messages each way. Raises RpcError."""

    async def close(self) -> None:
        """Cancel all calls and close the connection."""


async def exchange(call: ClientCall, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Send the requests as they come, and yield the replies. Raises RpcError if the call failed.

    The messages are ended only when `requests` ends. If it raises, or the caller stops early, the call is cancelled,
    and the server learns that it did not get everything.
    """

    async def send() -> None:
        try:
            async for request in requests:
                if not await call.write(request):
                    return
            call.end()
        except BaseException:
            call.cancel()
            raise

    sending = asyncio.create_task(send())
    try:
        while (reply := await call.read()) is not None:
            yield reply
    finally:
        call.cancel()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
