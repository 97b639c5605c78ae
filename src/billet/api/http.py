"""The HTTP side: Flintlock's gateway, a line for load balancers, and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from billet.api.front import Front
from billet.api.metrics import EXPOSITION
from billet.core.errors import Unauthenticated
from billet.wire.auth import check_basic
from billet.wire.gateway import gateway_routes, routing_error

FOREVER_S = 1e6


def http_app(front: Front, token: str, metrics: Callable[[], bytes]) -> Starlette:
    """The application, in front of the same as gRPC's; a token, when there is one, is asked as there."""

    def metadata(authorization: str | None) -> dict[str, str]:
        problem = check_basic(authorization, token) if token else None
        if problem:
            raise Unauthenticated(problem)
        return {"authorization": authorization} if authorization else {}

    async def call(method: str, request: bytes, authorization: str | None) -> bytes:
        known = metadata(authorization)
        return (await front.unary(method, request, FOREVER_S, known)).payload

    async def stream(method: str, request: bytes, authorization: str | None) -> AsyncIterator[bytes]:
        known = metadata(authorization)
        async for reply in front.stream(method, _once(request), None, known):
            yield reply

    async def health(http: Request) -> PlainTextResponse:
        if not front.serving:
            return PlainTextResponse("no server leads at the moment\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def measured(http: Request) -> Response:
        try:
            metadata(http.headers.get("authorization"))
        except Unauthenticated as error:
            return PlainTextResponse(f"{error.text}\n", status_code=401)
        return Response(metrics(), media_type=EXPOSITION)

    routes = [Route("/healthz", health), Route("/metrics", measured), *gateway_routes(call, stream)]
    return Starlette(routes=routes, exception_handlers={HTTPException: routing_error})


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request
