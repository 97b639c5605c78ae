"""Forwards calls from a follower to the leader, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import replace

from grpc_health.v1 import health_pb2

from billet.closing import closing
from billet.core.errors import Code, HostVerdict, LeaderLost, Unreachable
from billet.core.metadata import Metadata, ReplyMetadata
from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.dial import Address
from billet.grpc.engine import new_channel
from billet.grpc.health import SERVING, WATCH
from billet.grpc.interface import exchange
from billet.grpc.status import RpcError
from billet.ports import Answer, Leader
from billet.settings import split_endpoint
from billet.wire import tls
from billet.wire.headers import ANSWERED
from billet.wire.metadata import CHANNEL_BYTES, from_client, from_host

LOOK_AGAIN_S = 0.1  # pause before the leader's health is watched again
CONNECT_S = 1.0
UNANSWERED = {Code.UNAVAILABLE, Code.CANCELLED, Code.UNKNOWN, Code.INTERNAL}  # codes of a broken connection


class LeaderForward:
    """ports.Backend over a connection to one leader."""

    def __init__(
        self, leader: Leader, settings: tls.TlsSettings, ca: str, passed_on: tuple[tuple[str, str], ...]
    ) -> None:
        """`settings`: this server's own TLS settings. `ca`: PEM file of the CA of the leader's certificate.

        With `ca` "", servers trust the CA of their clients, or else a certificate that they share. `passed_on`:
        metadata that shows the leader that another server calls.
        """
        self.leader = leader
        self._passed_on = passed_on
        trusted = ca or settings.client_ca or settings.cert
        limits = replace(CLIENT_LIMITS, header_list_bytes=CHANNEL_BYTES)
        files = None if settings.insecure else tls.ClientTls(trusted, settings.cert, settings.key)
        self._channel = new_channel(Address(*split_endpoint(leader.grpc), files), limits)

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        try:
            response = await self._channel.unary(method, request, timeout_s, self._metadata(metadata))
        except RpcError as error:
            raise _translated(error) from None
        own = tuple((key, value) for key, value in response.trailers if key.startswith("x-billet-"))
        return Answer(response.payload, (*own, *from_host(response.trailers)), from_host(response.headers))

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        told = told or ReplyMetadata()
        try:
            call = await self._channel.stream(method, timeout_s, self._metadata(metadata))
            async with closing(exchange(call, requests)) as messages:
                async for message in messages:
                    told.headers = told.headers or from_host(call.headers)
                    yield message
            told.headers, told.trailers = from_host(call.headers), from_host(call.trailers)
        except RpcError as error:
            told.trailers = from_host(error.trailers)
            raise _translated(error) from None

    async def dead(self) -> None:
        """Return when the leader's process has ended: its connection broke and nobody listens at its address.

        A machine that vanishes breaks no connection; its lease has to run out.
        """
        while True:
            with suppress(RpcError):
                call = await self._channel.stream(WATCH)
                await call.write(health_pb2.HealthCheckRequest().SerializeToString())
                call.end()
                # Once the leader is stopping, our call is in its way.
                while (answer := await call.read()) and _serves(answer):
                    pass
                call.cancel()
            if await _refused(self.leader.grpc):
                return
            await asyncio.sleep(LOOK_AGAIN_S)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _metadata(self, metadata: Mapping[str, str]) -> Metadata:
        own = ((k, v) for k, v in metadata.items() if k == "authorization" or k.startswith("x-billet-"))
        return (*own, *from_client(metadata), *self._passed_on)


def _serves(answer: bytes) -> bool:
    return health_pb2.HealthCheckResponse.FromString(answer).status == SERVING


async def _refused(endpoint: str) -> bool:
    """Whether the machine answers that nobody listens at this address."""
    host, port = split_endpoint(endpoint)
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(host, port)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False


def _translated(error: RpcError) -> Unreachable | HostVerdict:
    """The leader's own answer as HostVerdict. Without one, LeaderLost in our words: gRPC's may say "not found"."""
    answered = any(key == ANSWERED for key, _ in error.trailers)
    unanswered = error.code in UNANSWERED or not (error.answered or error.code == Code.DEADLINE_EXCEEDED)
    if unanswered and not answered:
        return LeaderLost("the leader does not answer; try again")
    return HostVerdict(error.code, error.text, from_host(error.trailers))
