"""One call, as a gRPC server's handlers see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from billet.core.errors import Code
from billet.grpc import metadata as md
from billet.grpc.interface import Pairs, UnaryHandler
from billet.grpc.metadata import Headers, Metadata
from billet.grpc.status import RpcError
from billet.grpc.stream import Stream
from billet.wire.certificate_names import names_of_peer

if TYPE_CHECKING:
    from billet.grpc.server_connection import ServerConnection

HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


class ServerCall(Stream):
    """interface.ServerCall."""

    __slots__ = (
        "_metadata",
        "_until_s",
        "connection",
        "handler",
        "has_turn",
        "identity",
        "large_bytes",
        "method",
        "started",
        "task",
        "trailers",
        "turn_timer",
    )  # fmt: skip

    def __init__(self, connection: ServerConnection, stream_id: int, method: str) -> None:
        super().__init__(connection, stream_id)
        self.connection = connection
        self._metadata: Pairs = ()
        self._until_s: float | None = None
        self.method = method
        self.handler: UnaryHandler | None = None
        self.started = False  # the reply's headers were sent
        self.task: asyncio.Task[None] | None = None
        self.trailers: Metadata = ()
        self.identity = ""
        self.large_bytes = 0  # of its request, if it needs a turn to send it
        self.has_turn = False
        self.turn_timer: asyncio.TimerHandle | None = None

    @property
    def certificate(self) -> tuple[str, ...]:
        """See interface.ServerCall."""
        return names_of_peer(self.connection.transport)

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The client's metadata."""
        return self._metadata

    @property
    def transport(self) -> asyncio.BaseTransport:
        """The connection's transport: for its addresses, and the peer's certificate."""
        transport: asyncio.BaseTransport = self.connection.transport
        return transport

    @property
    def peer(self) -> str:
        """The client's address, "ip:port"; "" if it is not known."""
        address = self.transport.get_extra_info("peername")
        return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else ""

    def time_left_s(self) -> float | None:
        """The time until the deadline; None without one."""
        return None if self._until_s is None else max(0.0, self._until_s - self.connection.loop.time())

    def admit(self, headers: Headers) -> None:
        """Take the client's metadata. Raises Malformed."""
        self._metadata = md.decode(headers)

    def may_have(self, size: int) -> bool:
        """See Stream. Requests of unary methods that are large wait for their turn."""
        if self.handler is None or size <= self.connection.limits.large_bytes:
            return True
        if not self.large_bytes:
            self.large_bytes = size
            self.connection.wait_for_turn(self)
        return self.has_turn

    def expire_in(self, seconds: float) -> None:
        """Set the deadline."""
        self._until_s = self.connection.loop.time() + seconds
        self.deadline = self.connection.loop.call_later(
            seconds, self.connection.failed, self, RpcError(Code.DEADLINE_EXCEEDED, "deadline exceeded")
        )

    def start(self, metadata: Metadata = ()) -> None:
        """Send the reply's headers, with metadata. The first write does it otherwise. Later calls have no effect."""
        if not self.started and self.open:
            head = HEAD + md.encode(metadata) if metadata else HEAD
            self.started = True
            self.connection.respond(self.id, head)

    async def write(self, message: bytes) -> None:
        """Send a message, and wait while the client reads too slowly. Raises RpcError once the call is over."""
        self.start()
        if not await self.send(message):
            raise self.error or RpcError(Code.CANCELLED, "the call is over")

    def cut(self) -> None:
        """Break the client's connection, and so all calls on it."""
        self.connection.transport.abort()
