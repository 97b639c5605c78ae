"""Accepting connections: counted from the first moment to the last, with descriptors in reserve."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop
from structlog.testing import capture_logs

from billet.accepting import FEW_DESCRIPTORS, Acceptor, ConnectionLimits, bind
from billet.adapters.pki import write_pki
from billet.reloading import Kept
from billet.wire import tls

WITHIN_S = 30.0
FACTORIES = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=FACTORIES)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Awaitable[None]], None]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with asyncio.Runner(loop_factory=request.param) as runner:

        async def within(work: Awaitable[None]) -> None:
            async with asyncio.timeout(WITHIN_S):
                await work

        yield lambda work: runner.run(within(work))
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def forbid_more_than_twice_as_many() -> None:
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * (highest + 10), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(b"hello")


async def greeting(port: int, held: ExitStack | None = None) -> bytes:
    """What the server says to a new connection; "" if it hangs up."""
    with ExitStack() as own:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            (held or own).callback(writer.close)
            return await reader.read(5)
        except ConnectionError:
            return b""


async def serve(limits: ConnectionLimits, context: Kept[ssl.SSLContext] | None = None, wait_s: float = 60.0) -> int:
    sockets = await bind("127.0.0.1", 0, limits)
    Acceptor(sockets, Greeter, context, wait_s)
    port: int = sockets[0].getsockname()[1]
    return port


async def until(said: bytes, port: int, held: ExitStack | None = None) -> None:
    """Try until the server has noticed who has left."""
    while await greeting(port, held) != said:
        pass


def test_a_connection_counts_until_it_is_closed(run: Callable[[Awaitable[None]], None]) -> None:
    async def story() -> None:
        port = await serve(ConnectionLimits(connections=3))
        for _ in range(3):
            with ExitStack() as held:
                for _ in range(3):
                    await until(b"hello", port, held)
                assert await greeting(port) == b""
        await until(b"hello", port)

    run(story())


def test_connections_count_before_tls_and_leave_when_it_fails(
    run: Callable[[Awaitable[None]], None], tmp_path: Path
) -> None:
    """Before the fix: what has not finished its handshake is not counted."""
    write_pki(tmp_path, ["127.0.0.1"], 1)
    server = tls.kept_server(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    client = tls.client_context(str(tmp_path / "ca.crt"))

    async def connects(port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        except OSError:
            return False
        said = await reader.readexactly(5)
        writer.close()
        return said == b"hello"

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        port = await serve(ConnectionLimits(connections=2), server, 1.0)
        with ExitStack() as held:
            for _ in range(2):  # these say nothing
                held.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert not await connects(port)
            while not await connects(port):  # until the handshakes have failed
                pass

    run(story())


def test_descriptors_are_kept_in_reserve(run: Callable[[Awaitable[None]], None]) -> None:
    """Before the fix: connections take the last descriptor, and the store finds none."""

    async def story() -> None:
        port = await serve(ConnectionLimits(connections_per_address=0, reserve_share=0.25))
        with ExitStack() as held, capture_logs() as lines:
            forbid_more_than_twice_as_many()
            assert await greeting(port, held) == b"hello"
            while await greeting(port, held):
                pass
            for _ in range(5):
                held.enter_context(socket.socket())
        assert [line["reason"] for line in lines] == [FEW_DESCRIPTORS]
        await until(b"hello", port)

    run(story())
