"""The interop cases as a client of Billet's gRPC layer: each calls a server of grpc-go's TestService."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from billet.grpc.interface import Channel, ClientCall
from billet.grpc.status import RpcError
from tests.interop.interop_service import ECHO_INITIAL, ECHO_TRAILING, SERVICE, Value, pb

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, UNAVAILABLE = 0, 1, 2, 4, 12, 14
REQUEST_SIZES, REPLY_SIZES = (27182, 8, 1828, 45904), (31415, 9, 2653, 58979)
LARGE = 16 * (1 << 20) - 64
SPECIAL_TEXT = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
Metadata = Sequence[tuple[str, Value]]


@dataclass
class Ended:
    """How a call ended, and what came with it."""

    code: int
    text: str = ""
    payload: bytes = b""
    headers: dict[str, Value] = field(default_factory=dict)
    trailers: dict[str, Value] = field(default_factory=dict)


class Stream:
    """A call with any number of messages each way."""

    def __init__(self, call: ClientCall | None, error: RpcError | None = None) -> None:
        self._call, self._error = call, error

    async def send(self, message: bytes) -> None:
        if self._call:
            await self._call.write(message)

    async def half_close(self) -> None:
        if self._call:
            self._call.end()

    async def receive(self) -> bytes | None:
        """The next message; None when the call has ended, well or not."""
        try:
            return await self._call.read() if self._call and not self._error else None
        except RpcError as error:
            self._error = error
            return None

    def cancel(self) -> None:
        if self._call:
            self._call.cancel()

    async def ended(self) -> Ended:
        """How it ended, once it has."""
        while await self.receive() is not None:
            pass
        headers, trailers = (dict(self._call.headers), dict(self._call.trailers)) if self._call else ({}, {})
        error = self._error or RpcError(OK)
        return Ended(error.code, error.text, b"", headers, trailers)


class Client:
    """One channel to the server; calls end with a status instead of an exception."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def unary(self, method: str, request: bytes, metadata: Metadata = ()) -> Ended:
        try:
            reply = await self._channel.unary(method, request, None, metadata)
        except RpcError as error:
            return Ended(error.code, error.text, b"", {}, dict(error.trailers))
        return Ended(OK, "", reply.payload, dict(reply.headers), dict(reply.trailers))

    async def stream(self, method: str, metadata: Metadata = (), timeout_s: float | None = None) -> Stream:
        try:
            return Stream(await self._channel.stream(method, timeout_s, metadata))
        except RpcError as error:
            return Stream(None, error)


async def empty_unary(client: Client) -> None:
    assert await client.unary(f"{SERVICE}EmptyCall", b"") == Ended(OK)


async def large_unary(client: Client) -> None:
    reply = await _simple(client, response_size=314159, payload=_payload(271828))
    assert len(pb.SimpleResponse.FromString(reply.payload).payload.body) == 314159


async def client_streaming(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}StreamingInputCall")
    for size in REQUEST_SIZES:
        await stream.send(pb.StreamingInputCallRequest(payload=_payload(size)).SerializeToString())
    await stream.half_close()
    reply = pb.StreamingInputCallResponse.FromString(await stream.receive() or b"")
    assert reply.aggregated_payload_size == sum(REQUEST_SIZES)
    assert await stream.receive() is None
    assert (await stream.ended()).code == OK


async def server_streaming(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}StreamingOutputCall")
    await stream.send(_output(*REPLY_SIZES))
    await stream.half_close()
    for size in REPLY_SIZES:
        assert await _size_of_next(stream) == size
    await _ends_well(stream)


async def ping_pong(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}FullDuplexCall")
    for asked, sent in zip(REPLY_SIZES, REQUEST_SIZES, strict=True):
        await stream.send(_output(asked, payload=_payload(sent)))
        assert await _size_of_next(stream) == asked
    await stream.half_close()
    await _ends_well(stream)


async def empty_stream(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}FullDuplexCall")
    await stream.half_close()
    await _ends_well(stream)


async def cancel_after_begin(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}StreamingInputCall")
    stream.cancel()
    assert (await stream.ended()).code == CANCELLED


async def cancel_after_first_response(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}FullDuplexCall")
    await stream.send(_output(31415, payload=_payload(27182)))
    assert await _size_of_next(stream) == 31415
    stream.cancel()
    assert (await stream.ended()).code == CANCELLED


async def timeout_on_sleeping_server(client: Client) -> None:
    stream = await client.stream(f"{SERVICE}FullDuplexCall", timeout_s=0.001)
    assert (await stream.ended()).code == DEADLINE_EXCEEDED


async def status_code_and_message(client: Client) -> None:
    status = pb.EchoStatus(code=UNKNOWN, message="test status message")
    reply = await _simple(client, response_status=status)
    assert (reply.code, reply.text) == (UNKNOWN, "test status message")
    stream = await client.stream(f"{SERVICE}FullDuplexCall")
    await stream.send(pb.StreamingOutputCallRequest(response_status=status).SerializeToString())
    assert await stream.receive() is None
    ended = await stream.ended()
    assert (ended.code, ended.text) == (UNKNOWN, "test status message")


async def special_status_message(client: Client) -> None:
    reply = await _simple(client, response_status=pb.EchoStatus(code=UNKNOWN, message=SPECIAL_TEXT))
    assert (reply.code, reply.text) == (UNKNOWN, SPECIAL_TEXT)


async def unimplemented_method(client: Client) -> None:
    assert (await client.unary(f"{SERVICE}UnimplementedCall", b"")).code == UNIMPLEMENTED


async def unimplemented_service(client: Client) -> None:
    path = "/grpc.testing.UnimplementedService/UnimplementedCall"
    assert (await client.unary(path, b"")).code == UNIMPLEMENTED


async def custom_metadata(client: Client) -> None:
    await _echoes(client, "test_initial_metadata_value", b"\x0a\x0b\x0a\x0b\x0a\x0b")


async def large_metadata(client: Client) -> None:
    await _echoes(client, "m" * (30 << 10), bytes(range(256)) * 80)


async def large_messages(client: Client) -> None:
    reply = await _simple(client, response_size=LARGE, payload=_payload(LARGE))
    assert len(pb.SimpleResponse.FromString(reply.payload).payload.body) == LARGE
    stream = await client.stream(f"{SERVICE}FullDuplexCall")
    await stream.send(_output(LARGE, payload=_payload(LARGE)))
    assert await _size_of_next(stream) == LARGE
    await stream.half_close()
    await _ends_well(stream)


async def thousand_streams(client: Client) -> None:
    streams = [await client.stream(f"{SERVICE}FullDuplexCall") for _ in range(1000)]

    async def exchange(n: int, stream: Stream) -> None:
        await stream.send(_output(n))
        assert await _size_of_next(stream) == n

    await asyncio.gather(*(exchange(n, stream) for n, stream in enumerate(streams)))
    for stream in streams:
        await stream.half_close()
        await _ends_well(stream)


async def slow_reader(client: Client) -> None:
    """A stream whose replies nobody reads does not hold up the others on its connection."""
    unread = await client.stream(f"{SERVICE}StreamingOutputCall")
    await unread.send(_output(*[1 << 20] * 64))
    await unread.half_close()
    assert await _size_of_next(unread) == 1 << 20
    for _ in range(100):
        assert (await _simple(client, response_size=1000)).code == OK
    for _ in range(63):
        assert await _size_of_next(unread) == 1 << 20
    await _ends_well(unread)


async def early_end(client: Client) -> None:
    """A call that ends while its input is still being sent has its own status, not that of the failed write."""
    for _ in range(50):
        stream = await client.stream(f"{SERVICE}FullDuplexCall")
        status = pb.EchoStatus(code=UNKNOWN, message="enough")
        await stream.send(pb.StreamingOutputCallRequest(response_status=status).SerializeToString())
        for _ in range(200):
            await stream.send(_output(1, payload=_payload(10_000)))
        ended = await stream.ended()
        assert (ended.code, ended.text) == (UNKNOWN, "enough"), ended


CASES: dict[str, Callable[[Client], Awaitable[None]]] = {
    case.__name__: case
    for case in (
        empty_unary, large_unary, client_streaming, server_streaming, ping_pong, empty_stream, cancel_after_begin,
        cancel_after_first_response, timeout_on_sleeping_server, status_code_and_message, special_status_message,
        unimplemented_method, unimplemented_service, custom_metadata, large_metadata, large_messages,
        thousand_streams, slow_reader, early_end,
    )
}  # fmt: skip


async def _echoes(client: Client, initial: str, trailing: bytes) -> None:
    metadata = [(ECHO_INITIAL, initial), (ECHO_TRAILING, trailing)]
    reply = await _simple(client, metadata, response_size=1, payload=_payload(1))
    assert reply.headers.get(ECHO_INITIAL) == initial
    assert reply.trailers.get(ECHO_TRAILING) == trailing
    stream = await client.stream(f"{SERVICE}FullDuplexCall", metadata)
    await stream.send(_output(1, payload=_payload(1)))
    assert await _size_of_next(stream) == 1
    await stream.half_close()
    assert await stream.receive() is None
    ended = await stream.ended()
    assert (ended.code, ended.headers.get(ECHO_INITIAL), ended.trailers.get(ECHO_TRAILING)) == (OK, initial, trailing)


async def _simple(client: Client, metadata: Metadata = (), **fields: object) -> Ended:
    return await client.unary(f"{SERVICE}UnaryCall", pb.SimpleRequest(**fields).SerializeToString(), metadata)


def _payload(size: int) -> pb.Payload:
    return pb.Payload(body=bytes(size))


def _output(*sizes: int, payload: pb.Payload | None = None) -> bytes:
    wanted = [pb.ResponseParameters(size=size) for size in sizes]
    return pb.StreamingOutputCallRequest(response_parameters=wanted, payload=payload).SerializeToString()


async def _size_of_next(stream: Stream) -> int:
    message = await stream.receive()
    assert message is not None, await stream.ended()
    return len(pb.StreamingOutputCallResponse.FromString(message).payload.body)


async def _ends_well(stream: Stream) -> None:
    assert await stream.receive() is None
    ended = await stream.ended()
    assert ended.code == OK, ended
