"""flintlockd's HTTP gateway: grpc-gateway 2.24's paths, JSON and status codes.

It turns an HTTP request into a method name and a protobuf request, passes both to `call` or `stream`, and writes the
answer as JSON. `GET /v1alpha1/microvm/{x}` is List, never Get: both have that path in Flintlock, and List wins there
too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from math import inf
from typing import Any, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from billet.core.errors import BilletError, Cancelled, Code, InvalidRequest, Unauthenticated
from billet.core.metadata import RETRY_PUSHBACK
from billet.ports import Answer
from billet.wire.flintlock import CREATE, DELETE, LIST, LIST_STREAM, with_uid
from billet.wire.pb import flintlock_pb2 as rpc

# (full method name, request, the HTTP request) -> reply; its trailing metadata become headers. A BilletError is
# answered with its code and text.
Call = Callable[[str, bytes, Request], Awaitable[Answer]]
Stream = Callable[[str, bytes, Request], AsyncIterator[bytes]]

Admit = Callable[[Request], object]  # raises BilletError for a request without the right token

M = TypeVar("M", bound=Message)
T = TypeVar("T")

LARGE_BYTES = 65_536  # of a message that is parsed or written in a thread

# Indexed by gRPC code, 0 to 16, as grpc-gateway maps them.
HTTP_STATUS = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
_ROUTING_CODES = {HTTPStatus.BAD_REQUEST: 3, HTTPStatus.NOT_FOUND: 5, HTTPStatus.METHOD_NOT_ALLOWED: 12}


def gateway_app(call: Call, stream: Stream) -> Starlette:
    """The gateway alone, as an ASGI application."""
    return application(gateway_routes(call, stream))


def application(routes: Sequence[BaseRoute]) -> Starlette:
    """An application with these routes, and grpc-gateway's answers where there is none."""
    app = Starlette(routes=routes, exception_handlers={HTTPException: routing_error})
    app.router.redirect_slashes = False  # a path with a slash at its end is another path
    return app


def gateway_routes(
    call: Call, stream: Stream, admit: Admit = lambda http: None, body_bytes: float = inf
) -> list[BaseRoute]:
    """The gateway's routes, for an application with other routes.

    `admit` decides whether a body is read at all; above `body_bytes` it is refused.
    """
    read = partial(_read, admit, body_bytes)

    async def unary(http: Request, method: str, request: bytes, reply: type[Message]) -> Response:
        try:
            return await _written(await call(method, request, http), reply)
        except BilletError as error:
            return error_response(error)

    async def create(http: Request) -> Response:
        try:
            request = await read(http, create_request)
        except BilletError as error:
            return error_response(error)
        return await unary(http, CREATE, request, rpc.CreateMicroVMResponse)

    async def delete(http: Request) -> Response:
        request = with_uid(http.path_params.get("uid", ""))
        return await unary(http, DELETE, request, Empty)

    async def list_vms(http: Request) -> Response:
        request = list_request(http.path_params.get("namespace", ""), http.query_params.get("name"))
        return await unary(http, LIST, request, rpc.ListMicroVMsResponse)

    async def list_stream(http: Request) -> Response:
        try:
            request = await read(http, stream_request)
        except BilletError as error:
            return _stream_error(error) if isinstance(error, Unauthenticated) else error_response(error)
        return await stream_response(stream(LIST_STREAM, request, http))

    return [
        Route("/v1alpha1/microvm", create, methods=["POST"]),
        Route("/v1alpha1/microvm/", delete, methods=["DELETE"]),  # an empty uid
        Route("/v1alpha1/microvm/", list_vms, methods=["GET"]),  # an empty namespace: all
        Route("/v1alpha1/microvm/{uid}", delete, methods=["DELETE"]),
        Route("/v1alpha1/microvm/{namespace}", list_vms, methods=["GET"]),
        Route(LIST_STREAM, list_stream, methods=["POST"]),
    ]


async def _read(admit: Admit, body_bytes: float, http: Request, parse: Callable[[bytes], bytes]) -> bytes:
    """The protobuf request for a request's body. Raises BilletError; without the right to call, nothing is read.

    What is above the limit, up to twice of it, is thrown away as it comes, since some clients read no answer before
    they have sent all.
    """
    admit(http)
    too_large = HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if int(http.headers.get("content-length", 0)) > 2 * body_bytes:  # h11 lets only digits pass
        raise too_large
    body, size = bytearray(), 0
    try:
        async for part in http.stream():
            size += len(part)
            if size > 2 * body_bytes:
                raise too_large
            if size <= body_bytes:
                body += part
    except ClientDisconnect:
        raise Cancelled("the client has left") from None
    if size > body_bytes:
        raise too_large
    return await _aside(size, lambda: parse(bytes(body)))


async def _written(answer: Answer, reply: type[Message]) -> Response:
    """The HTTP response for a reply."""
    own = {key: str(value) for key, value in answer.trailers if key.startswith("x-billet-")}
    payload = answer.payload
    return await _aside(len(payload), lambda: JSONResponse(to_json(reply.FromString(payload)), headers=own))


async def _aside(size: int, work: Callable[[], T]) -> T:
    """Do the work for a message of `size` bytes: of a large one in a thread, because it would block all auctions."""
    return await asyncio.to_thread(work) if size > LARGE_BYTES else work()


def create_request(body: bytes) -> bytes:
    """The request for a body, which is the spec itself. An empty body is an empty spec, as in flintlockd."""
    request = rpc.CreateMicroVMRequest()
    request.microvm.SetInParent()
    parse_json(request.microvm, body)
    return request.SerializeToString()


def stream_request(body: bytes) -> bytes:
    """The request for the body of a ListMicroVMsStream."""
    return parse_json(rpc.ListMicroVMsRequest(), body).SerializeToString()


def list_request(namespace: str, name: str | None) -> bytes:
    """A ListMicroVMsRequest: the namespace comes from the path, the name from the query."""
    return rpc.ListMicroVMsRequest(namespace=namespace, name=name).SerializeToString()


def parse_json(into: M, body: bytes) -> M:
    """Parse protobuf JSON and drop unknown fields. Raises InvalidRequest."""
    if not body.strip():
        return into
    try:
        return json_format.Parse(body, into, ignore_unknown_fields=True)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON for this call: {error}") from error


def to_json(message: Message) -> dict[str, Any]:
    """A message as Go's protojson writes it with EmitUnpopulated.

    That is: camelCase, zeros and empty lists included, null for a message that is not set, and unset `optional`
    fields omitted.
    """
    document = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    _write_nulls(message, document)
    return document


def _write_nulls(message: Message, document: dict[str, Any]) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            continue
        value = getattr(message, field.name)
        if field.message_type.GetOptions().map_entry:
            for key in value:
                _descend(value[key], document[field.json_name][str(key)])
        elif field.is_repeated:
            for item, written in zip(value, document[field.json_name], strict=True):
                _descend(item, written)
        elif message.HasField(field.name):
            _descend(value, document[field.json_name])
        elif field.containing_oneof is None:  # an `optional` field is in a oneof of its own
            document[field.json_name] = None


def _descend(value: object, written: object) -> None:
    # Google's own types (Timestamp, Any) have their own JSON form and stay as they are.
    if isinstance(value, Message) and not value.DESCRIPTOR.full_name.startswith("google.protobuf."):
        _write_nulls(value, cast(dict[str, Any], written))


def error_response(error: BilletError) -> JSONResponse:
    """An error as grpc-gateway writes it."""
    code, text = status_of(error)
    headers = {"WWW-Authenticate": text} if code == Code.UNAUTHENTICATED else _retry_after(error)
    return JSONResponse(_status(code, text), HTTP_STATUS[code], headers)


def _retry_after(error: BilletError) -> dict[str, str]:
    """When to try again, in whole seconds."""
    pause = str(dict(error.trailers).get(RETRY_PUSHBACK, ""))
    return {"Retry-After": str(-(-int(pause) // 1000))} if pause.isdecimal() else {}


def status_of(error: BilletError) -> tuple[int, str]:
    """The gRPC code and text by which a client sees this error."""
    return error.status, error.text


async def routing_error(_: Request, error: Exception) -> Response:
    """The answer to an unknown path or a wrong verb, as grpc-gateway writes it: 501 for a wrong verb."""
    http = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    if http == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return JSONResponse(_status(Code.RESOURCE_EXHAUSTED, "the body is too large"), http)
    code = _ROUTING_CODES.get(HTTPStatus(http), Code.INTERNAL)
    return JSONResponse(_status(code, HTTPStatus(http).phrase), HTTP_STATUS[code])


def _status(code: int, text: str) -> dict[str, Any]:
    return {"code": int(code), "message": text, "details": []}


async def stream_response(replies: AsyncIterator[bytes]) -> Response:
    """The HTTP response for a stream of replies: one JSON object on each line."""
    # The first message decides the HTTP status; a later error can only be one more line.
    try:
        first = await anext(replies, None)
    except BilletError as error:
        return _stream_error(error)
    return StreamingResponse(_lines(first, replies), media_type="application/json")


def _stream_error(error: BilletError) -> Response:
    return Response(_error_line(error), HTTP_STATUS[status_of(error)[0]], media_type="application/json")


async def _lines(first: bytes | None, replies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        if first is not None:
            yield _result_line(first)
        async for reply in replies:
            yield _result_line(reply)
    except BilletError as error:
        yield _error_line(error)


def _result_line(reply: bytes) -> bytes:
    return json.dumps({"result": to_json(rpc.ListMessage.FromString(reply))}).encode() + b"\n"


def _error_line(error: BilletError) -> bytes:
    return json.dumps({"error": _status(*status_of(error))}).encode() + b"\n"
