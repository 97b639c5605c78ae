"""Serve grpc-go's interop TestService on the engine under test: `python -m tests.interop.layer_server`.

Prints {"grpc": ADDRESS}. SIGTERM ends it gracefully. Only this file and layer_client.py know the engine.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from tests.interop.interop_service import STREAMS, UNARY, Refused, Value

MESSAGE_BYTES = 17 << 20
METADATA_BYTES = 128 << 10
GRACE_S = 30.0
CODES = {code.value[0]: code for code in grpc.StatusCode}


class AioCall:
    """interop_service.Call on grpc.aio."""

    def __init__(self, context: Any, requests: AsyncIterator[bytes]) -> None:
        self._context, self._requests = context, requests
        self.metadata: dict[str, Value] = dict(context.invocation_metadata() or ())

    async def send_headers(self, metadata: Sequence[tuple[str, Value]]) -> None:
        await self._context.send_initial_metadata(metadata)

    def set_trailers(self, metadata: Sequence[tuple[str, Value]]) -> None:
        self._context.set_trailing_metadata(metadata)

    async def messages(self) -> AsyncIterator[bytes]:
        async for message in self._requests:
            yield message

    async def send(self, message: bytes) -> None:
        await self._context.write(message)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


class Handlers(grpc.GenericRpcHandler):
    """The handlers of grpc.aio, by method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        if method in UNARY:

            async def unary(request: bytes, context: Any) -> bytes:
                try:
                    return await UNARY[method](request, AioCall(context, _nothing()))
                except Refused as refused:
                    await context.abort(CODES[refused.code], refused.text)
                    raise

            return grpc.unary_unary_rpc_method_handler(unary)
        if method not in STREAMS:
            return None

        async def stream(requests: AsyncIterator[bytes], context: Any) -> None:
            try:
                await STREAMS[method](AioCall(context, requests))
            except Refused as refused:
                await context.abort(CODES[refused.code], refused.text)

        return grpc.stream_stream_rpc_method_handler(stream)


async def main() -> None:
    """Serve until SIGTERM."""
    options = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES), ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    ]  # fmt: skip
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(GRACE_S)


if __name__ == "__main__":
    asyncio.run(main())
