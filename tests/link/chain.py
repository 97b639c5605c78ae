"""A stream's whole way in one process, over real sockets: client, server, link, agent, a watchful flintlockd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio

from billet.adapters.flintlock import GrpcFlintlock
from billet.adapters.forward import LeaderForward
from billet.api.flintlock_service import FlintlockService
from billet.api.grpc_server import GrpcServer
from billet.api.leader_proxy import LeaderProxy
from billet.api.recorded import NoRecordedAuctions
from billet.core.model import Host, Placement, PlacementState, Resources
from billet.core.state import PutHost, PutPlacement, State, apply
from billet.host.agent import Agent, Measured
from billet.leader.leadership import Leadership
from billet.link.agent import AgentDialler
from billet.link.dial import WebSocketDial
from billet.link.server import LinkServer
from billet.ports import Leader
from billet.process import SystemClock
from billet.wire import flintlock, newer
from billet.wire.flintlock import field as protobuf
from billet.wire.headers import FORWARDED
from billet.wire.tls import TlsSettings
from tests.api.callers import callers

UID = "01KJ5Z7Q8R9S0T1V2W3X4Y5Z6A"
START = protobuf(1, protobuf(1, UID.encode()) + protobuf(2, b"cat"))
ROOM = Resources(8, 16384, 100_000, 10)
INSECURE = TlsSettings(insecure=True)
CANCEL_WITHIN_S = 0.2  # far more than it takes
LIMITLESS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_metadata_size", 1 << 20),
]

Handler = Callable[["Seen", AsyncIterator[bytes], Any], AsyncIterator[bytes]]


@dataclass
class Seen:
    """What a flintlockd has seen of one stream. `over` is set when its handler has ended, however."""

    messages: list[bytes] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    half_closed: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False
    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)


class Flintlockd(grpc.GenericRpcHandler):
    """A flintlockd whose only method is `handler`. It notes how each stream ends."""

    def __init__(self, handler: Handler) -> None:
        self.seen = Seen()
        self._handler = handler

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def call(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            seen = self.seen
            seen.metadata = list(context.invocation_metadata() or ())
            try:
                seen.messages.append(await anext(aiter(requests)))
                seen.started.set()
                async for reply in self._handler(seen, requests, context):
                    yield reply
            except (asyncio.CancelledError, GeneratorExit):
                seen.cancelled = True
                raise
            finally:
                seen.over.set()

        return grpc.stream_stream_rpc_method_handler(call)


class Relay:
    """Carries the bytes between an agent and its server, until it is cut: then the server is as good as killed."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self._pumps: list[asyncio.Task[None]] = []

    async def listen(self, port: int, stack: AsyncExitStack) -> int:
        """Relay to this port; returns its own."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, to_there = await asyncio.open_connection("127.0.0.1", port)
            self.writers += [writer, to_there]
            self._pumps += [asyncio.create_task(pump(reader, to_there)), asyncio.create_task(pump(there, writer))]

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        stack.callback(self.cut)
        stack.callback(server.close)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def cut(self) -> None:
        """Reset all connections, as the kernel does for a process that was killed."""
        for pumping in self._pumps:
            pumping.cancel()
        for writer in self.writers:
            writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def drain(seen: Seen, requests: AsyncIterator[bytes]) -> None:
    """Read to the end, which is a half-close unless this task is cancelled now: grpc.aio tells of a cancel second."""
    async for message in requests:
        seen.messages.append(message)
    await asyncio.sleep(CANCEL_WITHIN_S)
    seen.half_closed.set()


@dataclass
class Chain:
    """The parts of the way that a test works with."""

    flintlockd: Flintlockd
    relay: Relay
    channel: grpc.aio.Channel  # to the server that the client has called

    @property
    def seen(self) -> Seen:
        return self.flintlockd.seen

    def open(self, method: str = newer.EXEC, **options: Any) -> Any:
        return self.channel.stream_stream(method)(**options)


@asynccontextmanager
async def chain(handler: Handler, through_follower: bool = False) -> AsyncIterator[Chain]:
    """A fleet with one host and one microVM on it. The client calls the leader, or a follower."""
    async with AsyncExitStack() as stack:
        flintlockd, daemon = await flintlockd_and_channel(handler, stack)
        link = LinkServer("", 0.1, 0.5)
        port = await link.listen("127.0.0.1", 0, None)
        stack.push_async_callback(link.close)
        relay = Relay()
        port = await relay.listen(port, stack)
        agent = Agent(
            Host("h1", ROOM, ROOM), daemon, flintlock, lambda: Measured(0, 0, 0, 0), SystemClock(), 1.0, "agent"
        )
        dialler = AgentDialler(agent, daemon, [f"127.0.0.1:{port}"], WebSocketDial("", None), "test")
        running = asyncio.create_task(dialler.run())
        stack.callback(running.cancel)
        while not link.instance("h1"):
            await link.arrivals.wait()
        proxy = LeaderProxy(lambda request, metadata: "", hold_s=60.0)
        proxy.route(FlintlockService(leadership(link), NoRecordedAuctions(), "s1"), leads=True)
        address = await serve(proxy, stack)
        if through_follower:
            forward = LeaderForward(Leader("s1", address, ""), INSECURE, "", ((FORWARDED, "proof"),))
            stack.push_async_callback(forward.close)
            follower = LeaderProxy(lambda request, metadata: "", hold_s=60.0)
            follower.route(forward)
            address = await serve(follower, stack)
        channel = grpc.aio.insecure_channel(address, options=LIMITLESS)
        stack.push_async_callback(channel.close)
        yield Chain(flintlockd, relay, channel)


async def flintlockd_and_channel(handler: Handler, stack: AsyncExitStack) -> tuple[Flintlockd, GrpcFlintlock]:
    flintlockd = Flintlockd(handler)
    server = grpc.aio.server(options=LIMITLESS)
    server.add_generic_rpc_handlers((flintlockd,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    daemon = GrpcFlintlock(f"127.0.0.1:{port}")
    stack.push_async_callback(daemon.close)
    return flintlockd, daemon


async def serve(proxy: LeaderProxy, stack: AsyncExitStack) -> str:
    server = GrpcServer(proxy, callers(), "proof".__eq__)
    port = await server.listen("127.0.0.1:0", INSECURE)
    stack.push_async_callback(server.stop, 0.0)
    return f"127.0.0.1:{port}"


def leadership(link: LinkServer) -> Leadership:
    """A leadership over one host with one microVM."""
    state = State()
    apply(state, PutHost(Host("h1", ROOM, ROOM)))
    placement = Placement("p", "ns", "vm", Resources(1, 1024, 0, 1), "h1", PlacementState.STARTED, uid=UID)
    apply(state, PutPlacement(placement))
    ledger = SimpleNamespace(state=state, amending=[])
    rules = SimpleNamespace(call_timeout_s=30.0)
    return cast(
        "Leadership", SimpleNamespace(ledger=ledger, hosts=link, rules=rules, reconciler=SimpleNamespace(seen={}))
    )
