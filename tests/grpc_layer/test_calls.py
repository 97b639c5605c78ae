"""Calls between our client, our server and grpc.aio's: the same calls end in the same way with each pair."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from billet.core.errors import Code
from billet.grpc.client import Channel
from billet.grpc.status import RpcError
from tests.grpc_layer.peers import (
    ASK,
    BOUND_S,
    COUNT,
    EARLY,
    ECHO,
    FAIL,
    MIRROR,
    WAIT,
    GrpcioHandlers,
    TestService,
    connected,
    grpcio_channel,
    grpcio_serving,
    serving,
    until,
)  # fmt: skip

METADATA = (("x-text", "a b"), ("x-raw-bin", bytes(range(256))), ("x-two", "1"), ("x-two", "2"))


@pytest.fixture(params=["our server", "grpc.aio's server"])
async def to_either(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Channel, TestService | GrpcioHandlers]]:
    """Our client, connected to either server."""
    if request.param == "our server":
        async with serving() as (service, _, port), connected(port) as channel:
            yield channel, service
    else:
        async with grpcio_serving() as (handlers, port), connected(port) as channel:
            yield channel, handlers


Either = tuple[Channel, TestService | GrpcioHandlers]


async def test_our_client_gets_the_reply_with_its_metadata(to_either: Either) -> None:
    channel, _ = to_either
    for size in (0, 1, 100, 1 << 20, (4 << 20) - 5):
        response = await channel.unary(ECHO, b"r" * size, BOUND_S, METADATA)
        assert response.payload == b"r" * size
        assert [pair for pair in response.headers if pair[0].startswith("x-")] == [
            ("x-head", "h"),
            ("x-head-bin", b"\0\xff"),
        ]
        assert sorted(pair for pair in response.trailers if pair[0].startswith("x-")) == sorted(METADATA)


async def test_our_client_gets_the_servers_own_status_text_and_details(to_either: Either) -> None:
    channel, _ = to_either
    for code in (1, 2, 3, 5, 9, 14, 16):
        with pytest.raises(RpcError) as failed:
            await channel.unary(FAIL, b"%d" % code, BOUND_S)
        assert (failed.value.code, failed.value.text) == (code, "no: ünï, 100 %\n\t")
        assert failed.value.answered
        assert dict(failed.value.trailers) == {"grpc-status-details-bin": b"\x01\x02", "x-why": "so"}


async def test_the_server_learns_within_a_moment_that_our_client_gave_up(to_either: Either) -> None:
    channel, server = to_either
    call = asyncio.create_task(channel.unary(WAIT, b"", BOUND_S))
    await asyncio.sleep(0.1)
    call.cancel()
    assert await asyncio.wait_for(server.cancelled.get(), BOUND_S) == "wait"
    assert (await channel.unary(ECHO, b"on", BOUND_S)).payload == b"on"


async def test_our_clients_deadline_ends_a_call_on_both_sides(to_either: Either) -> None:
    channel, server = to_either
    with pytest.raises(RpcError) as failed:
        await channel.unary(WAIT, b"", 0.2)
    assert failed.value.code == Code.DEADLINE_EXCEEDED
    assert await asyncio.wait_for(server.cancelled.get(), BOUND_S) == "wait"


async def test_our_client_sends_and_reads_a_stream_at_its_own_pace(to_either: Either) -> None:
    channel, _ = to_either
    call = await channel.stream(MIRROR, BOUND_S)
    for number in range(100):
        assert await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    call.end()
    assert await call.read() is None


async def test_a_thousand_streams_share_one_connection() -> None:
    async with serving() as (_, server, port), connected(port) as channel:
        calls = [await channel.stream(MIRROR, BOUND_S) for _ in range(1000)]
        later = asyncio.create_task(channel.unary(ECHO, b"later", BOUND_S))
        await asyncio.gather(*(call.write(b"x") for call in calls))
        assert await asyncio.gather(*(call.read() for call in calls)) == [b"x"] * 1000
        assert not later.done()  # 1,000 calls at a time: this one waits for one to end
        for call in calls:
            call.end()
        assert (await later).payload == b"later"
        assert len(server.connections) == 1


async def test_grpc_aio_as_client_gets_the_same_from_our_server() -> None:
    async with serving() as (_, _, port), grpcio_channel(port) as channel:
        call = channel.unary_unary(ECHO)(b"r" * 100_000, metadata=METADATA, timeout=BOUND_S)
        assert await call == b"r" * 100_000
        assert ("x-head-bin", b"\0\xff") in tuple(await call.initial_metadata())
        trailers = [pair for pair in await call.trailing_metadata() if pair[0].startswith("x-")]
        assert sorted(trailers) == sorted(METADATA)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(FAIL)(b"9", timeout=BOUND_S)
        assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert failed.value.details() == "no: ünï, 100 %\n\t"
        assert ("x-why", "so") in tuple(failed.value.trailing_metadata())
        left_s = float(await channel.unary_unary(ASK)(b"", timeout=50))
        assert 0 < left_s < 51  # grpc.aio rounds up


async def test_a_client_that_cancels_is_not_taken_for_one_that_has_sent_everything() -> None:
    async with serving() as (service, _, port), connected(port) as channel:
        call = await channel.stream(MIRROR, BOUND_S)
        await call.write(b"half of it")
        assert await call.read() == b"half of it"
        call.cancel()
        assert await asyncio.wait_for(service.cancelled.get(), BOUND_S) == "mirror"
        assert service.seen == [b"half of it"]  # no None, which would be the end of the messages


async def test_an_early_end_is_not_hidden_by_the_clients_failed_write() -> None:
    async with serving() as (_, _, port), connected(port) as channel:
        for _ in range(50):
            call = await channel.stream(EARLY, BOUND_S)
            while await call.write(b"x" * 10_000):
                pass
            with pytest.raises(RpcError) as failed:
                await call.read()
            assert (failed.value.code, failed.value.text) == (Code.FAILED_PRECONDITION, "enough")


async def test_a_slow_reader_holds_its_sender_back_and_nobody_else() -> None:
    async with serving() as (service, _, port), connected(port) as channel:
        slow = await channel.stream(COUNT)
        await slow.write(b"100000")
        await until(lambda: len(service.seen) >= 5)
        for _ in range(20):  # others go on, and the sender of the slow one does not
            await channel.unary(ECHO, b"r" * 10_000, BOUND_S)
        assert len(service.seen) < 40  # 4 MB
        for _ in range(100):
            assert await slow.read() == b"x" * 100_000
        slow.cancel()


async def test_a_slow_handler_holds_its_client_back() -> None:
    async with serving() as (service, _, port), connected(port) as channel:
        call = await channel.stream(WAIT + "Stream")
        assert service.seen == []
        call.cancel()
        upload = await channel.stream(MIRROR)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while await upload.write(b"u" * 100_000):
                sent += 1

        sending = asyncio.create_task(send())
        await until(lambda: sent >= 3)
        await channel.unary(ECHO, b"", BOUND_S)
        # The mirror's replies are not read, so it stops reading.
        await until(lambda: len(service.seen) >= 3)
        assert sent < 60
        upload.cancel()
        await sending


async def test_what_is_not_grpc_gets_http_and_grpc_errors() -> None:
    async with serving() as (_, _, port), connected(port) as channel:
        with pytest.raises(RpcError) as failed:
            await channel.unary("/t.T/Nothing", b"", BOUND_S)
        assert (failed.value.code, failed.value.text) == (Code.UNIMPLEMENTED, "unknown method /t.T/Nothing")
        call = await channel.stream(ECHO, BOUND_S)
        await call.write(b"1")
        await call.write(b"2")
        call.end()
        with pytest.raises(RpcError) as failed:
            await call.read()
        assert failed.value.code == Code.INTERNAL


async def test_an_unexpected_error_of_a_handler_is_not_shown_to_the_client() -> None:
    async with serving() as (_, _, port), connected(port) as channel:
        with pytest.raises(RpcError) as failed:
            await channel.unary(FAIL, b"not a number", BOUND_S)
        assert (failed.value.code, failed.value.text) == (Code.UNKNOWN, "internal error; see the server's log")


async def test_metadata_of_64_kib_passes_in_both_directions() -> None:
    large = (("x-large", "v" * 60_000),)
    async with serving() as (_, _, port), connected(port) as channel, grpcio_channel(port) as theirs:
        assert large[0] in (await channel.unary(ECHO, b"", BOUND_S, large)).trailers
        call = theirs.unary_unary(ECHO)(b"", metadata=large, timeout=BOUND_S)
        assert await call == b""
        assert large[0] in tuple(await call.trailing_metadata())


async def test_messages_above_the_limit_are_refused_and_the_connection_goes_on() -> None:
    async with serving() as (_, server, port), connected(port) as channel, grpcio_channel(port) as theirs:
        for attempt in (channel.unary(ECHO, b"r" * (4 << 20 | 1)), theirs.unary_unary(ECHO)(b"r" * (4 << 20 | 1))):
            with pytest.raises((RpcError, grpc.aio.AioRpcError)) as failed:
                await attempt
            assert "RESOURCE_EXHAUSTED" in str(failed.value)
            assert "4194305 vs. 4194304" in str(failed.value)
        assert (await channel.unary(ECHO, b"r" * (4 << 20))).payload == b"r" * (4 << 20)
        assert len(server.connections) == 2


async def test_compressed_messages_are_read() -> None:
    async with serving() as (_, _, port), grpcio_channel(port) as channel:
        assert await channel.unary_unary(ECHO)(b"z" * 100_000, compression=grpc.Compression.Gzip) == b"z" * 100_000
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await channel.unary_unary(ECHO)(b"z" * 100_000, compression=grpc.Compression.Deflate)
        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as failed:  # 5 MB, packed into 5 kB
            await channel.unary_unary(ECHO)(b"z" * 5_000_000, compression=grpc.Compression.Gzip)
        assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
