"""What somebody can do on the agents' port before a hello has proven who it is."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from picows import WSError, WSMsgType, WSTransport, ws_connect

from billet.accepting import ConnectionLimits
from billet.adapters.pki import write_pki
from billet.core.model import Host
from billet.link import connection
from billet.link import server as link_server
from billet.link.server import LinkServer
from billet.wire import tls
from tests.cluster.clients import eventually
from tests.link.test_hello import ROOM, Program, dial, signed

WITHIN_S = 30.0


@pytest.fixture
async def server() -> AsyncIterator[tuple[LinkServer, int]]:
    link = LinkServer("", 0.1, 0.5, limits=ConnectionLimits(connections=3))
    yield link, await link.listen("127.0.0.1", 0, None)
    await link.close()


async def hung_up(port: int, says: bytes = b"") -> bool:
    """Whether the server closes a connection that says this and no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(says)
    try:
        async with asyncio.timeout(WITHIN_S):
            return await reader.read() == b""
    except ConnectionError:
        return True
    finally:
        writer.close()


@pytest.mark.parametrize("says", [b"", b"GET /agent HTTP/1.1\r\nhost: x\r\nx-"])
async def test_half_a_handshake_ends(monkeypatch: pytest.MonkeyPatch, says: bytes) -> None:
    monkeypatch.setattr(link_server, "HANDSHAKE_S", 0.3)
    link = LinkServer("", 0.1, 0.5)
    port = await link.listen("127.0.0.1", 0, None)
    assert await hung_up(port, says)
    await link.close()


async def test_a_connection_without_a_hello_ends(
    server: tuple[LinkServer, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the fix: it stays as long as its owner likes."""
    monkeypatch.setattr(connection, "HELLO_WITHIN_S", 0.3)
    link, port = server
    silent = await dial(port, Program())
    agent = await dial(port, Program(lambda nonce: signed(nonce=nonce)))
    await eventually(lambda: silent.closed)
    assert silent.goodbye.startswith("no hello within")
    assert link.instance("h1") == "one"
    assert not agent.closed


async def test_a_large_message_before_the_hello_ends_the_connection(server: tuple[LinkServer, int]) -> None:
    """Before the fix: up to 256 MiB of fragments are kept, and parsed."""
    _, port = server
    stranger = Program()
    transport, _ = await ws_connect(lambda: stranger, f"ws://127.0.0.1:{port}/agent")
    for n in range(4):
        transport.send(WSMsgType.BINARY if n == 0 else WSMsgType.CONTINUATION, bytes(1 << 20), fin=False)
    await eventually(lambda: stranger.closed)


async def test_agents_that_are_known_take_no_place_from_others(server: tuple[LinkServer, int]) -> None:
    """Before the fix: nothing limits the connections of strangers."""
    link, port = server
    for n in range(5):  # more than the limit
        host = Host(f"h{n}", ROOM, ROOM)
        await dial(port, Program(lambda nonce, host=host: signed(nonce=nonce, host=host)))  # type: ignore[misc]
        await eventually(lambda n=n: link.instance(f"h{n}"))
    strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    assert await hung_up(port)
    for _, writer in strangers:
        writer.close()

    while not link.instance("later"):  # until the server has noticed who has left
        later = Program(lambda nonce: signed(nonce=nonce, host=Host("later", ROOM, ROOM)))
        await opened(port, later)
        await eventually(lambda: later.closed or link.instance("later") or not later.nonces)  # noqa: B023


async def opened(port: int, program: Program, tls: ssl.SSLContext | None = None) -> WSTransport:
    """Connect, and wait until the server has said something or hung up."""
    url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/agent"
    transport, _ = await ws_connect(lambda: program, url, ssl_context=tls)
    await eventually(lambda: transport.is_disconnected or program.nonces)
    return transport


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("secure", [False, True])
def test_a_connection_that_was_closed_counts_no_more(factory: object, secure: bool, tmp_path: Path) -> None:
    """Whichever library closes the socket."""
    write_pki(tmp_path, ["127.0.0.1"], 1)
    context = tls.server_context(str(tmp_path / "server.crt"), str(tmp_path / "server.key")) if secure else None
    client = tls.client_context(str(tmp_path / "ca.crt")) if secure else None
    with asyncio.Runner(loop_factory=factory) as runner:  # type: ignore[arg-type]
        runner.run(asyncio.wait_for(come_and_go(context, client), WITHIN_S))


async def test_who_does_not_answer_the_end_of_tls_is_cut_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before the fix: closed after the WebSocket's 5 s, it keeps its descriptor for another 30 s."""
    monkeypatch.setattr(link_server, "HANDSHAKE_S", 0.3)
    write_pki(tmp_path, ["127.0.0.1"], 1)
    client = tls.client_context(str(tmp_path / "ca.crt"))
    link = LinkServer("", 0.1, 0.5, limits=ConnectionLimits(connections=1))
    context = tls.server_context(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    port = await link.listen("127.0.0.1", 0, context)
    silent = await asyncio.to_thread(deaf, port, client)
    async with asyncio.timeout(WITHIN_S / 3):
        program = Program()
        while not program.nonces:
            with suppress(OSError, WSError):
                await opened(port, program, client)
    silent.close()
    await link.close()


def deaf(port: int, client: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection that reads nothing after its handshake, and so sees no end of it."""
    return client.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")


async def come_and_go(context: ssl.SSLContext | None, client: ssl.SSLContext | None) -> None:
    link = LinkServer("", 0.1, 0.5, limits=ConnectionLimits(connections=2))
    port = await link.listen("127.0.0.1", 0, context)
    for _ in range(10):
        program = Program()
        while not program.nonces:  # until the server has noticed who has left
            (await opened(port, program, client)).disconnect()
    await link.close()
