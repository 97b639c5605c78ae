"""The parsers that live on connections: the gRPC layer, the HTTP port, the agents' link with a real leader behind.

They run on an event loop of their own, with a stand-in for the transport. An exception anywhere on that loop counts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import tempfile
from collections.abc import AsyncIterator, Coroutine, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import uvicorn
from hypothesis import strategies as st
from picows import WSFrame, WSMsgType, WSTransport
from uvicorn.server import ServerState

from billet.api.http import http_app
from billet.api.http_connection import HttpConnection
from billet.api.leader_proxy import LeaderProxy
from billet.core.model import Host, Resources
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.core.state import load
from billet.leader.archive import NoArchive
from billet.leader.leadership import LeaderSettings, Leadership, LinkTerm, open_leadership
from billet.leader.ledger import Ledger
from billet.leader.rules import Rules
from billet.link.connection import AgentConnection
from billet.link.hello import put_hello
from billet.link.server import LinkServer
from billet.ports import Answer, Leader
from billet.process import SystemClock
from billet.store.sqlite import SqliteStore
from billet.wire.pb import link_pb2 as link
from tests.api.callers import callers
from tests.fuzz.inputs import changed
from tests.fuzz.targets import JSON_SPEC, Target, as_bytes, stored
from tests.grpc_layer import fuzz as layer
from tests.grpc_layer.fuzz import StandIn

TURNS = 6  # of the loop, for handlers to run


class Failures(logging.Handler):
    """What went wrong where nobody awaits it: on the loop, or in an application that uvicorn runs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


@cache
def loop() -> tuple[asyncio.AbstractEventLoop, Failures]:
    made, failures = asyncio.new_event_loop(), Failures()
    made.set_exception_handler(lambda _, context: failures.texts.append(repr(context)))
    logging.getLogger("uvicorn.error").addHandler(failures)
    return made, failures


def run(work: Coroutine[Any, Any, Any]) -> Any:
    made, failures = loop()
    failures.texts.clear()
    result = made.run_until_complete(work)
    assert not failures.texts, failures.texts
    return result


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


# The gRPC layer. Its own program makes the inputs from numbers.


def check_server(seed: int) -> None:
    """Bytes from a client."""
    run(layer.to_server(random.Random(seed)))


def check_client(seed: int) -> None:
    """Bytes from a server."""
    run(layer.to_client(random.Random(seed)))


# The HTTP port.


class Echo:
    """A leader that knows nothing."""

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        return Answer(b"")

    async def stream(self, *_: object, **__: object) -> AsyncIterator[bytes]:
        yield b""


@cache
def port() -> uvicorn.Config:
    proxy = LeaderProxy(lambda request, metadata: "token", 0.0)
    proxy.route(cast("Any", Echo()), leads=True)
    config = uvicorn.Config(
        http_app(proxy, callers(), lambda: b""), http=HttpConnection, ws="none", lifespan="off", log_config=None,
        access_log=False, h11_max_incomplete_event_size=65_536,
    )  # fmt: skip
    config.load()
    return config


class Reading(StandIn):
    """A transport from which reading can be paused."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def request(data: bytes) -> None:
    """One connection to the HTTP port, in two pieces."""
    state = ServerState()
    connection = HttpConnection(port(), state, {}, asyncio.get_running_loop())
    transport = Reading(cast("Any", connection))
    connection.connection_made(transport)
    half = len(data) // 2
    for piece in (data[:half], data[half:]):
        if piece and not transport.is_closing():
            connection.data_received(piece)
    await turns()
    transport.close()
    await turns()
    await asyncio.gather(*state.tasks, return_exceptions=True)
    assert not state.connections, "the connection is left"


# The agents' link.


class Frames:
    """A WebSocket's transport that sends nothing."""

    def __init__(self) -> None:
        self.is_disconnected = False
        self.underlying_transport = SimpleNamespace(get_extra_info=lambda name: None)

    def send(self, *_: object, **__: object) -> None: ...

    def disconnect(self, *_: object) -> None:
        self.is_disconnected = True


@cache
def leader() -> tuple[LinkServer, Leadership, asyncio.Task[None]]:
    return run(_lead(Path(tempfile.mkdtemp())))


async def _lead(folder: Path) -> tuple[LinkServer, Leadership, asyncio.Task[None]]:
    """A real leader of a term: its store, ledger, reconciler and admission."""
    store = SqliteStore(folder / "billet.db")
    await store.open()
    term = await store.campaign(Leader("s1", "", ""))
    ledger = Ledger(load((await store.load()).changes), store, term)
    server = LinkServer("", 0.01, 0.1)
    leadership = open_leadership(
        ledger, server, SystemClock(), LeaderSettings(Rules(DEFAULT_WEIGHTS), 60.0), NoArchive()
    )
    server.begin(LinkTerm(term.number, DEFAULT_WEIGHTS, leadership.admission, ledger.state.fleet, 0.0))
    return server, leadership, asyncio.create_task(leadership.reconciler.run())


async def agent(given: tuple[int, bytes]) -> None:
    """One connection of an agent: a hello as it should be, then two messages that are not."""
    server, _, reconciling = leader()
    number, data = given
    connection, transport = AgentConnection(server), cast("WSTransport", Frames())
    connection.on_ws_connected(transport)
    room = Resources(8, 8192, 100, 10)
    hello = put_hello(Host(f"h{number}", room, room), "1", f"i{number}", 0)
    for message in (link.Up(hello=hello).SerializeToString(), data, data[::-1]):
        if not transport.is_disconnected:
            connection.on_ws_frame(transport, cast("WSFrame", Frame(message)))
            await turns()
    connection.on_ws_disconnected(transport)
    await turns()
    assert not reconciling.done(), "the reconciler has ended"


class Frame(SimpleNamespace):
    msg_type, fin = WSMsgType.BINARY, True

    def __init__(self, message: bytes) -> None:
        super().__init__(message=message)

    def get_payload_as_bytes(self) -> bytes:
        return cast("bytes", self.message)


def check_link(given: tuple[int, bytes]) -> None:
    """An agent that has joined and sends anything."""
    leader()
    run(agent(given))


HTTP = [
    b"POST /v1alpha1/microvm HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(JSON_SPEC), JSON_SPEC),
    b"GET /v1alpha1/microvm/ns?name=a HTTP/1.1\r\nHost: x\r\nAuthorization: Basic dA==\r\n\r\n",
    b"DELETE /v1alpha1/microvm/01H HTTP/1.1\r\nHost: x\r\nx-billet-forwarded: 1\r\nConnection: close\r\n\r\n",
    b"POST /microvm.services.api.v1alpha1.MicroVM/ListMicroVMsStream HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
]
SEEDS = st.integers(0, 2**64)
LIVE = {
    "grpc server": Target(SEEDS, check_server),
    "grpc client": Target(SEEDS, check_client),
    "http port": Target(changed(HTTP), lambda data: run(request(data))),
    "agents' link": Target(st.tuples(st.integers(0, 3), as_bytes(link.Up, *stored("up-*.bin"))), check_link),
}
