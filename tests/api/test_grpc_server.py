"""What a Backend is told of a client's stream by the gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import grpc
import grpc.aio
import pytest

from billet.api.grpc_server import GrpcServer
from billet.core.errors import Cancelled
from billet.wire.tls import TlsSettings
from tests.api.callers import callers

WITHIN_S = 30.0


class Reader:
    """A Backend that reads a client's messages in a task of its own, as the link does, and notes how they end."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.ended = asyncio.Event()

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float, metadata: Mapping[str, str], told: object
    ) -> AsyncIterator[bytes]:
        reading = asyncio.create_task(self._read(requests))
        try:
            yield b"started"
            await self.ended.wait()
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        try:
            async for _ in requests:
                pass
            self.ends.append("half-closed")
        except (Cancelled, asyncio.CancelledError):
            self.ends.append("cancelled")
        self.ended.set()


@pytest.mark.parametrize("cancel", [True, False])
async def test_messages_end_only_when_the_client_has_half_closed(cancel: bool) -> None:
    """Broken on purpose (the end that grpc.aio reports is taken for one): cancelled ones half-close, too."""
    backend = Reader()
    server = GrpcServer(backend, callers(), lambda shown: False)  # type: ignore[arg-type]  # it has no unary calls
    port = await server.listen("127.0.0.1:0", TlsSettings(insecure=True))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(WITHIN_S):
        for _ in range(50):
            backend.ended.clear()
            call = channel.stream_stream("/x.Y/Exec")()
            await call.write(b"half of it")
            assert await call.read() == b"started"
            if cancel:
                call.cancel()
            else:
                await call.done_writing()
            await backend.ended.wait()
    await server.stop(0.0)
    assert set(backend.ends) == {"cancelled" if cancel else "half-closed"}
