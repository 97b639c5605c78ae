"""Strangers who attack every port at once: what runs in the processes of `tests.cluster.strangers`.

    python -m tests.cluster.attackers '{"grpc": 1, "http": 2, "link": 3, "zone": 4}' CA.crt SOURCE

They have no token and no certificate. Each kind of attack comes from the address SOURCE, and goes on until the
process is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from billet.grpc.dial import Address
from billet.grpc.engine import new_channel
from billet.grpc.health import CHECK
from billet.grpc.status import RpcError
from billet.wire import flintlock as wire
from billet.wire.tls import ClientTls, client_context

HOST = "127.0.0.1"
PATIENCE_S = 20.0
DRIP_S = 1.0  # between two bytes of a slow one
IDLE, SLOW, FLOODS, GARBAGE, BODIES = 25, 10, 3, 2, 2  # of each kind, for each port
MIB = 1 << 20
POST = b"POST /v1alpha1/microvm HTTP/1.1\r\nHost: x\r\n"
BEGINNINGS = {  # what a slow one begins with
    "grpc": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "zone": b"PRI * HTTP/2.0",
    "http": b"GET /v1alpha1/microvm HTTP/1.1\r\nHost: x\r\nX-",
    "link": b"GET /agent HTTP/1.1\r\nHost: x\r\nX-",
}


@dataclass(frozen=True)
class Target:
    """One port, as the stranger at `source` reaches it."""

    name: str
    port: int
    ca: str
    source: str

    async def connect(self, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.open_connection(
                HOST, self.port, local_addr=(self.source, 0), ssl=self._context() if tls else None
            )

    def _context(self) -> ssl.SSLContext:
        return client_context(self.ca, protocols=["h2"] if self.name in ("grpc", "zone") else [])


async def idle(target: Target, tls: bool) -> None:
    """Connect, say nothing, and stay as long as one may."""
    reader, writer = await target.connect(tls)
    await reader.read()
    writer.close()


async def slow(target: Target, tls: bool) -> None:
    """Say half of something, then a byte now and then."""
    reader, writer = await target.connect(tls)
    writer.write(BEGINNINGS[target.name] if tls else b"\x16\x03\x01\x02\x00\x01")
    while not reader.at_eof():
        await asyncio.sleep(DRIP_S)
        writer.write(b"a")
        await writer.drain()
    writer.close()


async def flood(target: Target, tls: bool) -> None:
    """Come and go, as often as possible."""
    _, writer = await target.connect(tls)
    writer.transport.abort()


async def garbage(target: Target, tls: bool) -> None:
    """Send bytes without a meaning until the port hangs up."""
    reader, writer = await target.connect(tls)
    async with asyncio.timeout(PATIENCE_S):
        while not reader.at_eof():
            writer.write(os.urandom(MIB // 16))
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()


async def body(target: Target, chunked: bool) -> None:
    """Send a body of which there is no end, or of 100 MiB, to the HTTP port."""
    reader, writer = await target.connect()
    head = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % (100 * MIB)
    writer.write(POST + head)
    piece = b" " * (MIB // 4)
    async with asyncio.timeout(PATIENCE_S):
        while not reader.at_eof():
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()


async def messages(target: Target, health: bool) -> None:
    """Call the gRPC port without a token: a create of 30 MiB, or a health check, which needs none, of 3 MiB."""
    channel = new_channel(Address(HOST, target.port, ClientTls(target.ca)))
    with suppress(RpcError):
        await channel.unary(CHECK if health else wire.CREATE, bytes((3 if health else 30) * MIB), PATIENCE_S)
    await channel.close()


async def agents(target: Target, frame: bool) -> None:
    """Ask the link for a WebSocket with a wrong token, and send on."""
    reader, writer = await target.connect()
    writer.write(
        b"GET /agent?host=x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Authorization: Bearer wrong\r\n\r\n"
    )
    if frame:
        writer.write(b"\x82\xff" + (60 * MIB).to_bytes(8, "big") + bytes(MIB))
    await reader.read()
    writer.close()


Attack = Callable[[Target, bool], Awaitable[None]]


async def for_ever(attack: Attack, target: Target, way: bool) -> None:
    """Begin again whenever the port has hung up."""
    while True:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await attack(target, way)
        await asyncio.sleep(0.01)


async def main(ports: dict[str, int], ca: str, source: str) -> None:
    kinds: list[tuple[Attack, int]] = [(idle, IDLE), (slow, SLOW), (flood, FLOODS), (garbage, GARBAGE)]
    special: dict[str, Attack] = {"http": body, "grpc": messages, "zone": messages, "link": agents}
    async with asyncio.TaskGroup() as group:
        for name, port in ports.items():
            target = Target(name, port, ca, source)
            for attack, count in [*kinds, (special[name], BODIES)]:
                for n in range(count):
                    group.create_task(for_ever(attack, target, bool(n % 2)))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]))
