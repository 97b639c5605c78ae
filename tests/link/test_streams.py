"""How a client's stream ends is how flintlockd's stream ends: a half-close, or a cancel within a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from picows import WSTransport

from billet.core.errors import Cancelled
from billet.core.metadata import ReplyMetadata
from billet.link import dial, server
from billet.link.streams import Pipe, receive_all, send_all
from billet.wire import newer
from billet.wire.flintlock import field

from .chain import START, UID, Handler, Seen, chain, drain

WITHIN_S = 30.0  # the machine may be busy; nothing ends these streams by itself
LARGE = b"x" * (1 << 20)


async def echo(seen: Seen, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """A command that writes its input to its output, and ends with a status after the input has ended."""
    async for message in requests:
        seen.messages.append(message)
        yield message
    seen.half_closed.set()
    yield b"exit 0"


async def silent(seen: Seen, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """A command that reads its input and never writes or ends: `sleep infinity`."""
    reading = asyncio.create_task(drain(seen, requests))
    try:
        yield b"started"
        await asyncio.Event().wait()
    finally:
        reading.cancel()


async def deaf(seen: Seen, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """A command that never reads its input."""
    yield b"started"
    await asyncio.Event().wait()


async def talkative(seen: Seen, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """A command that writes without end: `yes`."""
    while True:
        yield LARGE


@pytest.mark.parametrize("through_follower", [False, True])
async def test_the_end_of_input_is_passed_on_when_the_client_has_half_closed(through_follower: bool) -> None:
    async with asyncio.timeout(WITHIN_S), chain(echo, through_follower) as there:
        call = there.open()
        for message in (START, b"1", b"2"):
            await call.write(message)
        assert [await call.read(), await call.read()] == [b"1", b"2"]
        assert not there.seen.half_closed.is_set()
        await call.done_writing()
        assert await call.read() == b"exit 0"
        assert await call.code() == grpc.StatusCode.OK
        assert there.seen.half_closed.is_set()
        assert not there.seen.cancelled


async def until_blocked(call: Any) -> None:
    """Write until nothing more goes out: every buffer between here and the command is full."""
    wrote = asyncio.Event()

    async def write() -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                await call.write(LARGE)
                wrote.set()

    call.writing = asyncio.create_task(write())  # a write that is given up would cancel the call
    with suppress(TimeoutError):
        while True:
            wrote.clear()
            async with asyncio.timeout(1.0):
                await wrote.wait()


@pytest.mark.parametrize("through_follower", [False, True])
@pytest.mark.parametrize("state", ["waiting for input", "waiting for output", "sending input", "sending output"])
async def test_a_cancel_of_the_client_cancels_the_call_on_the_host(state: str, through_follower: bool) -> None:
    """Broken on purpose (the agent only notices it while it sends or reads): the handler stays for ever.

    So it does in "sending input" if the cancel waits behind the input that nobody reads.
    """
    handler = {"sending input": deaf, "sending output": talkative}.get(state, silent)
    async with asyncio.timeout(WITHIN_S), chain(handler, through_follower) as there:
        call = there.open()
        await call.write(START)
        if state == "sending output":
            await there.seen.started.wait()  # it is not read: the client's window fills
        else:
            assert await call.read() == b"started"
        if state == "waiting for output":
            await call.done_writing()
            await there.seen.half_closed.wait()
        elif state == "sending input":
            await until_blocked(call)
        call.cancel()
        await there.seen.over.wait()
        assert there.seen.cancelled
        assert there.seen.half_closed.is_set() == (state == "waiting for output")


@pytest.mark.parametrize("state", ["waiting for input", "waiting for output", "sending input"])
async def test_when_the_leader_is_killed_its_streams_are_cancelled_on_the_hosts(state: str) -> None:
    """Broken on purpose (the agent looks only at the stream's own connection): "sending input" never ends."""
    async with asyncio.timeout(WITHIN_S), chain(deaf if state == "sending input" else silent) as there:
        call = there.open()
        await call.write(START)
        assert await call.read() == b"started"
        if state == "waiting for output":
            await call.done_writing()
            await there.seen.half_closed.wait()
        elif state == "sending input":
            await until_blocked(call)
        there.relay.cut()
        await there.seen.over.wait()
        assert there.seen.cancelled
        call.cancel()


@pytest.mark.parametrize("handler", [deaf, talkative])
async def test_a_stream_waits_for_whoever_reads_slowly(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken on purpose (a stream's pings need answers): it breaks off, since nobody reads the pings either."""
    for module in (dial, server):
        monkeypatch.setattr(module, "PING_AFTER_S", 1.0)
        monkeypatch.setattr(module, "PONG_WITHIN_S", 1.0)
    pings: list[Pipe] = []
    often = asyncio.Event()
    send_ping = Pipe.send_user_specific_ping

    def counted(pipe: Pipe, transport: WSTransport) -> None:
        pings.append(pipe)
        if pings.count(pipe) == 4:
            often.set()
        send_ping(pipe, transport)

    monkeypatch.setattr(Pipe, "send_user_specific_ping", counted)
    async with asyncio.timeout(WITHIN_S), chain(handler) as there:
        call = there.open()
        await call.write(START)
        await there.seen.started.wait()
        if handler is deaf:
            await until_blocked(call)
        await often.wait()
        assert not there.seen.over.is_set()
        assert await call.read()
        call.cancel()
        await there.seen.over.wait()


async def test_when_an_agents_link_breaks_its_streams_end_on_both_sides() -> None:
    async with asyncio.timeout(WITHIN_S), chain(silent) as there:
        call = there.open()
        await call.write(START)
        assert await call.read() == b"started"
        for writer in there.relay.writers[:2]:  # the link was the first connection; the stream's stays
            writer.transport.abort()
        assert await call.code() == grpc.StatusCode.UNAVAILABLE
        assert "not found" not in await call.details()
        await there.seen.over.wait()
        assert there.seen.cancelled


async def test_input_that_a_client_cancels_half_way_does_not_end() -> None:
    """`tar x` must not take the half that arrived for the whole."""
    async with asyncio.timeout(WITHIN_S), chain(silent) as there:
        for _ in range(20):
            there.flintlockd.seen = Seen()
            call = there.open(method=newer.SSH)
            await call.write(field(1, UID.encode()))
            assert await call.read() == b"started"
            await call.write(b"half of it")
            call.cancel()
            await there.seen.over.wait()
            assert there.seen.cancelled
            assert not there.seen.half_closed.is_set()


@pytest.mark.parametrize("error", [Cancelled("the client cancelled the call"), asyncio.CancelledError()])
async def test_a_transport_that_tells_of_a_cancel_only_by_an_error_of_the_messages(error: BaseException) -> None:
    """Broken on purpose (the error ends the sending task alone): the reply is awaited for ever."""
    told: list[str] = []
    pipe = Pipe(lambda: told.append("the agent"))

    async def messages() -> AsyncIterator[bytes]:
        raise error
        yield b""

    sending = asyncio.create_task(send_all(pipe, messages()))
    with pytest.raises(Cancelled):
        async for _ in receive_all(pipe, ReplyMetadata()):
            pass
    await asyncio.wait([sending])
    assert told == ["the agent"]
