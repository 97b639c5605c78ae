"""The HTTP port under clients that have no token, send too much, or take their time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from billet.accepting import ConnectionLimits
from billet.api import http_connection
from billet.api.http import BODY_BYTES, http_app
from billet.api.http_server import HttpServer
from billet.api.leader_proxy import LeaderProxy
from billet.wire import gateway
from billet.wire.auth import basic_header
from billet.wire.tls import TlsSettings
from tests.api.callers import callers

TOKEN = "secret"
POST = "POST /v1alpha1/microvm HTTP/1.1\r\nhost: x\r\n"
RIGHT = f"authorization: {basic_header(TOKEN)}\r\n"
CHUNKED = "transfer-encoding: chunked\r\n\r\n"
WITHIN_S = 60.0
TOO_LARGE = b'{"code":8,"message":"the body is too large","details":[]}'  # in the form of all errors
BUFFERED_BYTES = 32 << 20  # more than sockets on both sides take in before anybody reads


@pytest.fixture
async def port() -> AsyncIterator[int]:
    proxy = LeaderProxy(lambda request, metadata: "token", 0)
    server = HttpServer(
        http_app(proxy, callers(TOKEN), lambda: b""),
        TlsSettings(insecure=True),
        ConnectionLimits(connections_per_address=20),
    )
    yield await server.listen("127.0.0.1", 0)
    await server.close()


async def ask(port: int, head: str, body: bytes = b"") -> bytes:
    """The first line of the answer; "" if the connection was closed without one."""
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + body)
            return (await reader.readline()).strip()
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def sent_until_cut_off(port: int, head: str, piece: bytes) -> tuple[int, bytes]:
    """Send pieces without an end. How many bytes went out before the server hung up, and what it answered."""
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = asyncio.create_task(all_of(reader))
        writer.write(head.encode())
        sent = 0
        with suppress(ConnectionError):
            while sent < 8 * BUFFERED_BYTES:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
        writer.close()
        return sent, await answer


async def all_of(reader: asyncio.StreamReader) -> bytes:
    said = b""
    with suppress(ConnectionError):
        while part := await reader.read(1000):
            said += part
    return said


@pytest.mark.parametrize(
    ("head", "answers"),
    [
        (POST + CHUNKED, b"401 Unauthorized"),
        (POST + "content-length: 600000000\r\n\r\n", b"401 Unauthorized"),
        (POST + RIGHT + CHUNKED, TOO_LARGE),
        (POST + RIGHT + "content-length: 600000000\r\n\r\n", TOO_LARGE),
        (POST.replace("POST", "GET") + "content-length: 600000000\r\n\r\n", b""),
    ],
)
async def test_a_body_that_is_refused_is_not_read_to_its_end(port: int, head: str, answers: bytes) -> None:
    """Before the fix: all is read and kept, and only then answered."""
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    sent, answer = await sent_until_cut_off(port, head, piece)
    assert answers in answer
    assert sent < BUFFERED_BYTES


async def test_a_body_of_the_largest_size_is_taken(port: int) -> None:
    for size, answers in ((BODY_BYTES, b"HTTP/1.1 503"), (BODY_BYTES + 1, b"HTTP/1.1 413")):
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"{}" + b" " * (size - 2))
        assert (await ask(port, POST + RIGHT + CHUNKED, body)).startswith(answers)


async def test_a_small_body_that_is_refused_does_not_cost_the_connection(port: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(f"{POST}content-length: 2\r\n\r\n".encode())
            assert b" 401 " in await reader.readline()
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
            writer.write(b"{}")
        writer.close()


async def test_a_large_body_is_parsed_in_a_thread(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the fix: parsed on the event loop, which a body of 20 MB blocks for seconds."""
    parse, threads = gateway.create_request, []

    def noted(body: bytes) -> bytes:
        threads.append(threading.get_ident())
        return parse(body)

    monkeypatch.setattr(gateway, "create_request", noted)
    for size in (100, 100_000):
        body = b'{"id":"%s"}' % (b"x" * size)
        assert b" 503 " in await ask(port, f"{POST}{RIGHT}content-length: {len(body)}\r\n\r\n", body)
    small, large = threads
    assert small == threading.get_ident() != large


@pytest.mark.parametrize(
    "head", ["", "GET /heal", "GET /healthz HTTP/1.1\r\nhost: x\r\n", f"{POST}{RIGHT}content-length: 9\r\n\r\n{{"]
)
async def test_a_client_that_says_nothing_or_half_of_it_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """Before the fix: it keeps its connection, and so a file descriptor, for as long as it likes."""
    monkeypatch.setattr(http_connection, "HEADERS_S", 0.3)
    monkeypatch.setattr(http_connection, "BODY_S", 0.3)
    assert await ask(port, head) == b""


async def test_trickling_does_not_extend_a_deadline(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "HEADERS_S", 0.5)
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        with suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"x-a: b\r\n")
                await asyncio.sleep(0.05)
                await writer.drain()
        writer.close()


async def test_connections_of_one_address_are_limited(port: int) -> None:
    """Before the fix: as many as there are file descriptors."""
    async with asyncio.timeout(WITHIN_S):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert await ask(port, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n") == b""
        for _, writer in held:
            writer.close()
        while not await ask(port, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"):  # until the server has noticed
            pass
