"""Run the interop cases as a client of the engine under test: `python -m tests.interop.layer_client HOST:PORT`.

Prints {"case": NAME, "why": ""} for each; "why" has the failure. Only this file and layer_server.py know the engine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from contextlib import suppress
from typing import Any

import grpc

from tests.interop.interop_cases import CASES, Ended, Metadata
from tests.interop.layer_server import MESSAGE_BYTES, METADATA_BYTES

CASE_WITHIN_S = 30.0
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES), ("grpc.absolute_max_metadata_size", METADATA_BYTES),
]  # fmt: skip


class AioStream:
    """interop_cases.Stream on grpc.aio."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, message: bytes) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the call has ended: `ended` says how
            await self._call.write(message)

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def receive(self) -> bytes | None:
        try:
            message = await self._call.read()
        except (grpc.RpcError, asyncio.CancelledError):
            return None
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._call.cancel()

    async def ended(self) -> Ended:
        return await _ended(self._call)


class AioClient:
    """interop_cases.Client on grpc.aio."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def unary(
        self, method: str, request: bytes, metadata: Metadata = (), timeout_s: float | None = None
    ) -> Ended:
        call = self._channel.unary_unary(method)(request, metadata=tuple(metadata), timeout=timeout_s)
        try:
            payload = await call
        except grpc.RpcError:
            payload = b""
        ended = await _ended(call)
        ended.payload = payload
        return ended

    def stream(self, method: str, metadata: Metadata = (), timeout_s: float | None = None) -> AioStream:
        return AioStream(self._channel.stream_stream(method)(metadata=tuple(metadata), timeout=timeout_s))


async def _ended(call: Any) -> Ended:
    headers, trailers = dict(await call.initial_metadata() or ()), dict(await call.trailing_metadata() or ())
    return Ended((await call.code()).value[0], await call.details() or "", b"", headers, trailers)


async def main(address: str) -> None:
    """Run all cases, each on a connection of its own."""
    for name, case in CASES.items():
        why = ""
        try:
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel, asyncio.timeout(CASE_WITHIN_S):
                await case(AioClient(channel))
        except Exception:
            why = traceback.format_exc()
        print(json.dumps({"case": name, "why": why}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
