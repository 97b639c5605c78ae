"""The HTTP port: the gateway's application, served by uvicorn on the server's own event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl

import uvicorn
from starlette.applications import Starlette

from billet.wire.tls import TlsSettings


class HttpServer:
    """One listening HTTP port."""

    def __init__(self, app: Starlette, tls: TlsSettings) -> None:
        self._app = app
        self._tls = tls
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Bind and begin to serve; returns the port. Raises OSError when the port cannot be bound."""
        settings = self._settings(host, port)
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host or "0.0.0.0", port))
        except OSError:
            listener.close()
            raise
        self._server = uvicorn.Server(settings)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # until_stopped handles them
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        bound: int = listener.getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop serving at once."""
        if self._server and self._serving:
            self._server.should_exit = True
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)

    def _settings(self, host: str, port: int) -> uvicorn.Config:
        tls = self._tls
        settings = uvicorn.Config(
            self._app,
            host=host or "0.0.0.0",
            port=port,
            log_level="error",
            lifespan="off",
            ssl_certfile=tls.cert or None,
            ssl_keyfile=tls.key or None,
            ssl_ca_certs=tls.client_ca or None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls.client_validate else ssl.CERT_NONE,
        )
        settings.load()
        if settings.ssl:
            settings.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        return settings
