"""Opens connections to one address: TCP or TLS, and through a proxy if there is one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from billet.core.errors import ConfigError
from billet.reloading import Kept
from billet.wire.tls import ClientTls, kept_client

P = TypeVar("P", bound=asyncio.Protocol)

PROXY_REPLY_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and how to reach it.

    `tls` None = no TLS. `name`: the name in the server's certificate, "" = `host`. `proxy`: "http://[user:password@]
    host:port" of a proxy that knows CONNECT, "" = none.
    """

    host: str
    port: int
    tls: ClientTls | None = None
    name: str = ""
    proxy: str = ""

    def context(self) -> Kept[ssl.SSLContext] | None:
        """Read the TLS files. Raises ConfigError."""
        return kept_client(*self.tls, protocols=["h2"]) if self.tls else None

    @property
    def authority(self) -> str:
        """The :authority of calls."""
        host = self.name or self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


async def dial(address: Address, context: ssl.SSLContext | None, protocol: Callable[[], P]) -> P:
    """Connect. Raises OSError (ssl.SSLError is one), with a text for people."""
    loop = asyncio.get_running_loop()
    name = (address.name or address.host) if context else None
    if not address.proxy:
        _, connected = await loop.create_connection(
            protocol, address.host, address.port, ssl=context, server_hostname=name
        )
        return connected
    through = await _through_proxy(address)
    try:
        _, connected = await loop.create_connection(protocol, sock=through, ssl=context, server_hostname=name)
    except BaseException:
        through.close()
        raise
    return connected


async def _through_proxy(address: Address) -> socket.socket:
    """A socket on which the proxy passes everything on to the address."""
    parts = urlsplit(address.proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"proxy {address.proxy!r}: expected http://host:port")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    family, kind, protocol, _, at = found[0]
    connection = socket.socket(family, kind, protocol)
    connection.setblocking(False)
    try:
        await loop.sock_connect(connection, at)
        await loop.sock_sendall(connection, _connect_request(address, parts.username, parts.password))
        await _accepted(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_request(address: Address, user: str | None, password: str | None) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"CONNECT {host}:{address.port} HTTP/1.1", f"Host: {host}:{address.port}"]
    if user is not None:
        pair = f"{unquote(user)}:{unquote(password or '')}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _accepted(connection: socket.socket, address: Address) -> None:
    """Read the proxy's reply, byte by byte since what follows it is not ours to read. Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    reply = b""
    while not reply.endswith(b"\r\n\r\n"):
        byte = await loop.sock_recv(connection, 1)
        reply += byte
        if not byte or len(reply) > PROXY_REPLY_BYTES:
            raise ConnectionError(f"the proxy {address.proxy} does not answer as a proxy")
    status = reply.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise ConnectionError(f"the proxy {address.proxy} answers {status!r}")
