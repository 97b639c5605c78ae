"""A gRPC server: it listens, and counts its connections. Its handlers get and give bytes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog

from billet.grpc.interface import Routes
from billet.grpc.limits import Limits
from billet.grpc.server_connection import ServerConnection
from billet.log_throttle import LogThrottle
from billet.wire.tls import TlsSettings, server_ssl

log = structlog.get_logger()


class Server:
    """interface.Server: it listens, and counts its connections."""

    def __init__(self, routes: Routes, limits: Limits | None = None) -> None:
        self.routes = routes
        self.limits = limits or Limits()
        self.connections: set[ServerConnection] = set()
        self._per_address: dict[str, int] = {}
        self._throttle = LogThrottle()
        self._listener: asyncio.Server | None = None
        self.stopping = self._stopped = False
        self._all_left = asyncio.Event()
        self._all_left.set()

    async def listen(self, host: str, port: int, tls: TlsSettings) -> int:
        """See interface.Server."""
        secure: dict[str, Any] = {}
        if context := server_ssl(tls):
            context.set_alpn_protocols(["h2"])
            secure = {"ssl": context, "ssl_handshake_timeout": self.limits.handshake_s or None}
        listener = await asyncio.get_running_loop().create_server(
            lambda: ServerConnection(self), host or None, port, backlog=4096, **secure
        )
        ports = {int(listening.getsockname()[1]) for listening in listener.sockets}
        if len(ports) > 1:  # any free port was asked for, of a host with several addresses: take the same on each
            listener.close()
            return await self.listen(host, min(ports), tls)
        self._listener = listener
        return ports.pop()

    def entered(self, connection: ServerConnection, address: str) -> bool:
        """A client has connected; False: it must leave."""
        limits = self.limits
        if self._stopped:
            return False
        count = self._per_address.get(address, 0) + 1
        self.connections.add(connection)
        self._per_address[address] = count
        self._all_left.clear()
        if limits.connections and len(self.connections) > limits.connections:
            self._refuse(address, f"there are {limits.connections} connections already")
            return False
        if limits.connections_per_address and count > limits.connections_per_address:
            self._refuse(address, f"there are {limits.connections_per_address} connections from this address already")
            return False
        return True

    def left(self, connection: ServerConnection, address: str) -> None:
        """A client's connection has ended."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        if not self.connections:
            self._all_left.set()

    def _refuse(self, address: str, why: str) -> None:
        """Log that a connection was refused: once, and then at most once a minute."""
        if self._throttle.should_log(address, why, asyncio.get_running_loop().time()):
            log.warning("refused a connection", address=address, reason=why)

    def stop_listening(self) -> None:
        """Free the port. Connections go on."""
        if self._listener:
            self._listener.close()

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
