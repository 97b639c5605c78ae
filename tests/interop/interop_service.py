"""grpc-go's interop TestService on any engine: what each method answers, in bytes, without a word of the engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from tests.interop.toolchain import PY

sys.path.append(str(PY))

import interop_pb2 as pb  # generated when the tests are built

SERVICE = "/grpc.testing.TestService/"
ECHO_INITIAL, ECHO_TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
Value = str | bytes


class Refused(Exception):
    """The call's status, other than OK."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


class Call(Protocol):
    """What the engine offers of one call."""

    metadata: Mapping[str, Value]

    async def send_headers(self, metadata: Sequence[tuple[str, Value]]) -> None: ...

    def set_trailers(self, metadata: Sequence[tuple[str, Value]]) -> None: ...

    def messages(self) -> AsyncIterator[bytes]:
        """The client's messages until it half-closes. Raises when the call is cancelled."""

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the client does not read."""


async def empty_call(request: bytes, call: Call) -> bytes:
    return b""


async def unary_call(request: bytes, call: Call) -> bytes:
    asked = pb.SimpleRequest.FromString(request)
    await _echo(call)
    _refuse(asked.response_status)
    return pb.SimpleResponse(payload=pb.Payload(body=bytes(asked.response_size))).SerializeToString()


async def streaming_output_call(call: Call) -> None:
    async for request in call.messages():
        await _answer(pb.StreamingOutputCallRequest.FromString(request), call)


async def streaming_input_call(call: Call) -> None:
    total = 0
    async for message in call.messages():
        total += len(pb.StreamingInputCallRequest.FromString(message).payload.body)
    await call.send(pb.StreamingInputCallResponse(aggregated_payload_size=total).SerializeToString())


async def full_duplex_call(call: Call) -> None:
    await _echo(call)
    async for request in call.messages():
        asked = pb.StreamingOutputCallRequest.FromString(request)
        _refuse(asked.response_status)
        await _answer(asked, call)


UNARY: dict[str, Callable[[bytes, Call], Awaitable[bytes]]] = {
    f"{SERVICE}EmptyCall": empty_call,
    f"{SERVICE}UnaryCall": unary_call,
}
STREAMS: dict[str, Callable[[Call], Awaitable[None]]] = {
    f"{SERVICE}StreamingOutputCall": streaming_output_call,
    f"{SERVICE}StreamingInputCall": streaming_input_call,
    f"{SERVICE}FullDuplexCall": full_duplex_call,
}


async def _echo(call: Call) -> None:
    if ECHO_TRAILING in call.metadata:
        call.set_trailers([(ECHO_TRAILING, call.metadata[ECHO_TRAILING])])
    if ECHO_INITIAL in call.metadata:
        await call.send_headers([(ECHO_INITIAL, call.metadata[ECHO_INITIAL])])


async def _answer(asked: pb.StreamingOutputCallRequest, call: Call) -> None:
    for wanted in asked.response_parameters:
        await asyncio.sleep(wanted.interval_us / 1e6)
        payload = pb.Payload(body=bytes(wanted.size))
        await call.send(pb.StreamingOutputCallResponse(payload=payload).SerializeToString())


def _refuse(status: pb.EchoStatus) -> None:
    if status.code:
        raise Refused(status.code, status.message)
