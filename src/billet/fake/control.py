"""The control port: set faults, and read statistics. Plain HTTP and JSON, without authentication: for tests only.

    POST   /fault    {"kind": .., "method": "CreateMicroVM", "count": 1, "delay_s": 0, "text": "..", "code": 14}
    DELETE /fault    no fault stands any more; calls that hang already go on hanging. ?kind=..: those of one kind
    GET    /stats    creates accepted, microVMs with state and metadata, boots, pulls
    POST   /preload  {"image": ".."}: taken as pulled

The kinds, and what each does, are in faults.FaultKind. Those of containerd have methods and texts of their own.
`method` is the method's short name, "*" for any, reflection excepted. `count` is how many calls are hit, -1 for all
until cleared. `code` is the gRPC status of a refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from billet.core.errors import InvalidRequest
from billet.fake.faults import Fault, Faults


def control_app(faults: Faults, stats: Callable[[], dict[str, Any]], preload: Callable[[str], None]) -> Starlette:
    """The control port's four routes."""

    async def add_fault(http: Request) -> JSONResponse:
        try:
            faults.add(Fault.read(await _json(http)))
        except InvalidRequest as error:
            return JSONResponse({"error": error.text}, 400)
        return JSONResponse({})

    async def clear_faults(http: Request) -> JSONResponse:
        faults.clear(http.query_params.get("kind", ""))
        return JSONResponse({})

    async def read_stats(_: Request) -> JSONResponse:
        return JSONResponse(stats())

    async def add_image(http: Request) -> JSONResponse:
        try:
            document = await _json(http)
        except InvalidRequest as error:
            return JSONResponse({"error": error.text}, 400)
        image = document.get("image") if isinstance(document, dict) else None
        if not isinstance(image, str) or not image:
            return JSONResponse({"error": 'give {"image": ".."}'}, 400)
        preload(image)
        return JSONResponse({})

    return Starlette(
        routes=[
            Route("/fault", add_fault, methods=["POST"]),
            Route("/fault", clear_faults, methods=["DELETE"]),
            Route("/stats", read_stats, methods=["GET"]),
            Route("/preload", add_image, methods=["POST"]),
        ]
    )


async def _json(http: Request) -> object:
    try:
        return json.loads(await http.body())
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from error
