"""Forwards calls from a follower to the leader, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2

from billet.core.errors import Code, HostVerdict, LeaderLost, Unreachable
from billet.core.metadata import Metadata, ReplyMetadata
from billet.ports import Answer, Leader
from billet.settings import split_endpoint
from billet.wire import tls
from billet.wire.headers import ANSWERED
from billet.wire.metadata import CHANNEL_BYTES, from_client, from_host

WATCH = f"/{health.SERVICE_NAME}/Watch"
LIMITLESS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_metadata_size", CHANNEL_BYTES),
]
LOOK_AGAIN_S = 0.1  # pause before the leader's health is watched again
CONNECT_S = 1.0
CLOSED = "the leader has changed"  # the connection was closed just before the call
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
        self._channel = (
            grpc.aio.insecure_channel(leader.grpc, options=LIMITLESS)
            if settings.insecure
            else grpc.aio.secure_channel(
                leader.grpc,
                tls.channel_credentials(ca or settings.client_ca or settings.cert, settings.cert, settings.key),
                options=LIMITLESS,
            )
        )

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        caller: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        try:
            call = caller(request, timeout=timeout_s, metadata=self._metadata(metadata))
            payload = await call
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from None
        except grpc.aio.UsageError:
            raise LeaderLost(CLOSED) from None
        trailers, headers = await call.trailing_metadata(), await call.initial_metadata()
        own = tuple((key, value) for key, value in trailers or () if key.startswith("x-billet-"))
        return Answer(payload, (*own, *from_host(trailers)), from_host(headers))

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        caller: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        try:
            call = caller(requests, timeout=timeout_s, metadata=self._metadata(metadata))
        except grpc.aio.UsageError:
            raise LeaderLost(CLOSED) from None
        told = told or ReplyMetadata()
        try:
            told.headers = from_host(await call.initial_metadata())
            async for message in call:
                yield message
            told.trailers = from_host(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            told.trailers = from_host(error.trailing_metadata())
            raise _translated(error) from None
        finally:
            call.cancel()

    async def dead(self) -> None:
        """Return when the leader's process has ended: its connection broke and nobody listens at its address.

        A machine that vanishes breaks no connection; its lease has to run out.
        """
        watch: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(WATCH)
        while True:
            call = watch(health_pb2.HealthCheckRequest().SerializeToString())
            with suppress(grpc.aio.AioRpcError):
                async for answer in call:
                    if health_pb2.HealthCheckResponse.FromString(answer).status != SERVING:
                        break  # the leader is stopping; close our call
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


SERVING = health_pb2.HealthCheckResponse.SERVING


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


def _translated(error: grpc.aio.AioRpcError) -> Unreachable | HostVerdict:
    """The leader's own answer as HostVerdict. Without one, LeaderLost in our words: gRPC's may say "not found"."""
    code: int = error.code().value[0]
    answered = any(key == ANSWERED for key, _ in error.trailing_metadata() or ())
    if code in UNANSWERED and not answered:
        return LeaderLost("the leader does not answer; try again")
    return HostVerdict(code, error.details() or "", from_host(error.trailing_metadata()))
