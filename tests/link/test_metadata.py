"""Metadata and status details of forwarded calls, on their whole way: client, follower, leader, agent, flintlockd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.wire import flintlock, metadata
from billet.wire.metadata import DETAILS, MAX_BYTES, CallMetadata, from_host

from .chain import START, UID, Seen, chain

WITHIN_S = 30.0
SENT = (("x-request-id", "r1"), ("x-request-id", "r2"), ("traceparent", "00-4bf9-01"), ("blob-bin", b"\x00\xff,"))
OF_THE_HOP = (("authorization", "Basic eDp5"), ("x-billet-request-id", "id-1"))
HEADERS = (("served-by", "h1"), ("served-by", "socket 2"), ("cookie-bin", b"\x01\x02"))
TRAILERS = (("cost", "12 ms"), ("sum-bin", b"\xfe"))
STATUS_DETAILS = (DETAILS, b"\x08\x09\x12\x03why\x1a\x02ab")
FAR = pytest.mark.parametrize("through_follower", [False, True])


async def succeeds(seen: Seen, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    await context.send_initial_metadata(HEADERS)
    context.set_trailing_metadata(TRAILERS)
    yield b""


async def fails(seen: Seen, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "why", (STATUS_DETAILS, *TRAILERS))
    yield b""


def pairs(given: Any) -> list[tuple[str, str | bytes]]:
    """Without what belongs to the last hop, sorted by key: gRPC keeps the order of one key's values only."""
    kept = ((key, value) for key, value in given if key != "user-agent" and not key.startswith("x-billet-"))
    return sorted(kept, key=lambda pair: pair[0])


@FAR
async def test_metadata_of_a_stream_passes_both_ways(through_follower: bool) -> None:
    async with asyncio.timeout(WITHIN_S), chain(succeeds, through_follower) as there:
        call = there.open(metadata=(*SENT, *OF_THE_HOP))
        await call.write(START)
        assert await call.read() == b""
        assert pairs(await call.initial_metadata()) == pairs(HEADERS)
        assert await call.code() == grpc.StatusCode.OK
        assert pairs(await call.trailing_metadata()) == pairs(TRAILERS)
    assert pairs(there.seen.metadata) == pairs(SENT)
    assert not [key for key, _ in there.seen.metadata if key.startswith("x-billet-")]


@FAR
async def test_status_details_of_a_stream_reach_the_client(through_follower: bool) -> None:
    async with asyncio.timeout(WITHIN_S), chain(fails, through_follower) as there:
        call = there.open()
        await call.write(START)
        assert await call.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert await call.details() == "why"
        assert pairs(await call.trailing_metadata()) == pairs((STATUS_DETAILS, *TRAILERS))


@FAR
async def test_metadata_of_a_unary_call_passes_both_ways(through_follower: bool) -> None:
    async with asyncio.timeout(WITHIN_S), chain(succeeds, through_follower) as there:
        call = there.channel.unary_unary(flintlock.GET)(flintlock.with_uid(UID), metadata=(*SENT, *OF_THE_HOP))
        await call
        assert pairs(await call.initial_metadata()) == pairs(HEADERS)
        assert pairs(await call.trailing_metadata()) == pairs(TRAILERS)
    assert pairs(there.seen.metadata) == pairs(SENT)
    assert not [key for key, _ in there.seen.metadata if key.startswith("x-billet-")]


@FAR
async def test_status_details_of_a_unary_call_reach_the_client(through_follower: bool) -> None:
    async with asyncio.timeout(WITHIN_S), chain(fails, through_follower) as there:
        call = there.channel.unary_unary(flintlock.GET)(flintlock.with_uid(UID))
        with pytest.raises(grpc.aio.AioRpcError, match="why") as failed:
            await call
        assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert pairs(failed.value.trailing_metadata()) == pairs((STATUS_DETAILS, *TRAILERS))


@FAR
@pytest.mark.parametrize("size", [60_000, MAX_BYTES + 1])
async def test_metadata_passes_up_to_64_kib(through_follower: bool, size: int) -> None:
    async with asyncio.timeout(WITHIN_S), chain(succeeds, through_follower) as there:
        # In two: libnghttp2 closes the connection for a single value of more than 65,536 bytes.
        call = there.open(metadata=(("large", "x" * (size - 100)), ("small", "y" * 100)))
        if size < MAX_BYTES:
            await call.write(START)
            assert await call.read() == b""
            assert ("large", "x" * (size - 100)) in pairs(there.seen.metadata)
            return
        if (
            not through_follower
        ):  # which refuses it at once, and grpc.aio hides a status behind the failure of a write
            await call.write(START)
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "at most 65,536" in await call.details()
        assert not there.seen.messages


keys = st.text("abcxyz-_.0ABC: é", max_size=8) | st.sampled_from(["grpc-status", "grpc-message", "x-billet-zone"])
values = st.text(max_size=8) | st.binary(max_size=8)


@given(st.lists(st.tuples(keys | keys.map(lambda key: f"{key}-bin"), values), max_size=8))
def test_a_host_can_say_nothing_that_grpc_cannot_carry(said: list[tuple[str, str | bytes]]) -> None:
    """Broken on purpose (all is passed on): the answer of the host ends in an internal error."""
    passed = from_host(said)
    grpc.aio.Metadata(*passed)
    for key, value in passed:
        assert key.islower() or not key.isalpha()
        assert not key.startswith(("grpc-", "x-billet-", ":"))
        assert isinstance(value, bytes) == key.endswith("-bin")
        assert isinstance(value, bytes) or (value.isascii() and value.isprintable())


def test_what_a_host_says_is_bounded() -> None:
    passed = from_host([(f"k{n}", "x" * 1000) for n in range(1000)])
    assert 0 < sum(map(metadata.size_of, passed)) <= MAX_BYTES
    assert from_host(None) == ()


def test_metadata_that_a_client_of_http_sends_is_not_passed_on() -> None:
    texts = {"authorization": "Basic eDp5", "x-billet-partial": "allow"}
    assert metadata.from_client(texts) == metadata.from_client(CallMetadata(texts, tuple(texts.items()))) == ()
