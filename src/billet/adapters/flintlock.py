"""Calls one host's flintlockd over gRPC. Requests and replies are protobuf bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from billet.closing import closing
from billet.core.errors import Code, HostVerdict, Unreachable
from billet.core.metadata import Metadata, ReplyMetadata
from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.dial import Address
from billet.grpc.engine import new_channel
from billet.grpc.interface import exchange
from billet.grpc.status import RpcError
from billet.ports import Reply
from billet.settings import split_endpoint
from billet.wire.auth import basic_header
from billet.wire.metadata import CHANNEL_BYTES, from_host
from billet.wire.secret import Secret
from billet.wire.tls import ClientTls

KEEPALIVE_S = 330.0  # grpc-go closes a connection that pings more often than every 300 s


class GrpcFlintlock:
    """ports.Flintlock over one channel. A reply may have any size: a host's List may be large."""

    def __init__(self, endpoint: str, tls: ClientTls | None = None, token: str = "") -> None:
        limits = replace(CLIENT_LIMITS, header_list_bytes=CHANNEL_BYTES, keepalive_s=KEEPALIVE_S)
        self._channel = new_channel(Address(*split_endpoint(endpoint), tls), limits)
        self._secret = Secret(token)

    async def ready(self, timeout_s: float) -> bool:
        """See ports.Flintlock."""
        return await self._channel.ready(timeout_s)

    async def call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """See ports.Flintlock. A call whose token is refused was not carried out, and may be made with another."""
        *others, last = self._secret.lines or ("",)
        for token in others:
            reply = await self._call(method, request, timeout_s, metadata, token)
            if reply.code != Code.UNAUTHENTICATED:
                return reply
        return await self._call(method, request, timeout_s, metadata, last)

    async def _call(self, method: str, request: bytes, timeout_s: float, metadata: Metadata, token: str) -> Reply:
        try:
            response = await self._channel.unary(method, request, timeout_s, (*_authorization(token), *metadata))
        except RpcError as error:
            return Reply(_code(error), error.text, b"", (), from_host(error.trailers))
        self._secret.worked(token)
        return Reply(Code.OK, "", response.payload, from_host(response.headers), from_host(response.trailers))

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
        try:
            call = await self._channel.stream(method, timeout_s, (*_authorization(self._secret.shown), *metadata))
            async with closing(exchange(call, requests)) as messages:
                async for message in messages:
                    told.headers = told.headers or from_host(call.headers)
                    yield message
            told.headers, told.trailers = from_host(call.headers), from_host(call.trailers)
        except RpcError as error:
            if error.code == Code.UNAVAILABLE:
                raise Unreachable("its flintlockd does not answer") from None
            told.trailers = from_host(error.trailers)
            raise HostVerdict(error.code, error.text, told.trailers) from None

    async def close(self) -> None:
        """See ports.Flintlock."""
        await self._channel.close()


def _authorization(token: str) -> Metadata:
    return (("authorization", basic_header(token)),) if token else ()


def _code(error: RpcError) -> int:
    """flintlockd's own code. A call that ended otherwise may have been carried out, whatever gRPC calls it."""
    return error.code if error.answered or error.code == Code.DEADLINE_EXCEEDED else Code.UNAVAILABLE
