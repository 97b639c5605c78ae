"""How calls end when one side says what HTTP/2 does not allow, or goes away at an awkward moment."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from billet.core.errors import Code
from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.client_connection import ClientConnection
from billet.grpc.connection import Connection
from billet.grpc.http2 import CANCEL
from billet.grpc.interface import Routes
from billet.grpc.server import Server
from billet.grpc.status import RpcError
from tests.grpc_layer.fuzz import HEAD, StandIn
from tests.grpc_layer.peers import BOUND_S, ECHO, INSECURE, MIRROR, connected, serving


async def test_promise_4_what_was_written_as_the_connection_is_given_up_counts_as_sent() -> None:
    """Broken on purpose (only flush() counts): the create is made a second time, on the next connection."""
    connection = ClientConnection(CLIENT_LIMITS, lambda connection: None)
    connection.connection_made(StandIn(connection))
    call = await connection.begin(HEAD)
    assert call
    call.send_only(b"create")
    connection.give_up("a flood")
    error = await call.done
    assert error
    assert (error.code, error.unsent) == (Code.UNAVAILABLE, False)


async def test_a_connection_that_was_given_up_takes_no_memory_once_it_is_closed() -> None:
    """Broken on purpose (the timer that cuts it off goes on): floods of bad connections take 17 KB each for 20 s."""
    connection = ClientConnection(CLIENT_LIMITS, lambda connection: None)
    connection.connection_made(StandIn(connection))
    connection.give_up("a flood")
    given_up = weakref.ref(connection)
    del connection
    for _ in range(3):
        await asyncio.sleep(0)  # its transport says that it is closed
    gc.collect()
    assert given_up() is None


async def test_values_and_texts_with_spaces_at_their_ends_do_not_hang_a_call() -> None:
    """libnghttp2 refuses such headers, and so ends the call without a word to the other side."""

    async def answer(request: bytes, call: object) -> bytes:
        call.trailers = (("x-b", " z "),)  # type: ignore[attr-defined]
        if request:
            raise RpcError(5, " no such thing: ")
        return request

    server = Server(Routes({"/t.T/Answer": answer}))
    port = await server.listen("127.0.0.1", 0, INSECURE)
    async with connected(port) as channel:
        response = await channel.unary("/t.T/Answer", b"", BOUND_S, (("x-a", " y "),))
        assert dict(response.trailers)["x-b"] == "z"
        with pytest.raises(RpcError) as failed:
            await channel.unary("/t.T/Answer", b"fail", BOUND_S)
        assert (failed.value.code, failed.value.text) == (5, " no such thing: ")
    await server.stop(0)


async def test_a_call_that_libnghttp2_itself_ends_does_not_wait_for_the_other_side() -> None:
    """Broken on purpose (its events are read only when bytes come): the call hangs for ever."""
    async with serving() as (_, _, port), connected(port) as channel:
        with pytest.raises(RpcError) as failed:  # more than it will send
            await asyncio.wait_for(channel.unary(ECHO, b"", None, (("x-large", "v" * 300_000),)), BOUND_S)
        assert failed.value.code == Code.UNAVAILABLE


async def test_malformed_metadata_of_the_server_is_an_error_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (_, _, port), connected(port) as channel:
        monkeypatch.setattr("billet.grpc.metadata.b64encode", lambda raw: b"*not base64*")
        with pytest.raises(RpcError) as failed:
            await channel.unary(ECHO, b"", BOUND_S)
        assert (failed.value.code, failed.value.text) == (
            Code.INTERNAL,
            "the value of metadata 'x-head-bin' is not base64",
        )


async def test_many_small_pairs_of_metadata_break_no_connection() -> None:
    async with serving() as (_, _, port), connected(port) as channel:
        call = await channel.stream(MIRROR, BOUND_S)
        many = tuple((f"x-{number}", "v") for number in range(1500))
        assert (await channel.unary(ECHO, b"", BOUND_S, many)).trailers == many
        await call.write(b"still here")
        assert await call.read() == b"still here"
        call.cancel()


async def test_a_connection_that_arrives_while_the_server_stops_is_told_to_go() -> None:
    """Broken on purpose (only those that were there are told): the server waits for it until its grace is over."""
    arrived = asyncio.Event()

    async def hold(call: object) -> None:
        arrived.set()
        await call.read()  # type: ignore[attr-defined]

    server = Server(Routes(streams={"/t.T/Hold": hold}))  # type: ignore[dict-item]
    port = await server.listen("127.0.0.1", 0, INSECURE)
    listen = server.stop_listening
    server.stop_listening = lambda: None  # type: ignore[method-assign]  # as if its handshake had begun before
    async with connected(port) as before:
        held = await before.stream("/t.T/Hold")
        await arrived.wait()
        stopping = asyncio.create_task(server.stop(BOUND_S))
        await asyncio.sleep(0)
        async with connected(port) as late:
            with pytest.raises(RpcError) as failed:
                await late.unary("/t.T/Nothing", b"", BOUND_S)
            assert failed.value.code == Code.UNIMPLEMENTED or "goes away" in failed.value.text
            held.cancel()
            await asyncio.wait_for(stopping, BOUND_S / 2)
    listen()


async def test_a_call_that_ends_as_it_has_written_is_not_sent_any_more() -> None:
    """Broken on purpose (no reset while its last message waits): what the client still sends counts as a flood."""
    resets: list[int] = []
    reset = Connection.reset

    async def early(call: object) -> None:
        await call.read()  # type: ignore[attr-defined]
        await call.write(b"enough")  # type: ignore[attr-defined]

    server = Server(Routes(streams={"/t.T/Early": early}))  # type: ignore[dict-item]
    port = await server.listen("127.0.0.1", 0, INSECURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "reset", lambda self, *args: (resets.append(args[1]), reset(self, *args)))
        async with connected(port) as channel:
            call = await channel.stream("/t.T/Early", BOUND_S)
            await call.write(b"go")
            assert await call.read() == b"enough"
            assert await call.read() is None
            assert resets[0] == 0
    await server.stop(0)


async def test_a_reset_with_cancel_after_the_deadline_is_the_deadlines() -> None:
    """A server whose clock is first resets the call. Broken on purpose (every CANCEL is a cancel): CANCELLED."""
    loop = asyncio.get_running_loop()
    async with serving() as (_, _, port), connected(port) as channel:
        late, early = await channel.stream(MIRROR, 60.0), await channel.stream(MIRROR, 60.0)
        assert late.deadline
        late.deadline.cancel()
        late.deadline = loop.call_at(loop.time(), lambda: None)
        for call in (late, early):
            call.client.reset_received(call, CANCEL)
    assert [call.error and call.error.code for call in (late, early)] == [Code.DEADLINE_EXCEEDED, Code.CANCELLED]
