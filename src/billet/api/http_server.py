"""The HTTP port: the gateway's application, served by uvicorn on the server's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from billet.accepting import Acceptor, ConnectionLimits, bind
from billet.api.http_connection import HttpConnection
from billet.wire.tls import TlsSettings, server_ssl

HANDSHAKE_S = 10.0  # of TLS
HEADER_BYTES = 65_536  # of a request line and headers together


class HttpServer:
    """One listening HTTP port."""

    def __init__(self, app: Starlette, tls: TlsSettings, limits: ConnectionLimits | None = None) -> None:
        self._tls = tls
        self._limits = limits or ConnectionLimits()
        self._settings = uvicorn.Config(
            app, http=HttpConnection, ws="none", lifespan="off", log_config=None, log_level="error", access_log=False,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )  # fmt: skip
        self._server = _Quiet(self._settings)
        self._acceptor: Acceptor | None = None
        self._serving: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Bind and begin to serve; returns the port. Raises OSError if the port cannot be bound, and ConfigError."""
        tls = server_ssl(self._tls)
        sockets = await bind(host, port, self._limits)
        self._serving = asyncio.create_task(self._server.serve(sockets=[]))
        self._acceptor = Acceptor(sockets, self._connection, tls, HANDSHAKE_S)
        bound: int = sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop serving at once."""
        if self._acceptor and self._serving:
            self._acceptor.close()
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
            for connection in list(self._server.server_state.connections):
                if connection.transport:
                    connection.transport.abort()

    def _connection(self) -> HttpConnection:
        return HttpConnection(self._settings, self._server.server_state, {}, asyncio.get_running_loop())


class _Quiet(uvicorn.Server):
    """A server that handles no signals: until_stopped does."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
