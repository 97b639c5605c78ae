"""One gRPC channel for each of etcd's endpoints; with new TLS files, new channels."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import grpc
import grpc.aio
import structlog

from billet.core.errors import ConfigError
from billet.reloading import Kept
from billet.wire import tls

log = structlog.get_logger()

QUIET_S = 10.0  # silence on a connection after which it is probed
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", int(QUIET_S * 1e3)),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),  # a watch may be silent for hours, and is probed all the same
]
SLOW_S = 10.0  # a channel with new TLS files that is not connected by then is logged


class Channels:
    """The channels, by the index of their endpoint."""

    def __init__(self, ca: str, cert: str, key: str) -> None:
        """PEM files, for endpoints of https."""
        self._files = ca, cert, key
        self._tls: Kept[grpc.ChannelCredentials] | None = None
        self._urls: list[str] = []
        self._channels: list[grpc.aio.Channel] = []
        self._former: list[grpc.aio.Channel] = []  # calls may still use them; idle ones close their connections
        self._renewing: set[asyncio.Task[None]] = set()

    def add(self, url: str) -> None:
        """Make the next channel. Raises ConfigError for files or a URL that cannot be used."""
        self._channels.append(self._new(url))
        self._urls.append(url)

    def __getitem__(self, at: int) -> grpc.aio.Channel:
        return self._channels[at]

    async def close(self) -> None:
        """Close all connections."""
        for task in self._renewing:
            task.cancel()
        await asyncio.gather(*(channel.close() for channel in (*self._channels, *self._former)))

    async def _renew(self, _: grpc.ChannelCredentials) -> None:
        """There are new TLS files: replace the channels."""
        for task in self._renewing:
            task.cancel()
        self._renewing = {
            asyncio.get_running_loop().create_task(self._replace(at, url))
            for at, url in enumerate(self._urls)
            if url.startswith("https:")
        }

    async def _replace(self, at: int, url: str) -> None:
        """Replace a channel once the new one is connected: etcd may not accept the new certificate yet."""
        new = self._new(url)
        try:
            ready = asyncio.ensure_future(new.channel_ready())
            await asyncio.wait([ready], timeout=SLOW_S)
            if not ready.done():
                log.error("cannot connect to etcd with the new TLS files; the old ones stay in force", etcd=url)
            await ready
        except asyncio.CancelledError:
            await new.close()
            raise
        self._former.append(self._channels[at])
        self._channels[at] = new

    def _new(self, url: str) -> grpc.aio.Channel:
        if url.startswith("unix:"):
            # A path is not a valid :authority, and Go's server refuses a call without one.
            return grpc.aio.insecure_channel(url, options=[*OPTIONS, ("grpc.default_authority", "localhost")])
        parts = urlsplit(url)
        match parts.scheme:
            case "http" if parts.netloc:
                return grpc.aio.insecure_channel(parts.netloc, options=OPTIONS)
            case "https" if parts.netloc:
                self._tls = self._tls or tls.kept_credentials(*self._files, changed=self._renew)
                return grpc.aio.secure_channel(parts.netloc, self._tls.value, options=OPTIONS)
            case _:
                raise ConfigError(f"etcd endpoint {url!r} is not http://HOST:PORT, https://HOST:PORT or unix:PATH")
