"""An ASGI application on a port, inside a process that has its own event loop and its own signals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


class PortTaken(Exception):
    """The address is not available. The text is one line: what failed, why, and how to fix it."""


class HttpListener:
    """An HTTP server. Port 0: a free port; `address` has the actual "host:port"."""

    def __init__(self, app: ASGIApp, endpoint: str, flag: str) -> None:
        host = endpoint.rpartition(":")[0]
        self._socket = _bind(endpoint, flag)
        self._socket.setblocking(False)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._server = _Quiet(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none"))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and return when it answers."""
        self._task = asyncio.create_task(self._server.serve([self._socket]), name=f"http {self.address}")
        while not (self._server.started or self._task.done()):  # noqa: ASYNC110  # uvicorn has no event for it
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stop at once, even during a request."""
        self._server.should_exit = self._server.force_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Quiet(uvicorn.Server):
    """A server that installs no signal handlers."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def check_free(endpoint: str, flag: str) -> None:
    """Raise PortTaken if the address is taken. gRPC itself would not report the reason."""
    _bind(endpoint, flag).close()


def _bind(endpoint: str, flag: str) -> socket.socket:
    host, _, port = endpoint.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen()
    except OSError as error:
        why = error.strerror or str(error)
        raise PortTaken(
            f"cannot listen on {endpoint} ({why}): stop the program that listens there, or change {flag}"
        ) from error
    return bound
