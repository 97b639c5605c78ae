"""GET /api/v1/events: the events as server-sent events (SSE), with the rights of Fleet/Events."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from math import isfinite

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from billet.api import fleet_service as fleet
from billet.core.errors import BilletError, InvalidRequest, Unreachable
from billet.ports import Answer
from billet.wire.gateway import error_response
from billet.wire.pb import fleet_pb2 as pb

PATH = "/api/v1/events"
WAIT_S = 10.0  # after which a client without news gets a sign of life
RETRY_S = 1.0
DAY_S = 86_400.0

Call = Callable[[str, bytes, Request], Awaitable[Answer]]


def event_route(call: Call) -> Route:
    """The route. `call` makes a call to this server under the name of the HTTP client."""

    async def events(http: Request) -> Response:
        try:
            request, follow = _request(http), http.query_params.get("follow", "true") != "false"
            first = await _page(call, request, http)
        except BilletError as error:
            return error_response(error)
        return StreamingResponse(_told(call, request, first, http, follow), media_type="text/event-stream",
                                 headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})  # fmt: skip

    return Route(PATH, events, methods=["GET"])


def _request(http: Request) -> pb.EventsRequest:
    """The request for a query. Raises InvalidRequest."""
    query = http.query_params
    try:
        last_s = float(query.get("last_s", DAY_S))
    except ValueError:
        last_s = -1.0
    if not (isfinite(last_s) and last_s >= 0):
        raise InvalidRequest(f"last_s={query['last_s'][:40]!r} is not a number of seconds")
    return pb.EventsRequest(
        after=http.headers.get("last-event-id", query.get("after", "")),
        since_s=time.time() - last_s,
        types=[kind for text in query.getlist("type") for kind in text.split(",") if kind],
        host=query.get("host", ""),
        microvm=query.get("microvm", ""),
    )


async def _page(call: Call, request: pb.EventsRequest, http: Request) -> pb.EventsReply:
    return pb.EventsReply.FromString((await call(fleet.EVENTS, request.SerializeToString(), http)).payload)


async def _told(
    call: Call, request: pb.EventsRequest, first: pb.EventsReply, http: Request, follow: bool
) -> AsyncIterator[bytes]:
    """The events of a page, then the next page. Each page ends with the id by which a client may go on after it."""
    reply = first
    while True:
        for event in reply.event_json:
            yield b"event: %s\ndata: %s\n\n" % (json.loads(event)["type"].encode(), event)
        yield b"id: %s\n: \n\n" % reply.next.encode()
        request.after, request.wait_s = reply.next, 0.0 if reply.more else WAIT_S
        if not (follow or reply.more):
            return
        while True:
            try:
                reply = await _page(call, request, http)
                break
            except Unreachable as error:  # no server leads
                yield b": %s\n\n" % error.text.encode()
                await asyncio.sleep(RETRY_S)
            except BilletError as error:
                yield b"event: error\ndata: %s\n\n" % json.dumps({"text": error.text}).encode()
                return
