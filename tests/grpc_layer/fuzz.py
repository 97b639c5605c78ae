"""Fuzz one side of the gRPC layer: `python -m tests.grpc_layer.fuzz server|client CPU_SECONDS [SEED]`.

Bytes of real calls are changed (bits, lengths, frames that are dropped, doubled, swapped or made up), cut into pieces
and given to a connection, whose transport is a stand-in. After each input no exception may have come out, every call
and every held byte must be gone once the connection is, and the process must not grow. A failure prints its seed
and number.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil

from billet.core.errors import Code
from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.client_connection import ClientConnection
from billet.grpc.connection import Connection
from billet.grpc.interface import Routes, ServerCall
from billet.grpc.limits import Limits
from billet.grpc.messages import frame as message_frame
from billet.grpc.server import Server
from billet.grpc.server_connection import ServerConnection
from billet.grpc.status import RpcError
from tests.grpc_layer.floods import (
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PREFACE,
    REQUEST,
    RST,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    literal,
)  # fmt: skip

GOAWAY, PUSH, PRIORITY = 7, 5, 2
REPORT_EVERY_S = 60.0
HANG_S = 20.0  # of one input; each takes well below a millisecond
GROWTH_MIB = 100.0
HEAD = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.T/Mirror"), (b":authority", b"x"),
    (b"te", b"trailers"), (b"content-type", b"application/grpc"),
]  # fmt: skip
REPLY = b"\x88" + literal(b"content-type", b"application/grpc") + literal(b"x-raw-bin", b"AAE")
TRAILERS = literal(b"grpc-status", b"0") + literal(b"grpc-message", b"%41%zz")


async def echo(request: bytes, call: ServerCall) -> bytes:
    call.trailers = call.metadata
    return request


async def fail(request: bytes, call: ServerCall) -> bytes:
    raise RpcError(Code.FAILED_PRECONDITION, "no", (("grpc-status-details-bin", request),))


async def mirror(call: ServerCall) -> None:
    while (message := await call.read()) is not None:
        await call.write(message)


async def count(call: ServerCall) -> None:
    for _ in range(100):
        await call.write(b"c" * 10_000)


ROUTES = Routes({"/t.T/Echo": echo, "/t.T/Fail": fail}, {"/t.T/Mirror": mirror, "/t.T/Count": count})


class StandIn(asyncio.Transport):
    """A transport that keeps nothing of what is written."""

    def __init__(self, connection: Connection[Any]) -> None:
        super().__init__()
        self._connection = connection
        self._closing = False

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("10.0.0.1", 1) if name == "peername" else None


def client_frames(random: random.Random) -> list[bytes]:
    """What an honest client sends: some calls, unary and streams, with pings in between."""
    frames = [frame(SETTINGS, 0, 0), frame(SETTINGS, 1, 0)]
    for stream in range(1, 2 * random.randint(1, 6), 2):
        path = random.choice([b"/t.T/Echo", b"/t.T/Mirror", b"/t.T/Fail", b"/t.T/Count", b"/t.T/None"])
        head = REQUEST.replace(literal(b":path", b"/grpc.health.v1.Health/Check"), literal(b":path", path))
        if random.random() < 0.3:
            head += literal(b"grpc-timeout", random.choice([b"1n", b"10S", b"x", b"99999999H"]))
        if random.random() < 0.2:
            head += literal(b"grpc-encoding", random.choice([b"gzip", b"identity", b"br"]))
        frames.append(frame(HEADERS, 4, stream, head))
        body = message_frame(b"2" * random.choice([0, 1, 100, 20_000]))
        frames += [frame(DATA, 0, stream, body[at : at + 16_000]) for at in range(0, len(body), 16_000)]
        frames.append(random.choice([frame(DATA, 1, stream), frame(RST, 0, stream, b"\0\0\0\x08"), b""]))
    return [*frames, frame(PING, 0, 0, b"12345678"), frame(WINDOW_UPDATE, 0, 0, b"\0\0\1\0")]


def server_frames(random: random.Random) -> list[bytes]:
    """What an honest server answers to calls 1, 3, 5 and 7."""
    frames = [frame(SETTINGS, 0, 0, b"\0\3\0\0\0\x64"), frame(SETTINGS, 1, 0)]
    for stream in (1, 3, 5, 7):
        frames.append(frame(HEADERS, 4, stream, REPLY))
        frames += [frame(DATA, 0, stream, message_frame(b"m" * random.choice([0, 9, 30_000]))[:16_000])]
        frames.append(random.choice([frame(HEADERS, 5, stream, TRAILERS), frame(RST, 0, stream, b"\0\0\0\x07"), b""]))
    return [*frames, frame(GOAWAY, 0, 0, random.randbytes(8)), frame(PING, 1, 0, b"billet/k")]


def mutated(frames: list[bytes], random: random.Random) -> bytes:
    """The frames with some changes."""
    frames = [each for each in frames if each]
    for _ in range(random.choice([0, 1, 1, 2, 4, 16])):
        at = random.randrange(len(frames))
        match random.randrange(8):
            case 0:
                frames.insert(at, random.choice(frames))
            case 1 if len(frames) > 1:
                del frames[at]
            case 2:
                other = random.randrange(len(frames))
                frames[at], frames[other] = frames[other], frames[at]
            case 3:
                changed = bytearray(frames[at])
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                frames[at] = bytes(changed)
            case 4:
                frames[at] = frames[at][: random.randrange(len(frames[at]) + 1)] or b"\0"
            case 5:
                kind = random.choice(
                    [DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION, 77]
                )
                payload = random.randbytes(random.choice([0, 4, 5, 8, 64]))
                frames.insert(at, frame(kind, random.randrange(256), random.choice([0, 1, 2, 3, 9]), payload))
            case 6:
                frames.insert(at, random.randbytes(random.randrange(1, 40)))
            case 7:
                where = random.randrange(len(frames[at]))
                frames[at] = frames[at][:where] + random.randbytes(4) + frames[at][where + 4 :]
    return b"".join(frames)


def feed(connection: Connection[Any], data: bytes, random: random.Random) -> None:
    """Give the connection these bytes in pieces."""
    at = 0
    while at < len(data) and not connection.transport.is_closing():
        piece = random.choice([1, 9, 100, 4096, len(data)])
        connection.data_received(data[at : at + piece])
        at += piece


async def settled(connection: Connection[Any]) -> None:
    """Let handlers run, end the connection, and see that nothing is left of it."""
    for _ in range(4):
        await asyncio.sleep(0)
    connection.transport.close()
    for _ in range(6):
        await asyncio.sleep(0)
    assert not connection.calls, "calls are left"
    assert not connection.blocked, "writers are left"


async def to_server(random: random.Random, data: bytes = b"") -> None:
    """One input for a server: these bytes, or else changed ones of an honest client."""
    server = Server(ROUTES, Limits())
    connection = ServerConnection(server)
    connection.connection_made(StandIn(connection))
    start = PREFACE if random.random() < 0.98 else random.randbytes(24)
    feed(connection, data or start + mutated(client_frames(random), random), random)
    await settled(connection)
    assert not server.connections, "the connection is left"
    assert connection.hold(0) is True
    assert connection.held_bytes == 0, f"{connection.held_bytes} held bytes are left"


async def to_client(random: random.Random, data: bytes = b"") -> None:
    """One input for a client with four calls: these bytes, or else changed ones of an honest server."""
    connection = ClientConnection(CLIENT_LIMITS, lambda connection: None)
    connection.connection_made(StandIn(connection))
    calls = [await connection.begin(HEAD) for _ in range(4)]
    writing = []
    for call in calls:
        assert call
        writing.append(asyncio.create_task(call.write(b"m" * random.choice([0, 100, 70_000]))))
        await asyncio.sleep(0)
        if random.random() < 0.5:
            call.end()
    connection.flush()
    feed(connection, data or mutated(server_frames(random), random), random)
    await settled(connection)
    for call in calls:
        assert call
        assert call.done.done(), "a call has no end"
    await asyncio.gather(*writing)  # each returns once its call is over


async def fuzz(side: str, cpu_s: float, seed: int) -> int:
    """Fuzz a side for so much CPU time; the number of inputs."""
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(str(context)))
    one: Callable[[random.Random], Any] = {"server": to_server, "client": to_client}[side]
    process, count, begun_s = psutil.Process(), 0, time.process_time()
    report_s, first_mib = begun_s + REPORT_EVERY_S, 0.0
    while (now_s := time.process_time()) < begun_s + cpu_s:
        generator = random.Random(f"{seed}/{count}")
        try:
            async with asyncio.timeout(HANG_S):
                await one(generator)
        except BaseException:
            print(f"failed: {side} seed {seed} input {count}", flush=True)
            raise
        assert not failures, f"{side} seed {seed} input {count}: {failures}"
        count += 1
        if now_s > report_s:
            gc.collect()
            mib = process.memory_info().rss / (1 << 20)
            first_mib = first_mib or mib
            print(f"{side}: {count} inputs in {now_s - begun_s:.0f} s of CPU, {mib:.0f} MiB", flush=True)
            assert mib < first_mib + GROWTH_MIB, "the process grows"
            report_s += REPORT_EVERY_S
    print(f"{side}: {count} inputs, CPU {sum(process.cpu_times()[:2]):.0f} s, no failure", flush=True)
    return count


if __name__ == "__main__":
    asyncio.run(fuzz(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0))
