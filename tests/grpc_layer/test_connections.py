"""Connections: how they begin, rest, break and end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from billet.adapters.pki import Files, write_pki
from billet.core.errors import Code
from billet.core.metadata import RETRY_PUSHBACK
from billet.grpc import server_connection
from billet.grpc.client import CLIENT_LIMITS, Channel
from billet.grpc.dial import Address
from billet.grpc.limits import Limits
from billet.grpc.messages import HEAD_BYTES, frame
from billet.grpc.server import Server
from billet.grpc.status import RpcError
from billet.wire.tls import ClientTls, TlsSettings
from tests.grpc_layer.peers import (
    BOUND_S,
    ECHO,
    FAIL,
    INSECURE,
    MIRROR,
    WAIT,
    TestService,
    connected,
    grpcio_channel,
    serving,
    until,
)  # fmt: skip

# Stopping


async def test_a_stopping_server_finishes_the_calls_that_have_arrived() -> None:
    async with serving() as (service, server, port), connected(port) as channel, grpcio_channel(port) as theirs:
        our_call = asyncio.create_task(channel.unary(WAIT, b"ours", BOUND_S))
        their_call = theirs.unary_unary(WAIT)(b"theirs")
        await service.waiting.get()
        await asyncio.wait_for(service.waiting.get(), BOUND_S)
        stopping = asyncio.create_task(server.stop(BOUND_S))
        await until(lambda: channel.usable() is None)  # the client has been told
        service.release.set()
        assert (await our_call).payload == b"ours"
        assert await their_call == b"theirs"
        await stopping


async def test_calls_that_outlast_the_grace_get_unavailable_never_cancelled() -> None:
    async with serving() as (service, server, port), connected(port) as channel:
        calls = [asyncio.create_task(channel.unary(WAIT, b"")) for _ in range(10)]
        for _ in calls:
            await service.waiting.get()
        await server.stop(0.05)
        for call in calls:
            with pytest.raises(RpcError) as failed:
                await call
            assert (failed.value.code, failed.value.answered) == (Code.UNAVAILABLE, True)
            assert "stopping" in failed.value.text


async def test_a_server_that_is_replaced_again_and_again_fails_no_call() -> None:
    """A client calls without pause while each server stops as the next one starts at the same port."""
    service = TestService()
    done = asyncio.Event()
    count = 0

    async def call_without_pause(channel: Channel) -> None:
        nonlocal count
        while not done.is_set():
            response = await channel.unary(ECHO, b"on", BOUND_S)
            assert response.payload == b"on"
            count += 1

    server = Server(service.routes)
    port = await server.listen("127.0.0.1", 0, INSECURE)
    async with connected(port) as channel:
        callers = [asyncio.create_task(call_without_pause(channel)) for _ in range(8)]
        for _ in range(10):
            before = count
            await until(lambda before=before: count > before + 100)
            old, server = server, Server(service.routes)
            old.stop_listening()  # the port is free at once; its connections go on
            await server.listen("127.0.0.1", port, INSECURE)
            await old.stop(BOUND_S)
        done.set()
        await asyncio.gather(*callers)
        await server.stop(0)


async def test_a_call_that_was_never_sent_is_made_on_the_next_connection() -> None:
    """The server goes away just as the call is queued."""
    async with serving() as (_, server, port), connected(port) as channel:
        await channel.unary(ECHO, b"", BOUND_S)
        (connection,) = server.connections
        call = asyncio.create_task(channel.unary(ECHO, b"again", BOUND_S))
        connection.go_away()
        connection.finish_going()
        assert (await call).payload == b"again"


async def test_a_call_that_may_have_been_sent_is_not_repeated() -> None:
    async with serving() as (service, server, port), connected(port) as channel:
        call = asyncio.create_task(channel.unary(WAIT, b"", BOUND_S))
        await service.waiting.get()
        (connection,) = server.connections
        connection.transport.abort()
        with pytest.raises(RpcError) as failed:
            await call
        assert (failed.value.code, failed.value.unsent, failed.value.answered) == (Code.UNAVAILABLE, False, False)
        assert service.waiting.empty()
        assert (await channel.unary(ECHO, b"on", BOUND_S)).payload == b"on"


async def test_no_server_is_an_error_at_once_and_ready_waits_for_one() -> None:
    async with serving() as (_, server, port):
        await server.stop(0)
        channel = Channel(Address("127.0.0.1", port))
        with pytest.raises(RpcError) as failed:
            await channel.unary(ECHO, b"")
        assert (failed.value.code, failed.value.unsent) == (Code.UNAVAILABLE, True)
        assert not await channel.ready(0.05)
        waiting = asyncio.create_task(channel.ready(BOUND_S))
        again = Server(TestService().routes)
        await again.listen("127.0.0.1", port, INSECURE)
        assert await waiting
        await channel.close()
        await again.stop(0)


# Time


async def test_a_connection_that_does_not_speak_is_closed() -> None:
    async with serving(Limits(preface_s=0.1)) as (_, server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), BOUND_S) is not None  # its own settings, then the end
        writer.close()
        assert not server.connections


async def test_an_idle_connection_is_told_to_go_and_one_in_use_is_not() -> None:
    async with (
        serving(Limits(idle_s=0.2)) as (service, server, port),
        connected(port) as idle,
        connected(port) as busy,
    ):
        await idle.unary(ECHO, b"", BOUND_S)
        held = asyncio.create_task(busy.unary(WAIT, b"held", BOUND_S))
        await service.waiting.get()
        await until(lambda: len(server.connections) == 1)
        await asyncio.sleep(0.5)
        service.release.set()
        assert (await held).payload == b"held"
        assert (await idle.unary(ECHO, b"on", BOUND_S)).payload == b"on"


@asynccontextmanager
async def frozen_between(port: int) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A relay that passes everything on until it freezes, as a network that breaks without a word."""
    frozen = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            if not frozen.is_set():
                writer.write(data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(relay(reader, onward[1]), relay(onward[0], writer), return_exceptions=True)
        onward[1].close()
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1], frozen
    finally:
        listener.close()


async def test_a_network_that_breaks_without_a_word_ends_the_calls_on_both_sides() -> None:
    limits = Limits(keepalive_s=0.2, keepalive_wait_s=0.2)
    async with (
        serving(limits) as (service, server, port),
        frozen_between(port) as (relay, frozen),
        connected(relay, replace(CLIENT_LIMITS, keepalive_s=0.2, keepalive_wait_s=0.2)) as channel,
    ):
        held = asyncio.create_task(channel.unary(WAIT, b""))
        await service.waiting.get()
        await asyncio.sleep(1)  # quiet, but alive: both sides ask, and hear
        assert not held.done()
        frozen.set()
        with pytest.raises(RpcError) as failed:
            await asyncio.wait_for(held, BOUND_S)
        assert failed.value.code == Code.UNAVAILABLE
        assert await asyncio.wait_for(service.cancelled.get(), BOUND_S) == "wait"
        await until(lambda: not server.connections)


async def test_a_client_may_ping_each_second_while_its_call_is_held() -> None:
    """grpc's own keepalive, at the shortest interval that it allows itself."""
    options = [
        ("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    ]  # fmt: skip
    async with (
        serving() as (service, _, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        call = channel.unary_unary(WAIT)(b"held")
        await service.waiting.get()
        await asyncio.sleep(5)
        service.release.set()
        assert await call == b"held"


# Limits


async def test_connections_above_the_limits_are_refused_and_the_others_go_on() -> None:
    async with serving(Limits(connections=3, connections_per_address=2)) as (_, server, port):
        async with connected(port) as first, connected(port) as second, connected(port) as third:
            await first.unary(ECHO, b"", BOUND_S)
            await second.unary(ECHO, b"", BOUND_S)
            with pytest.raises(RpcError):
                await third.unary(ECHO, b"", BOUND_S)
            await first.unary(ECHO, b"", BOUND_S)
            assert len(server.connections) == 2
        await until(lambda: not server.connections)
        async with connected(port) as later:
            await later.unary(ECHO, b"", BOUND_S)


async def test_a_client_that_does_not_read_its_replies_gets_no_more_of_them() -> None:
    limits = Limits(queued_bytes=1 << 20)
    async with (
        serving(limits) as (service, server, port),
        connected(port, replace(CLIENT_LIMITS, window_bytes=0)) as deaf,
    ):
        calls = [asyncio.create_task(deaf.unary(ECHO, b"r" * (1 << 20))) for _ in range(2)]
        await until(lambda: any(each.queued_bytes() > 1 << 20 for each in server.connections))
        calls.append(asyncio.create_task(deaf.unary(WAIT, b"one more")))
        async with connected(port) as other:
            await other.unary(ECHO, b"", BOUND_S)
        assert service.waiting.empty()  # it waits for the replies before it to be read
        for call in calls:
            call.cancel()


async def test_messages_that_nobody_reads_are_bounded_for_each_connection() -> None:
    async with serving(Limits(held_bytes=2 << 20)) as (_, _, port), connected(port) as channel:
        halves = [await channel.stream(ECHO) for _ in range(8)]  # unary: nothing is read before the end
        for call in halves:
            await call.write(b"h" * 1_000_000)
        errors = []
        for call in halves:
            try:
                async with asyncio.timeout(1):
                    await call.read()
            except TimeoutError:
                continue
            except RpcError as error:
                errors.append(error.code)
        assert errors
        assert set(errors) == {Code.UNAVAILABLE}
        for call in halves:
            call.cancel()
        assert (await channel.unary(ECHO, b"r" * 1_000_000, BOUND_S)).payload == b"r" * 1_000_000


async def test_a_client_whose_large_calls_are_refused_again_and_again_still_gets_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken on purpose (it stays on its connection): once 8 MiB came too late for their calls, nothing comes in."""
    monkeypatch.setattr(server_connection, "WINDOW_BYTES", 8 << 20)
    monkeypatch.setattr(server_connection, "WINDOW_LEFT_BYTES", 2 << 20)
    async with serving(Limits(held_bytes=1 << 20)) as (_, _, port), grpcio_channel(port) as channel:
        large = channel.unary_unary(ECHO)
        codes: set[grpc.StatusCode] = set()
        for _ in range(20):
            calls = [large(b"l" * 3_000_000, timeout=BOUND_S) for _ in range(40)]
            codes |= {await call.code() for call in calls}
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert grpc.StatusCode.UNAVAILABLE in codes
        assert await large(b"small", timeout=BOUND_S) == b"small"


async def _unfinished(channel: Channel, size: int, missing: int, errors: list[RpcError]) -> None:
    """Begin a unary call, whose message is not read before its end, send not all of it, and wait for the error."""
    call = await channel.stream(ECHO)
    call.client.send_data(call.id, frame(b"h" * (size + missing))[: HEAD_BYTES + size])
    try:
        await call.read()
    except RpcError as error:
        errors.append(error)


async def test_messages_that_nobody_reads_are_bounded_for_all_connections_and_small_ones_still_pass() -> None:
    """Broken on purpose (only each connection has a bound): 16 of them hold 16 times as much."""
    async with serving(Limits(held_in_all_bytes=4 << 20)) as (_, server, port), AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connected(port)) for _ in range(16)]
        errors: list[RpcError] = []
        async with asyncio.TaskGroup() as group:
            halves = [
                group.create_task(_unfinished(channel, 30_000, 0, errors)) for channel in channels for _ in range(20)
            ]
            await until(lambda: bool(errors))
            async with connected(port) as calm:
                await calm.unary(ECHO, b"small", BOUND_S)
            assert server.held.total <= 4 << 20
            for task in halves:
                task.cancel()
        assert {error.code for error in errors} == {Code.UNAVAILABLE}
        assert all(int(dict(error.trailers)[RETRY_PUSHBACK]) >= 1000 for error in errors)
        for channel in channels:
            await channel.close()
        await until(lambda: server.held.total == 0)


async def test_large_requests_wait_for_memory_instead_of_being_received_and_refused() -> None:
    """Broken on purpose (all get credit at once): the server refuses most of the 40, or holds 120 MB."""
    async with serving(Limits(large_in_all_bytes=8 << 20)) as (service, server, port), AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpcio_channel(port)) for _ in range(2)]
        calls = [channels[number % 2].unary_unary(WAIT)(b"l" * 3_000_000, timeout=BOUND_S) for number in range(40)]
        await until(lambda: server.turns.waiting >= 30)
        assert await channels[0].unary_unary(ECHO)(b"small", timeout=BOUND_S) == b"small"
        assert server.held.total + server.turns.held_bytes <= 16 << 20
        service.release.set()
        replies = await asyncio.gather(*calls)
        assert {len(reply) for reply in replies} == {3_000_000}
        await until(lambda: server.turns.held_bytes == 0 and server.turns.waiting == 0)


async def test_who_waits_for_a_turn_for_too_long_is_told_when_to_come_back() -> None:
    """Broken on purpose (no time limit): it waits for as long as others keep their turns."""
    limits = Limits(large_in_all_bytes=8 << 20, turn_wait_s=0.5)
    async with serving(limits) as (service, server, port), connected(port) as channel:
        calls = [asyncio.create_task(channel.unary(WAIT, b"l" * 3_000_000, BOUND_S)) for _ in range(4)]
        await until(lambda: sum(call.done() for call in calls) == 3)  # one has its turn, the others were refused
        service.release.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        errors = [error for error in found if isinstance(error, RpcError)]
        assert {(error.code, error.text.partition(";")[0]) for error in errors} == {
            (Code.UNAVAILABLE, "a large request has waited for 0.5 s behind others")
        }
        assert all(int(dict(error.trailers)[RETRY_PUSHBACK]) >= 1000 for error in errors)
        await until(lambda: server.turns.held_bytes == 0)


async def test_who_does_not_use_its_turn_loses_it_to_those_who_wait() -> None:
    """Broken on purpose (a turn has no end): senders that never send the rest keep all others out."""
    limits = Limits(large_in_all_bytes=8 << 20, rest_wait_s=0.3, rest_bytes_per_s=100_000_000)
    async with serving(limits) as (_, server, port), connected(port) as stuck, connected(port) as other:
        errors: list[RpcError] = []
        async with asyncio.TaskGroup() as group:
            for missing in (500_000, 0, 0, 0):
                group.create_task(_unfinished(stuck, 3_000_000, missing, errors))
            await until(lambda: server.turns.waiting > 0)
            assert len((await other.unary(ECHO, b"l" * 3_000_000, BOUND_S)).payload) == 3_000_000
            assert len((await stuck.unary(ECHO, b"l" * 3_000_000, BOUND_S)).payload) == 3_000_000
            await stuck.close()
        refused = {error.text.partition(",")[0] for error in errors if error.trailers}
        assert refused == {"the rest of a large request came too slowly"}


async def test_a_method_that_strangers_may_call_takes_no_large_request() -> None:
    """Broken on purpose (it may have a turn): nine strangers hold all memory for the requests of others."""
    async with serving(small=(ECHO,)) as (_, server, port), connected(port) as channel:
        with pytest.raises(RpcError) as failed:
            await channel.unary(ECHO, b"l" * 100_000, BOUND_S)
        assert failed.value.code == Code.RESOURCE_EXHAUSTED
        assert server.turns.held_bytes == 0
        assert (await channel.unary(ECHO, b"s" * 30_000, BOUND_S)).payload == b"s" * 30_000


@pytest.mark.parametrize("seed", range(3))
async def test_streams_of_large_and_small_messages_go_on_in_any_order(seed: int) -> None:
    """Broken on purpose (credit for a large message only once): after large, small, small, large nothing comes."""
    draw = random.Random(seed)
    sizes = [draw.choice([draw.randint(0, 400_000), draw.randint(0, 40_000)]) for _ in range(60)]
    sizes += [100_000, 20_000, 20_000, 100_000, 3 << 20, 640 << 10, 640 << 10, 3 << 20]
    async with serving() as (_, _, port), connected(port) as channel:
        call = await channel.stream(MIRROR, BOUND_S)

        async def send() -> None:
            for size in sizes:
                await call.write(b"m" * size)
            call.end()

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            assert [len(await call.read() or b"") for _ in sizes] == sizes
        assert await call.read() is None


async def test_metadata_above_the_limit_ends_its_call_only() -> None:
    async with serving(Limits(header_list_bytes=8 << 10)) as (_, _, port), connected(port) as channel:
        call = asyncio.create_task(channel.stream(MIRROR, BOUND_S))
        mirrored = await call
        with pytest.raises(RpcError) as failed:
            await channel.unary(ECHO, b"", BOUND_S, (("x-large", "v" * 20_000),))
        assert (failed.value.code, failed.value.text) == (
            Code.RESOURCE_EXHAUSTED,
            "metadata larger than max (8192 bytes)",
        )
        await mirrored.write(b"still here")
        assert await mirrored.read() == b"still here"
        mirrored.cancel()


# TLS and proxies


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_pki(tmp_path_factory.mktemp("pki"), ["127.0.0.1"], days=1)


def grpc_credentials(pki: Files) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        *(Path(path).read_bytes() for path in (pki.ca, pki.client_key, pki.client_cert))
    )


async def test_tls_with_certificates_on_both_sides(pki: Files) -> None:
    tls = TlsSettings(False, str(pki.server_cert), str(pki.server_key), True, str(pki.ca))
    mine = ClientTls(str(pki.ca), str(pki.client_cert), str(pki.client_key))
    async with serving(tls=tls) as (service, _, port):
        async with connected(port, tls=mine) as channel:
            assert (await channel.unary(ECHO, b"r" * 300_000, BOUND_S)).payload == b"r" * 300_000
        (certificate,) = service.certificates
        assert isinstance(certificate, dict)
        assert "billet client" in str(certificate["subject"])
        credentials = grpc_credentials(pki)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as theirs:
            assert await theirs.unary_unary(ECHO)(b"hello", timeout=BOUND_S) == b"hello"
        for wrong in (ClientTls(str(pki.ca)), None):
            async with connected(port, tls=wrong) as stranger:
                with pytest.raises(RpcError) as failed:
                    await stranger.unary(ECHO, b"", BOUND_S)
                assert failed.value.code == Code.UNAVAILABLE


async def test_calls_pass_through_a_proxy(pki: Files) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        asked.append(request)
        if b"Basic dXNlcjpwYXNz" not in request:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        host, _, to = request.split()[1].decode().rpartition(":")
        onward = await asyncio.open_connection(host, int(to))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer), return_exceptions=True)

    listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
    at = listener.sockets[0].getsockname()[1]
    tls = TlsSettings(cert=str(pki.server_cert), key=str(pki.server_key))
    async with serving(tls=tls) as (_, _, port):
        mine = ClientTls(str(pki.ca))
        async with connected(port, tls=mine, proxy=f"http://user:pass@127.0.0.1:{at}") as channel:
            assert (await channel.unary(ECHO, b"through", BOUND_S)).payload == b"through"
        assert asked[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
        async with connected(port, tls=mine, proxy=f"http://127.0.0.1:{at}") as channel:
            with pytest.raises(RpcError) as failed:
                await channel.unary(FAIL, b"2", BOUND_S)
            assert "407 Proxy Authentication Required" in failed.value.text
    listener.close()
