"""A gRPC server: it listens, and knows its connections. Its handlers get and give bytes."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from billet.accepting import Acceptor, ConnectionLimits, bind
from billet.core.shares import Shares
from billet.core.turns import Turns
from billet.grpc.interface import Routes
from billet.grpc.limits import Limits
from billet.grpc.server_call import ServerCall
from billet.grpc.server_connection import ServerConnection
from billet.wire.tls import TlsSettings, server_ssl


class Server:
    """interface.Server: it listens, and knows its connections."""

    def __init__(self, routes: Routes, limits: Limits | None = None) -> None:
        self.routes = routes
        self.limits = limits or Limits()
        self.held: Shares[ServerConnection] = Shares(self.limits.held_in_all_bytes)
        self.turns: Turns[str, ServerCall] = Turns(self.limits.large_in_all_bytes)
        self.connections: set[ServerConnection] = set()
        self._acceptor: Acceptor | None = None
        self.stopping = self._stopped = False
        self._all_left = asyncio.Event()
        self._all_left.set()

    async def listen(self, host: str, port: int, tls: TlsSettings) -> int:
        """See interface.Server."""
        context = server_ssl(tls, "h2")
        limits = self.limits
        sockets = await bind(host, port, ConnectionLimits(limits.connections, limits.connections_per_address))
        self._acceptor = Acceptor(sockets, lambda: ServerConnection(self), context, limits.handshake_s or 60.0)
        bound: int = sockets[0].getsockname()[1]
        return bound

    def entered(self, connection: ServerConnection) -> bool:
        """A client has connected; False: it must leave."""
        if self._stopped:
            return False
        self.connections.add(connection)
        self._all_left.clear()
        return True

    def left(self, connection: ServerConnection) -> None:
        """A client's connection has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._all_left.set()

    def stop_listening(self) -> None:
        """Free the port. Connections go on."""
        if self._acceptor:
            self._acceptor.close()

    async def stop(self, grace_s: float) -> None:
        """Accept no more; let the calls that arrived finish within `grace_s`; fail the rest with UNAVAILABLE."""
        self.stopping = True
        self.stop_listening()
        for connection in tuple(self.connections):
            connection.go_away()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._all_left.wait()
        for connection in tuple(self.connections):
            connection.stop()
        self._stopped = True
        for _ in range(2):  # what was written goes out
            await asyncio.sleep(0)
        for connection in tuple(self.connections):
            connection.transport.abort()
