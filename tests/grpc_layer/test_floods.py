"""Floods are cut off: the attacker's connection is closed, and other people's calls go on."""

from __future__ import annotations

import asyncio

import pytest

from billet.grpc.limits import Limits
from tests.grpc_layer import floods, fuzz
from tests.grpc_layer.peers import BOUND_S, ECHO, WAIT, connected, serving, until

# A flood ends when its connection is closed, or after BOUND_S: then it has sent hundreds of megabytes. Below this, it
# was cut off; the sockets' buffers alone take a few.
CUT_OFF_MB = 32
KINDS = [kind for kind in floods.KINDS if kind != "zero_window"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_is_cut_off_and_nobody_else_notices(kind: str) -> None:
    async with serving() as (service, server, port), connected(port) as honest:
        held = asyncio.create_task(honest.unary(WAIT, b"held", BOUND_S))
        await service.waiting.get()
        flooding = asyncio.create_task(asyncio.to_thread(floods.flood, kind, port, BOUND_S, again=False))
        while not flooding.done():
            await honest.unary(ECHO, b"meanwhile", BOUND_S)
        result = await flooding
        assert result["sent_mb"] < CUT_OFF_MB
        service.release.set()
        assert (await held).payload == b"held"
        await until(lambda: len(server.connections) == 1)


async def test_replies_that_a_client_makes_no_room_for_do_not_pile_up() -> None:
    """A window of zero: 1,000 calls at a time, and the connection is closed once nothing has moved for a while."""
    async with serving(Limits(stalled_s=0.5, stalled_bytes=0)) as (_, server, port), connected(port) as honest:
        flooding = asyncio.create_task(asyncio.to_thread(floods.flood, "zero_window", port, BOUND_S, again=False))
        while not flooding.done():
            await honest.unary(ECHO, b"meanwhile", BOUND_S)
        await until(lambda: len(server.connections) == 1)


async def test_half_a_preface_costs_no_more_than_a_connection_for_a_while() -> None:
    async with serving(Limits(preface_s=0.3)) as (_, server, port), connected(port) as honest:
        halves = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for _, writer in halves:
            writer.write(floods.PREFACE[:10])
        await honest.unary(ECHO, b"meanwhile", BOUND_S)
        await until(lambda: len(server.connections) == 1)
        for _, writer in halves:
            writer.close()


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_short_fuzz_of_each_side(side: str) -> None:
    """Bytes that nobody sends on purpose. `python -m tests.grpc_layer.fuzz` does it for an hour."""
    assert await fuzz.fuzz(side, 2.0, seed=1) > 10
