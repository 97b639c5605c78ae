"""The HTTP side: Flintlock's gateway, and a line for load balancers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from billet.core.errors import BilletError, Unauthenticated
from billet.ports import Backend
from billet.wire.auth import check_basic
from billet.wire.gateway import gateway_routes, routing_error

FOREVER_S = 1e6


def http_app(backend: Callable[[], Backend], token: str) -> Starlette:
    """The application. `backend` says who answers at this moment; a token, when there is one, is asked as on gRPC."""

    def metadata(authorization: str | None) -> dict[str, str]:
        problem = check_basic(authorization, token) if token else None
        if problem:
            raise Unauthenticated(problem)
        return {"authorization": authorization} if authorization else {}

    async def call(method: str, request: bytes, authorization: str | None) -> bytes:
        known = metadata(authorization)
        return (await backend().unary(method, request, FOREVER_S, known)).payload

    async def stream(method: str, request: bytes, authorization: str | None) -> AsyncIterator[bytes]:
        known = metadata(authorization)
        async for reply in backend().stream(method, _once(request), None, known):
            yield reply

    async def health(http: Request) -> PlainTextResponse:
        try:
            backend()
        except BilletError as error:
            return PlainTextResponse(error.text + "\n", status_code=503)
        return PlainTextResponse("ok\n")

    routes = [Route("/healthz", health), *gateway_routes(call, stream)]
    return Starlette(routes=routes, exception_handlers={HTTPException: routing_error})


async def _once(request: bytes) -> AsyncIterator[bytes]:
    yield request
