"""Events on request and as server-sent events, and servers that copy each other's records: on real files."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from billet.api import fleet_service as fleet
from billet.api.event_feed import EventFeed
from billet.api.http import http_app
from billet.api.http_server import HttpServer
from billet.api.record_exchange import EXCHANGE, Exchanging, RecordCopier, RecordExchange
from billet.api.recorded import Growth
from billet.api.visible import FAILED, visible
from billet.core.access import Credential, Role
from billet.core.errors import InvalidRequest, LeaderLost
from billet.core.events import Event
from billet.core.feed import Kind, Record
from billet.core.metadata import ReplyMetadata
from billet.ports import Answer, Leader
from billet.store.archive import LogArchive
from billet.store.auction_log import AuctionLog
from billet.wire.headers import FORWARDED
from billet.wire.pb import fleet_pb2 as pb
from billet.wire.tls import TlsSettings
from tests.api.callers import callers
from tests.cluster.clients import eventually

WITHIN_S = 60.0


class Server:
    """The records of one server, and what it answers. It is a ports.Backend that knows Fleet/Events alone."""

    serving = True

    def __init__(self, path: Path) -> None:
        self.log = AuctionLog(path)
        self.growth = Growth()
        self.exchange = RecordExchange(self.log, self.growth)
        self.feed = EventFeed(self.log, self.growth, "s1")
        self.trouble: list[Exception] = []
        loop = asyncio.get_running_loop()
        self.log.wrote = lambda: loop.call_soon_threadsafe(self.growth.send) and None

    def tell(self, *events: Event, term: int = 1) -> None:
        for event in events:
            LogArchive(self.log, term).add_event(event)

    async def ask(self, **wanted: Any) -> pb.EventsReply:
        return pb.EventsReply.FromString(
            (await self.unary(fleet.EVENTS, pb.EventsRequest(**wanted).SerializeToString(), 7200.0, {})).payload
        )

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        if self.trouble:
            raise self.trouble.pop()
        assert method == fleet.EVENTS
        return await self.feed.events(request, timeout_s, metadata)

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None,
        metadata: Mapping[str, str], told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        raise LeaderLost("no stream here")
        yield b""


class Direct:
    """leader.server.Forward to a server in this process; `cut` is how many calls fail."""

    def __init__(self, leader: Leader, server: Server) -> None:
        self.leader, self.backend, self.cut = leader, Exchanging(server, server.exchange), 0

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        raise NotImplementedError

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], timeout_s: float | None,
        metadata: Mapping[str, str], told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        if self.cut:
            self.cut -= 1
            raise LeaderLost("the line is cut")
        async for reply in self.backend.stream(method, requests, timeout_s, {FORWARDED: "secret"}, told):
            yield reply

    async def dead(self) -> None:
        raise NotImplementedError

    async def close(self) -> None: ...


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path / "auctions.db")
    yield made
    await asyncio.to_thread(made.log.close)


def event(kind: str, name: str = "", host: str = "", namespace: str = "ns", at_s: float = 0.0) -> Event:
    return Event(kind, at_s or time.time(), "text", host, namespace if name else "", name)


def types(reply: pb.EventsReply) -> list[str]:
    return [json.loads(one)["type"] for one in reply.event_json]


async def test_events_are_given_page_by_page_across_terms_and_filtered(server: Server) -> None:
    """Broken on purpose (the position goes to the last event that was wanted, not read): pages repeat for ever."""
    for term in (1, 2, 3):
        server.tell(
            *(event("microvm-placed", f"vm-{n}", "h1") for n in range(4)), event("host-away", host="h2"), term=term
        )
        server.log.append("key", [], b"no event", term)
    server.log.flush()
    found, after = [], ""
    while True:
        page = await server.ask(types=["host"], limit=2, after=after)
        found += types(page)
        after = page.next
        if not page.more:
            break
    assert found == ["host-away"] * 3
    assert types(await server.ask(microvm="ns/vm-2", since_s=time.time() - 60.0)) == ["microvm-placed"] * 3
    assert types(await server.ask(since_s=time.time() + 60.0)) == []
    assert types(await server.ask(after=after)) == []
    for wrong in ({"after": "x"}, {"types": ["host-awayy"]}):
        with pytest.raises(InvalidRequest):
            await server.ask(**wrong)


async def test_who_waits_is_told_at_once_and_nobody_waits_for_a_server_that_stops(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose (a stopping server keeps those who wait): its stop takes as long as they wait."""
    monkeypatch.setattr("billet.api.event_feed.MAX_WAIT_S", 3600.0)
    waiting = asyncio.create_task(server.ask(wait_s=3600.0))
    await asyncio.sleep(0)
    server.tell(event("host-away", host="h1"))
    first = await waiting
    assert types(first) == ["host-away"]
    waiting = asyncio.create_task(server.ask(wait_s=3600.0, after=first.next))
    await asyncio.sleep(0)
    server.growth.stop()
    assert types(await waiting) == []


async def test_a_position_holds_on_another_server_and_for_what_an_earlier_term_adds_later(
    server: Server, tmp_path: Path
) -> None:
    """Broken on purpose (one number for all terms): the late event is never told."""
    other = Server(tmp_path / "other.db")
    server.tell(event("leader-changed"), event("host-away", host="h1"), term=1)
    server.tell(event("leader-changed"), term=2)
    server.log.flush()
    first = await server.ask()
    assert len(first.event_json) == 3
    server.tell(event("leader-lost"), term=1)
    server.log.flush()
    records, up_to = server.log.since({})
    other.log.take(records, up_to)
    other.log.flush()
    assert types(await other.ask(after=first.next)) == ["leader-lost"]
    await asyncio.to_thread(other.log.close)


async def test_a_caller_sees_its_own_microvms_and_all_hosts(server: Server) -> None:
    """Broken on purpose (all events; the text of a suspect host): fails."""
    server.tell(event("microvm-failed", "mine", namespace="ci-1"), event("microvm-failed", "other", namespace="prod"),
                event("host-suspect", host="h1"), event("host-away", host="h1"))  # fmt: skip
    server.log.flush()
    answer = Answer((await server.ask()).SerializeToString())
    who = Credential("ci", Role.VIEWER, ("ci-*",))
    seen = pb.EventsReply.FromString((await visible(who, fleet.EVENTS, answer)).payload)
    told = [(one.get("microvm"), one["type"], one["text"]) for one in map(json.loads, seen.event_json)]
    assert told == [
        ("ci-1/mine", "microvm-failed", "text"),
        (None, "host-suspect", FAILED),
        (None, "host-away", "text"),
    ]
    assert seen.next


async def test_a_follower_copies_what_comes_and_what_came_while_the_line_was_cut(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose (a copier that ends at the first error; one that gives nothing): a copy lacks records."""
    monkeypatch.setattr("billet.api.record_exchange.RETRY_S", 0.05)
    follower, lines = Server(tmp_path / "follower.db"), []

    def line(leader: Leader) -> Direct:
        lines.append(Direct(leader, server))
        return lines[-1]

    copier = RecordCopier(follower.exchange, line)
    follower.tell(event("leader-lost"), term=3)  # the last words of its own term
    copier.follow(Leader("a", "", ""))
    server.tell(event("leader-changed"), term=4)
    await eventually(lambda: both(server, follower, 2))
    lines[0].cut = 3
    await eventually(lambda: not lines[0].cut)
    server.log.append("key", ["name"], b"payload", 4)
    server.log.add(Record(Kind.OUTCOME, b"outcome", 4, host="h1"))
    server.log.append_gone(b"end", 4)
    await eventually(lambda: both(server, follower, 5))
    assert follower.log.find("name") == [b"payload"]
    assert follower.log.outcomes("h1", 1) == [b"outcome"]
    await copier.close()
    await asyncio.to_thread(follower.log.close)


def both(one: Server, other: Server, count: int) -> bool:
    found = one.log.since({})[0]
    return len(found) == count and found == other.log.since({})[0]


async def test_a_server_that_leads_now_takes_the_rest_from_the_last_leader_and_no_more(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose (the old line is closed at once; never): the rest is lost; the task is there for ever."""
    follower = Server(tmp_path / "follower.db")
    monkeypatch.setattr("billet.store.auction_log.PAGE_RECORDS", 10)
    copier = RecordCopier(follower.exchange, lambda leader: Direct(leader, server))
    copier.follow(Leader("a", "", ""))
    server.tell(*(event("host-away", host=f"h{n}") for n in range(50)), term=4)
    copier.follow(None)
    await eventually(lambda: len(follower.log.newest_events(["host-away"], 0.0, 99)) == 50)
    await eventually(lambda: not copier.copying)
    await asyncio.to_thread(follower.log.close)


async def test_only_servers_exchange(server: Server) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    with pytest.raises(LeaderLost, match="no stream here"):
        async for _ in Exchanging(server, server.exchange).stream(EXCHANGE, nothing(), None, {}):
            pass


@pytest.fixture
async def port(server: Server) -> AsyncIterator[int]:
    http = HttpServer(http_app(server, callers(""), lambda: b""), TlsSettings(insecure=True))
    yield await http.listen("127.0.0.1", 0)
    await http.close()


async def lines_of(port: int, query: str, more: str = "") -> AsyncIterator[str]:
    async with asyncio.timeout(WITHIN_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /api/v1/events{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n".encode())
        try:
            while line := await reader.readline():
                yield line.decode().strip()
        finally:
            writer.close()


async def until(lines: AsyncIterator[str], begin: str) -> str:
    async for line in lines:
        if line.startswith(begin):
            return line.removeprefix(begin).strip()
    raise AssertionError(begin)


async def test_server_sent_events_go_on_where_the_client_was_and_through_a_change_of_the_leader(
    server: Server, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken on purpose (an error ends the stream; Last-Event-ID is not read): fails."""
    monkeypatch.setattr("billet.api.event_stream.RETRY_S", 0.01)
    server.tell(event("host-away", host="h1"), event("microvm-placed", "vm"))
    server.log.flush()
    lines = lines_of(port, "?type=host,leader")
    assert await until(lines, "HTTP/1.1") == "200 OK"
    assert await until(lines, "content-type:") == "text/event-stream; charset=utf-8"
    assert await until(lines, "event:") == "host-away"
    assert json.loads(await until(lines, "data:"))["host"] == "h1"
    last = await until(lines, "id:")
    server.trouble.append(LeaderLost("no server leads"))  # for the call after the one that waits now
    server.tell(event("leader-changed"))
    assert await until(lines, "event:") == "leader-changed"
    assert await until(lines, ": n") == "o server leads"
    server.tell(event("host-back", host="h1"))
    assert await until(lines, "event:") == "host-back"
    await lines.aclose()  # type: ignore[attr-defined]
    again = lines_of(port, "?follow=false", f"last-event-id: {last}\r\n")
    assert [line async for line in again if line.startswith("event:")] == [
        "event: leader-changed",
        "event: host-back",
    ]
    wrong = lines_of(port, "?last_s=nan")
    assert await until(wrong, "HTTP/1.1") == "400 Bad Request"
