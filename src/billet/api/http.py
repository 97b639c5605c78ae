"""The HTTP server: Flintlock's gateway, /healthz for load balancers, and /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from billet.api.leader_proxy import LeaderProxy
from billet.api.metrics import EXPOSITION
from billet.core.errors import Unauthenticated
from billet.grpc.limits import MIB
from billet.ports import Answer
from billet.wire.auth import check_basic
from billet.wire.gateway import application, gateway_routes
from billet.wire.headers import INTERNAL
from billet.wire.secret import Secret

FOREVER_S = 1e6
BODY_BYTES = 4 * MIB  # of a request; as gRPC messages


def http_app(proxy: LeaderProxy, token: str, metrics: Callable[[], bytes]) -> Starlette:
    """The application. Calls go to the same leader proxy as gRPC calls; `token`, unless "", is required likewise."""

    secret = Secret(token)

    def metadata(headers: Mapping[str, str]) -> dict[str, str]:
        problem = check_basic(headers.get("authorization"), *secret.lines)
        if problem:
            raise Unauthenticated(problem)
        return {key: value for key, value in headers.items() if is_metadata(key)}

    async def call(method: str, request: bytes, headers: Mapping[str, str]) -> Answer:
        return await proxy.unary(method, request, FOREVER_S, metadata(headers))

    async def stream(method: str, request: bytes, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        async for reply in proxy.stream(method, _once(request), None, metadata(headers)):
            yield reply

    async def health(http: Request) -> PlainTextResponse:
        if not proxy.serving:
            return PlainTextResponse("no server is leading\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def exposition(http: Request) -> Response:
        try:
            metadata(http.headers)
        except Unauthenticated as error:
            return PlainTextResponse(f"{error.text}\n", status_code=401)
        # In a thread: the medians of a large fleet take a second, which would block all auctions.
        return Response(await asyncio.to_thread(metrics), media_type=EXPOSITION)

    routes = [
        Route("/healthz", health),
        Route("/metrics", exposition),
        *gateway_routes(call, stream, metadata, BODY_BYTES),
    ]
    return application(routes)


def is_metadata(header: str) -> bool:
    """Whether a client's header is passed on as metadata: Billet's own headers except those reserved for servers."""
    return header == "authorization" or (header.startswith("x-billet-") and header not in INTERNAL)


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request
