"""A server that does not lead passes its clients' calls on to the one that does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import grpc
import grpc.aio

from billet.core.errors import Away, Code, HostVerdict
from billet.ports import Answer, Leader
from billet.wire import tls

FORWARDED = (
    "x-billet-forwarded"  # so that two servers that take each other for the leader do not pass a call for ever
)
LIMITLESS = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]


class LeaderForward:
    """ports.Backend over a channel to the leader."""

    def __init__(self, settings: tls.TlsSettings) -> None:
        self.leader: Leader | None = None
        self._settings = settings
        self._channel: grpc.aio.Channel | None = None

    def follow(self, leader: Leader | None) -> None:
        """From now on this one leads."""
        if leader == self.leader:
            return
        self.leader, self._channel = leader, None
        if leader:
            settings = self._settings
            # The servers of one fleet trust the CA of their clients, or else a certificate that they share.
            self._channel = (
                grpc.aio.insecure_channel(leader.grpc, options=LIMITLESS)
                if settings.insecure
                else grpc.aio.secure_channel(
                    leader.grpc,
                    tls.channel_credentials(settings.client_ca or settings.cert, settings.cert, settings.key),
                    options=LIMITLESS,
                )
            )

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        """See ports.Backend."""
        channel = self._usable(metadata)
        caller: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
        call = caller(request, timeout=timeout_s, metadata=_passed_on(metadata))
        try:
            payload = await call
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None
        trailers = tuple((k, v) for k, v in await call.trailing_metadata() or () if isinstance(v, str))
        return Answer(payload, tuple(pair for pair in trailers if pair[0].startswith("x-billet-")))

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None, metadata: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """See ports.Backend."""
        channel = self._usable(metadata)
        caller: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
        call = caller(requests, timeout=timeout_s, metadata=_passed_on(metadata))
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Let go of the channel."""
        if self._channel:
            await self._channel.close()

    def _usable(self, metadata: Mapping[str, str]) -> grpc.aio.Channel:
        if self._channel is None or FORWARDED in metadata:
            raise Away("no server leads at the moment; try again")
        return self._channel

    def _translated(self, error: grpc.aio.AioRpcError) -> Away | HostVerdict:
        """The leader's answer as it is; that there was none, in words of ours (a channel's may be dangerous)."""
        code = error.code().value[0]
        details = error.details() or ""
        if code == Code.UNAVAILABLE and (error.initial_metadata() is None or "not found" in details):
            return Away("the leader does not answer; try again")
        return HostVerdict(code, details)


def _passed_on(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    kept = ((k, v) for k, v in metadata.items() if k == "authorization" or k.startswith("x-"))
    return (*kept, (FORWARDED, "1"))
