"""The audit log: one line for each client's change and each refused call, and no line has a spec in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from billet.api import fleet_service as fleet
from billet.api.audit_facts import TEXT_CHARS, about
from billet.api.audit_log import Audited, Trail
from billet.api.leader_proxy import LeaderProxy
from billet.api.refusals import ADDRESSES, EACH_S, LINES, Refusals
from billet.core import networks
from billet.core.errors import BilletError, Code, HostVerdict, NoRoom
from billet.core.metadata import ReplyMetadata
from billet.core.model import Placement, PlacementState, Resources
from billet.ports import Answer
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.headers import ABOUT, FORWARDED, FROM, IDENTITY, TOKEN
from billet.wire.pb import fleet_pb2 as pb
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types

CALLER = {IDENTITY: "ci", FROM: "10.0.0.7:51234"}
EMPTY = Answer(b"")
SECRET = "c2VjcmV0LXVzZXItZGF0YQ=="
PLACED = Placement("a-1", "demo", "web", Resources(1, 1, 1, 1), "h1", PlacementState.STARTED, uid="01H")


class At:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_s(self) -> float:
        return self.seconds

    def monotonic_s(self) -> float:
        return self.seconds


class Leader:
    """Answers every call in the same way, and remembers the metadata."""

    def __init__(self, answer: Answer | Exception = EMPTY) -> None:
        self.answer = answer
        self.metadata: list[Mapping[str, str]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.called = asyncio.Event()

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        self.metadata.append(metadata)
        self.called.set()
        await self.go_on.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def stream(
        self,
        method: str,
        requests: AsyncIterator[bytes],
        timeout_s: float | None,
        metadata: Mapping[str, str],
        told: ReplyMetadata | None = None,
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
        if isinstance(self.answer, Exception):
            raise self.answer


class Log:
    """An audited server before a leader, and the lines that it wrote."""

    def __init__(self, answer: Answer | Exception = EMPTY) -> None:
        self.raw: list[bytes] = []
        self.leader = Leader(answer)
        self.trail = Trail("s1", self.raw.append, At())
        proxy = LeaderProxy(lambda request, metadata: "another", 60.0)
        proxy.route(self.leader, leads=True)
        self.backend = Audited(proxy, self.trail, lambda request, metadata: "a-1")

    async def call(self, method: str, request: bytes, metadata: Mapping[str, str] = CALLER) -> Answer:
        return await self.backend.unary(method, request, 60.0, metadata)

    async def failing(self, method: str, request: bytes = b"") -> None:
        with pytest.raises((BilletError, RuntimeError)):
            await self.call(method, request)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw]


def create(name: str = "web") -> bytes:
    spec = types.MicroVMSpec(id=name, namespace="demo", metadata={"user-data": SECRET}, labels={"password": SECRET})
    return rpc.CreateMicroVMRequest(microvm=spec).SerializeToString()


async def test_a_create_has_one_line_with_what_the_leader_knows() -> None:
    """Broken on purpose (the trailer is not taken out): the client gets it."""
    log = Log(Answer(b"reply", (*about(PLACED), ("x-own", "1"))))
    answer = await log.call(wire.CREATE, create())
    assert log.lines == [
        {
            "time": "1970-01-01T00:00:00.000Z", "server": "s1", "who": "ci", "from": "10.0.0.7:51234",
            "what": "create", "method": wire.CREATE, "namespace": "demo", "name": "web", "auction": "a-1",
            "uid": "01H", "host": "h1", "code": "OK",
        }
    ]  # fmt: skip
    assert answer == Answer(b"reply", (("x-own", "1"),))
    assert log.leader.metadata[0][TOKEN] == "a-1"


@pytest.mark.parametrize(
    ("error", "code"),
    [(NoRoom("no host has room"), "RESOURCE_EXHAUSTED"), (HostVerdict(7, SECRET), "PERMISSION_DENIED"),
     (HostVerdict(99, SECRET), "99"), (RuntimeError(SECRET), "INTERNAL")],
)  # fmt: skip
async def test_a_failed_create_says_what_was_wanted_and_the_code_only(error: Exception, code: str) -> None:
    """Broken on purpose (the error's text in the line): the secret is in the log."""
    log = Log(error)
    await log.failing(wire.CREATE, create())
    (line,) = log.lines
    assert (line["namespace"], line["name"], line["auction"], line["code"]) == ("demo", "web", "a-1", code)
    assert SECRET.encode() not in log.raw[0]


async def test_creates_that_join_each_other_have_a_line_each() -> None:
    log = Log(Answer(b"reply", about(PLACED)))
    await asyncio.gather(log.call(wire.CREATE, create()), log.call(wire.CREATE, create(), {**CALLER, IDENTITY: "b"}))
    assert [(line["who"], line["auction"]) for line in log.lines] == [("ci", "a-1"), ("b", "a-1")]


async def test_a_client_that_gives_up_has_a_line() -> None:
    """Broken on purpose (a line for answers and errors only): a change that may be carried out has none."""
    log = Log()
    log.leader.go_on.clear()
    task = asyncio.create_task(log.call(wire.DELETE, wire.with_uid("01H")))
    await log.leader.called.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [(line["what"], line["uid"], line["code"]) for line in log.lines] == [("delete", "01H", "CANCELLED")]


@pytest.mark.parametrize(
    ("request_", "what", "facts"),
    [
        (pb.ChangeHostRequest(host="h1", verb=pb.CORDON), "cordon", {"host": "h1"}),
        (pb.ChangeHostRequest(host="h1", verb=pb.FENCE), "fence", {"host": "h1", "released": 3}),
        (pb.ChangeHostRequest(host="h1", verb=pb.REMOVE, to="h2"), "remove", {"host": "h1", "to": "h2"}),
        (pb.ChangeHostRequest(host="h1", verb=pb.ACCEPT_TERM), "accept-term", {"host": "h1"}),
        (pb.ChangeHostRequest(host="h1", verb=99), "change-host", {"host": "h1"}),  # type: ignore[arg-type]
    ],
)
async def test_a_change_of_a_host_is_named_by_its_verb(
    request_: pb.ChangeHostRequest, what: str, facts: dict[str, Any]
) -> None:
    log = Log(Answer(pb.ChangeHostReply(released=facts.get("released", 0)).SerializeToString()))
    await log.call(fleet.CHANGE_HOST, request_.SerializeToString())
    (line,) = log.lines
    assert line["what"] == what
    assert {key: line.get(key) for key in facts} == facts


async def test_a_token_that_is_made_or_revoked_has_a_line_without_its_hash() -> None:
    log = Log()
    wanted = pb.CreateCredentialRequest(
        name="ci", role=pb.USER, namespaces=["ci-*", "demo"], exec=True, token_sha256="5ec2e7" * 10
    )
    await log.call(fleet.CREATE_CREDENTIAL, wanted.SerializeToString())
    await log.call(fleet.REVOKE_CREDENTIAL, pb.RevokeCredentialRequest(name="ci").SerializeToString())
    made, revoked = log.lines
    assert (made["what"], made["credential"], made["role"], made["namespaces"]) == (
        "token-create", "ci", "user", "ci-*,demo"
    )  # fmt: skip
    assert (revoked["what"], revoked["credential"]) == ("token-revoke", "ci")
    assert b"5ec2e7" not in log.raw[0]


async def test_a_read_has_a_line_only_if_it_is_refused() -> None:
    log = Log()
    for method in (wire.LIST, wire.GET, fleet.HOSTS, fleet.EXPLAIN):
        await log.call(method, b"")
    assert log.raw == []
    log.leader.answer = HostVerdict(Code.PERMISSION_DENIED, "you may not")
    await log.failing(wire.GET, wire.with_uid("01H"))
    (line,) = log.lines
    assert (line["what"], line["method"], line["uid"]) == ("call", wire.GET, "01H")
    assert line["code"] == "PERMISSION_DENIED"


async def test_a_call_of_another_server_is_that_servers_to_write() -> None:
    """Broken on purpose (no look at FORWARDED): each change has two lines."""
    log = Log(Answer(b"", about(PLACED)))
    answer = await log.call(wire.CREATE, create(), {**CALLER, FORWARDED: "secret", TOKEN: "a-1"})
    assert log.raw == []
    assert dict(answer.trailers).keys() == {ABOUT}


async def test_a_stream_to_a_host_has_a_line() -> None:
    log = Log()

    async def messages() -> AsyncIterator[bytes]:
        yield wire.field(1, wire.field(1, b"01H") + wire.field(2, SECRET.encode()))

    async for _ in log.backend.stream(newer.EXEC, messages(), None, CALLER):
        pass
    async for _ in log.backend.stream(wire.LIST_STREAM, messages(), None, CALLER):
        pass
    assert [(line["what"], line["uid"], line["code"]) for line in log.lines] == [("exec", "01H", "OK")]
    assert SECRET.encode() not in log.raw[0]


async def test_a_method_that_billet_does_not_know_is_cut_too() -> None:
    """Broken on purpose (the method as it came): with 64 KiB of path, each call writes 64 KiB."""
    log = Log(HostVerdict(Code.UNIMPLEMENTED, "no"))

    async def messages() -> AsyncIterator[bytes]:
        yield b""

    with pytest.raises(BilletError):
        async for _ in log.backend.stream("/" + 60_000 * "x", messages(), None, CALLER):
            pass
    assert len(log.raw[0]) < TEXT_CHARS + 400


@pytest.mark.parametrize("name", ["\x1b]0;pwn\x07", "a\nb", "\u202egnp", "x" * 4000])
async def test_no_terminal_obeys_a_name_and_none_is_long(name: str) -> None:
    """Broken on purpose (ensure_ascii=False; no cut): the sequence, or the name, comes out whole."""
    log = Log(NoRoom("no host has room"))
    await log.failing(wire.CREATE, create(name))
    log.trail.refused(f"/{name}", "10.0.0.7:1", Code.UNAUTHENTICATED)
    assert len(log.raw) == 2
    for line in log.raw:
        assert line.decode("ascii").isprintable()
        assert len(line) < 2 * TEXT_CHARS + 400


async def test_bytes_that_are_no_request_have_a_line_too() -> None:
    log = Log(NoRoom("no"))
    for method in (wire.CREATE, wire.DELETE, fleet.CHANGE_HOST):
        await log.failing(method, b"\xff\xff")
    assert [line["what"] for line in log.lines] == ["create", "delete", "change-host"]


def test_who_knocks_often_is_counted() -> None:
    """Broken on purpose (no bound): each of 1,000 refused calls has a line. (Not told): they vanish."""
    clock, told = At(), []
    clock.seconds = 1000.0
    refusals = Refusals(lambda key, times: told.append((key, times)), clock.monotonic_s)

    async def knock() -> int:
        return sum(refusals.should_write(("10.0.0.7", "", 16)) for _ in range(1000))

    assert asyncio.run(knock()) == LINES
    assert refusals.should_write(("10.0.0.8", "", 16)), "another address has lines of its own"
    clock.seconds += EACH_S
    assert refusals.should_write(("10.0.0.7", "", 16))
    assert told == [(("10.0.0.7", "", 16), 1000 - LINES)]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.7:51234", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6:51234", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:51234", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.7:51234", "10.0.0.7"),
        ("fe80::1%eth0:51234", "fe80::/64"),
        ("", ""),
        ("unix:", "unix"),
    ],
)
def test_who_has_many_addresses_of_ipv6_is_counted_once(address: str, network: str) -> None:
    """Broken on purpose (each address counts for itself): one machine writes 8 MB of lines a minute."""
    assert networks.of_address(address) == network


async def test_addresses_without_number_do_not_fill_memory() -> None:
    told: list[Any] = []
    refusals = Refusals(lambda key, times: told.append((key, times)), lambda: 1000.0)
    written = sum(refusals.should_write((f"10.0.{n // 256}.{n % 256}", "", 16)) for n in range(ADDRESSES + 1000))
    refusals.close()
    assert written == ADDRESSES + LINES
    assert told == [(("others", "", 16), 1000 - LINES)]
