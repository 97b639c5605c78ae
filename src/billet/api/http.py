"""The HTTP server: Flintlock's gateway, events, /healthz and /readyz for load balancers, /metrics and /version."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from billet.api.authentication import UNREAD, Authenticator
from billet.api.capacity_http import capacity_route
from billet.api.event_stream import event_route
from billet.api.grpc_server import Refused
from billet.api.http_connection import CERTIFICATE
from billet.api.metrics import EXPOSITION
from billet.core.errors import BilletError, Unreachable
from billet.grpc.limits import MIB
from billet.ports import Answer, Backend
from billet.wire.gateway import HTTP_STATUS, application, gateway_routes
from billet.wire.headers import FROM, IDENTITY, INTERNAL

log = structlog.get_logger()

FOREVER_S = 1e6
BODY_BYTES = 4 * MIB  # of a request; as gRPC messages


class Front(Backend, Protocol):
    """Where calls go: a LeaderProxy, or what stands before it."""

    @property
    def serving(self) -> bool:
        """Whether calls are answered now."""


def http_app(
    proxy: Front,
    callers: Authenticator,
    metrics: Callable[[], bytes],
    refused: Refused = lambda method, address, code: None,
    unready: Callable[[], str] = lambda: "",
    version: str = "",
) -> Starlette:
    """The application. Calls go to the same leader proxy as gRPC calls, under the names that `callers` finds.

    `refused` hears of requests that were not let in. `unready` says why this server should get no requests now, "" =
    it should. `version` is Billet's.
    """

    def identity(http: Request) -> str:
        try:
            return callers.identify(http.headers.get("authorization"), getattr(http.state, CERTIFICATE, ()))
        except BilletError as error:
            refused(http.scope["path"], address_of(http), error.status)
            raise

    def metadata(http: Request) -> dict[str, str]:
        own = {IDENTITY: identity(http), FROM: address_of(http)}
        return {key: value for key, value in http.headers.items() if is_metadata(key)} | own

    async def call(method: str, request: bytes, http: Request) -> Answer:
        return await proxy.unary(method, request, FOREVER_S, metadata(http))

    async def stream(method: str, request: bytes, http: Request) -> AsyncIterator[bytes]:
        async for reply in proxy.stream(method, _once(request), None, metadata(http)):
            yield reply

    pages = _pages(proxy, identity, metrics, unready, version)
    return application(
        [*pages, event_route(call), capacity_route(call), *gateway_routes(call, stream, identity, BODY_BYTES)]
    )


def _pages(
    proxy: Front,
    identity: Callable[[Request], str],
    metrics: Callable[[], bytes],
    unready: Callable[[], str],
    version: str,
) -> list[Route]:
    """What is not Flintlock's."""

    async def health(http: Request) -> PlainTextResponse:
        if not proxy.serving:
            return PlainTextResponse("no server is leading\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def ready(http: Request) -> PlainTextResponse:
        why = unready() or ("" if proxy.serving else "no server is leading")
        return PlainTextResponse(f"{why}\n", status_code=503) if why else PlainTextResponse("ok\n")

    async def which_version() -> Response:
        return JSONResponse({"version": version})

    async def exposition() -> Response:
        # In a thread: the medians of a large fleet take a second, which would block all auctions.
        try:
            return Response(await asyncio.to_thread(metrics), media_type=EXPOSITION)
        except Exception:
            log.exception("metrics not computed")
            raise

    return [
        Route("/healthz", health),
        Route("/readyz", ready),
        Route("/version", _for_viewers(identity, which_version)),
        Route("/metrics", _for_viewers(identity, exposition)),
    ]


def _for_viewers(
    identity: Callable[[Request], str], page: Callable[[], Awaitable[Response]]
) -> Callable[[Request], Awaitable[Response]]:
    """A page that every role may see."""

    async def shown(http: Request) -> Response:
        try:
            if identity(http) == UNREAD:
                raise Unreachable("this server has not read the credentials from the store yet; try again")
        except BilletError as error:
            return PlainTextResponse(f"{error.text}\n", status_code=HTTP_STATUS[error.status])
        return await page()

    return shown


def is_metadata(header: str) -> bool:
    """Whether a client's header is passed on as metadata: Billet's own headers except those reserved for servers."""
    return header == "authorization" or (header.startswith("x-billet-") and header not in INTERNAL)


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request


def address_of(http: Request) -> str:
    """The client's address, "ip:port"."""
    return f"{http.client.host}:{http.client.port}" if http.client else ""
