"""GET /api/v1/capacity: Fleet.Capacity over HTTP, with the same rights."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from google.protobuf.json_format import MessageToDict
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from billet.api import fleet_service as fleet
from billet.core.constraints import PREFIX
from billet.core.errors import BilletError, InvalidRequest
from billet.ports import Answer
from billet.wire.gateway import error_response
from billet.wire.pb import fleet_pb2 as pb
from billet.wire.pb import flintlock_types_pb2 as types

PATH = "/api/v1/capacity"
NUMBERS = {"vcpu": 1 << 20, "memory_mib": 1 << 30, "disk_mib": 1 << 30, "count": 1 << 30}  # and their maximum
TEXTS = frozenset({"namespace", "provider", "zone", "label"})

Call = Callable[[str, bytes, Request], Awaitable[Answer]]


def capacity_route(call: Call) -> Route:
    """The route. `call` makes a call to this server under the name of the HTTP client."""

    async def answer(http: Request) -> Response:
        try:
            found = await call(fleet.CAPACITY, request_of(http.query_params).SerializeToString(), http)
        except BilletError as error:
            return error_response(error)
        return JSONResponse(_json(pb.CapacityReply.FromString(found.payload)))

    return Route(PATH, answer, methods=["GET"])


def _json(reply: pb.CapacityReply) -> object:
    """The reply with the names of fleet.proto; protobuf's JSON would write the amounts as text."""
    written = MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return written | {"demand": {key: int(amount) for key, amount in written["demand"].items()}}


def request_of(query: QueryParams) -> pb.CapacityRequest:
    """The request for a query. Raises InvalidRequest for what is unknown or no number."""
    unknown = sorted(set(query) - TEXTS - set(NUMBERS))
    if unknown:
        known = ", ".join([*NUMBERS, *sorted(TEXTS)])
        raise InvalidRequest(f"there is no parameter {unknown[0][:40]!r}; there are {known}")
    numbers = {name: _number(name, query[name]) for name in NUMBERS if name in query}
    spec = types.MicroVMSpec(
        vcpu=numbers.get("vcpu", 0), memory_in_mb=numbers.get("memory_mib", 0),
        namespace=query.get("namespace", ""), provider=query.get("provider", ""),
    )  # fmt: skip
    spec.root_volume.size_in_mb = numbers.get("disk_mib", 0)
    for text in query.getlist("label"):
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise InvalidRequest(f"label={text[:40]!r} is not KEY=VALUE")
        spec.labels[key] = value
    if zone := query.get("zone"):
        spec.labels[f"{PREFIX}zone"] = zone
    return pb.CapacityRequest(microvm=spec, count=numbers.get("count", 0))


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= NUMBERS[name]):
        raise InvalidRequest(f"{name}={text[:40]!r} is not a whole number from 0 to {NUMBERS[name]}")
    return int(text)
