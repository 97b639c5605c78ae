"""grpc-go's interop TestService, in bytes, on whichever engine Billet's gRPC layer has."""

from __future__ import annotations

import asyncio
import sys

from billet.grpc.interface import Routes, ServerCall
from billet.grpc.status import RpcError
from tests.interop.toolchain import PY

sys.path.append(str(PY))

import interop_pb2 as pb  # generated when the tests are built

SERVICE = "/grpc.testing.TestService/"
ECHO_INITIAL, ECHO_TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
Value = str | bytes


async def empty_call(request: bytes, call: ServerCall) -> bytes:
    return b""


async def unary_call(request: bytes, call: ServerCall) -> bytes:
    asked = pb.SimpleRequest.FromString(request)
    _echo(call)
    _refuse(asked.response_status)
    return pb.SimpleResponse(payload=pb.Payload(body=bytes(asked.response_size))).SerializeToString()


async def streaming_output_call(call: ServerCall) -> None:
    while (request := await call.read()) is not None:
        await _answer(pb.StreamingOutputCallRequest.FromString(request), call)


async def streaming_input_call(call: ServerCall) -> None:
    total = 0
    while (message := await call.read()) is not None:
        total += len(pb.StreamingInputCallRequest.FromString(message).payload.body)
    await call.write(pb.StreamingInputCallResponse(aggregated_payload_size=total).SerializeToString())


async def full_duplex_call(call: ServerCall) -> None:
    _echo(call)
    while (request := await call.read()) is not None:
        asked = pb.StreamingOutputCallRequest.FromString(request)
        _refuse(asked.response_status)
        await _answer(asked, call)


ROUTES = Routes(
    unary={f"{SERVICE}EmptyCall": empty_call, f"{SERVICE}UnaryCall": unary_call},
    streams={
        f"{SERVICE}StreamingOutputCall": streaming_output_call,
        f"{SERVICE}StreamingInputCall": streaming_input_call,
        f"{SERVICE}FullDuplexCall": full_duplex_call,
    },
)


def _echo(call: ServerCall) -> None:
    given = dict(call.metadata)
    if ECHO_TRAILING in given:
        call.trailers = ((ECHO_TRAILING, given[ECHO_TRAILING]),)
    if ECHO_INITIAL in given:
        call.start([(ECHO_INITIAL, given[ECHO_INITIAL])])


async def _answer(asked: pb.StreamingOutputCallRequest, call: ServerCall) -> None:
    for wanted in asked.response_parameters:
        await asyncio.sleep(wanted.interval_us / 1e6)
        payload = pb.Payload(body=bytes(wanted.size))
        await call.write(pb.StreamingOutputCallResponse(payload=payload).SerializeToString())


def _refuse(status: pb.EchoStatus) -> None:
    if status.code:
        raise RpcError(status.code, status.message)
