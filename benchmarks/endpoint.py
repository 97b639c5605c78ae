"""A client's connection to one Flintlock endpoint over grpc.aio, Billet's or any other."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio

from billet.client import Address
from billet.core.errors import BilletError, Unreachable
from billet.wire.flintlock import CREATE, DELETE
from billet.wire.pb.flintlock_pb2 import CreateMicroVMResponse, DeleteMicroVMRequest

DEADLINE_S = 60.0
CONNECT_S = 20.0
DELETES_AT_ONCE = 16


class Endpoint:
    """One channel, and the uid of every microVM that was created through it.

    `may_fail`: a create that is UNAVAILABLE counts as failed, and ends nothing.
    """

    def __init__(self, address: Address, may_fail: bool = False) -> None:
        token = base64.b64encode(address.token.encode()).decode()
        self.uids: list[str] = []
        self.failed = 0
        self._may_fail = may_fail
        self._name = address.endpoint
        self._metadata = (("authorization", f"Basic {token}"),) if address.token else ()
        self._channel = _channel(address)
        self._create: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(CREATE)

    async def connect(self) -> None:
        """Connect before any clock starts. Raises Unreachable."""
        try:
            await asyncio.wait_for(self._channel.channel_ready(), CONNECT_S)
        except TimeoutError:
            raise Unreachable(f"cannot connect to {self._name}: check the address and TLS") from None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def call(self, method: str, request: bytes) -> bytes:
        """The reply to any call. Raises BilletError."""
        try:
            unary: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
            return await unary(request, timeout=DEADLINE_S, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise self._failure(method, error) from None

    async def crowd(self, requests: Sequence[bytes], in_flight: int) -> list[float]:
        """Make all of these creates, so many at once: milliseconds of each. BilletError when one fails."""
        latencies_ms = [0.0] * len(requests)
        replies: list[bytes] = []
        waiting = iter(enumerate(requests))

        async def worker() -> None:
            for n, request in waiting:
                begun_s = time.perf_counter()
                try:
                    replies.append(await self._create(request, timeout=DEADLINE_S, metadata=self._metadata))
                except grpc.aio.AioRpcError as error:
                    if not self._may_fail or error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise self._failure(CREATE, error) from None
                    self.failed += 1
                latencies_ms[n] = (time.perf_counter() - begun_s) * 1e3

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(worker())
        except BaseExceptionGroup as errors:  # not except*: Python 3.11.2 puts what it raises into a group again
            raise errors.exceptions[0] from None
        finally:
            self.uids += [CreateMicroVMResponse.FromString(reply).microvm.spec.uid for reply in replies]
        return latencies_ms

    async def delete_all(self) -> None:
        """Delete every microVM that was created here. Raises BilletError."""
        waiting = iter(self.uids)

        async def worker() -> None:
            for uid in waiting:
                await self.call(DELETE, DeleteMicroVMRequest(uid=uid).SerializeToString())

        try:
            await asyncio.gather(*(worker() for _ in range(DELETES_AT_ONCE)))
        except BilletError as error:
            raise BilletError(f"not all {len(self.uids)} microVMs were deleted again: {error.text}") from None

    def _failure(self, method: str, error: grpc.aio.AioRpcError) -> BilletError:
        return BilletError(f"{method.rpartition('/')[2]} on {self._name}: {error.code().name}: {error.details()}")


def _channel(address: Address) -> grpc.aio.Channel:
    if not address.tls_ca:
        return grpc.aio.insecure_channel(address.endpoint)
    ca, key, cert = (
        Path(path).read_bytes() if path else None for path in (address.tls_ca, address.tls_key, address.tls_cert)
    )
    return grpc.aio.secure_channel(address.endpoint, grpc.ssl_channel_credentials(ca, key, cert))
