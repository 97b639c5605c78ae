"""Calls one host's flintlockd over gRPC. Requests and replies are protobuf bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio

from billet.core.errors import Code, HostVerdict, Unreachable
from billet.core.metadata import Metadata, ReplyMetadata
from billet.ports import Reply
from billet.wire.metadata import CHANNEL_BYTES, from_host

OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # a host's List may be large
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_metadata_size", CHANNEL_BYTES),
]


class GrpcFlintlock:
    """ports.Flintlock over one channel."""

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None = None, authorization: str = ""
    ) -> None:
        self._channel = (
            grpc.aio.secure_channel(address, credentials, options=OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(address, options=OPTIONS)
        )
        self._metadata: Metadata = (("authorization", authorization),) if authorization else ()
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    async def ready(self, timeout_s: float) -> bool:
        """See ports.Flintlock."""
        if self._channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError:
            return False
        return True

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """See ports.Flintlock."""
        caller = self._methods.get(method)
        if caller is None:
            caller = self._methods[method] = self._channel.unary_unary(method)
        try:
            call = caller(request, timeout=timeout_s, metadata=(*self._metadata, *metadata))
            payload = await call
        except grpc.aio.AioRpcError as error:
            headers, trailers = from_host(error.initial_metadata()), from_host(error.trailing_metadata())
            return Reply(number(error.code()), error.details() or "", b"", headers, trailers)
        headers, trailers = from_host(await call.initial_metadata()), from_host(await call.trailing_metadata())
        return Reply(Code.OK, "", payload, headers, trailers)

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Metadata = (),
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Flintlock."""
        told = told or ReplyMetadata()
        caller: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call = caller(requests, timeout=timeout_s, metadata=(*self._metadata, *metadata))
        try:
            told.headers = from_host(await call.initial_metadata())
            async for message in call:
                yield message
            told.trailers = from_host(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            code = number(error.code())
            if code == Code.UNAVAILABLE:
                raise Unreachable("its flintlockd does not answer") from None
            told.trailers = from_host(error.trailing_metadata())
            raise HostVerdict(code, error.details() or "", told.trailers) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """See ports.Flintlock."""
        await self._channel.close()


def number(code: grpc.StatusCode) -> int:
    """A status code as its number on the wire."""
    return code.value[0]
