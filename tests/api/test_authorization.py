"""What only a server in doubt meets: microVMs without a placement, and names that it does not know."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from billet.api import fleet_service as fleet
from billet.api.authentication import UNREAD
from billet.api.authorization import Authorized
from billet.api.visible import FAILED, REFUSED
from billet.core.access import SHARED, Credential, PutCredential, Role
from billet.core.errors import (
    BilletError,
    Code,
    HostVerdict,
    PermissionDenied,
    TooManyDeletes,
    Unauthenticated,
    Unreachable,
)
from billet.core.model import Placement, PlacementState, Resources
from billet.core.state import PutPlacement, load
from billet.leader.delete_guard import DeleteGuard
from billet.leader.ledger import Ledger
from billet.ports import Answer, Term
from billet.process import SystemClock
from billet.wire import flintlock as wire
from billet.wire import newer
from billet.wire.headers import IDENTITY
from billet.wire.pb import fleet_pb2 as pb
from billet.wire.pb import flintlock_pb2 as rpc
from billet.wire.pb import flintlock_types_pb2 as types
from tests.api.callers import callers

CI = Credential("ci", Role.USER, ("ci-*",), exec=True, token_sha256="ab" * 32)
GONE = HostVerdict(Code.UNKNOWN, wire.unknown_uid(wire.GET, "U"))
FENCED = Placement("p", "prod", "x", Resources(1, 1, 0, 1), "h1", PlacementState.FENCED, uid="U")
SILENT = Unreachable("microVM U is on none of the hosts that answered; not answering: h1")


class Hosts:
    """A service whose hosts show one microVM, or give one error, for every uid. It notes what it is asked."""

    def __init__(self, shown: str | BilletError) -> None:
        self.shown = shown
        self.asked: list[str] = []

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        self.asked.append(method.rpartition("/")[2])
        if method == fleet.HOSTS:
            host, agent = pb.HostView(id="h1", trouble="prod/web: no such image"), pb.AgentView(why="shows microVM U")
            return Answer(pb.HostsReply(hosts=[host], agents=[agent]).SerializeToString())
        if method == fleet.ACCURACY:
            return Answer(pb.AccuracyReply(outcome_json=[b'{"host": "h1", "uid": "U"}']).SerializeToString())
        if method != wire.GET:
            return Answer(b"")
        if isinstance(self.shown, BilletError):
            raise self.shown
        spec = types.MicroVMSpec(id="x", namespace=self.shown, uid="U")
        return Answer(rpc.GetMicroVMResponse(microvm=types.MicroVM(spec=spec)).SerializeToString())

    async def stream(self, method: str, requests: AsyncIterator[bytes], *_: Any) -> AsyncIterator[bytes]:
        self.asked.append(method.rpartition("/")[2])
        async for request in requests:
            yield request

    async def drain(self) -> None: ...

    def knows(self, uid: str) -> bool:
        return False


def serving(
    hosts: Hosts,
    *credentials: Credential,
    limit: int = 0,
    read: tuple[Credential, ...] = (),
    over: bool = False,
    placements: tuple[Placement, ...] = (),
) -> Authorized:
    state = load([*map(PutCredential, credentials), *map(PutPlacement, placements)])
    ledger = Ledger(state, SimpleNamespace(), Term(1, None))  # type: ignore[arg-type]  # nothing is written
    if over:
        ledger.end("the term has ended")
    return Authorized(hosts, ledger, callers("", *read), SystemClock(), DeleteGuard(limit, SystemClock()))


async def delete(service: Authorized, who: str = "ci") -> Answer:
    return await service.unary(wire.DELETE, wire.with_uid("U"), 1.0, {IDENTITY: who})


async def test_a_microvm_without_a_placement_is_looked_up_before_it_is_deleted() -> None:
    """Broken on purpose (a uid without a placement is not looked up): ci deletes a microVM of namespace prod."""
    own, foreign = Hosts("ci-1"), Hosts("prod")
    await delete(serving(own, CI))
    assert own.asked == ["GetMicroVM", "DeleteMicroVM"]
    with pytest.raises(PermissionDenied, match="in namespace prod"):
        await delete(serving(foreign, CI))
    assert foreign.asked == ["GetMicroVM"]


async def test_one_that_does_not_exist_is_answered_as_today_and_one_that_may_exist_is_not_deleted() -> None:
    """Broken on purpose (the Get's error is passed on): a Delete gets the text of a Get."""
    hosts = Hosts(GONE)
    with pytest.raises(HostVerdict) as gone:
        await delete(serving(hosts, CI))
    assert gone.value.text == wire.unknown_uid(wire.DELETE, "U")
    hosts.shown = SILENT
    with pytest.raises(Unreachable, match="not answering"):
        await delete(serving(hosts, CI))
    assert "DeleteMicroVM" not in hosts.asked


async def test_the_answer_of_a_get_is_looked_at_because_the_microvm_may_have_no_placement() -> None:
    """Broken on purpose (only placements are looked at): ci reads a spec of namespace prod."""
    with pytest.raises(PermissionDenied, match="read microVMs in namespace prod"):
        await serving(Hosts("prod"), CI).unary(wire.GET, wire.with_uid("U"), 1.0, {IDENTITY: "ci"})


@pytest.mark.parametrize("method", [wire.GET, wire.DELETE])
async def test_a_microvm_that_is_declared_gone_is_not_called_so_to_whom_it_does_not_concern(method: str) -> None:
    """Broken on purpose (the hosts are asked before the placement is looked at): the caller reads "not found"."""
    hosts = Hosts(GONE)
    service = serving(hosts, CI, placements=(FENCED,))
    with pytest.raises(PermissionDenied, match="microVMs in namespace prod"):
        await service.unary(method, wire.with_uid("U"), 1.0, {IDENTITY: "ci"})
    assert hosts.asked == []


async def test_a_stream_to_a_microvm_without_a_placement_is_checked_and_loses_no_message() -> None:
    async def messages() -> AsyncIterator[bytes]:
        yield wire.field(1, b"U")
        yield b"more"

    async def replies(shown: str) -> list[bytes]:
        stream = serving(Hosts(shown), CI).stream(newer.SSH, messages(), None, {IDENTITY: "ci"})
        return [reply async for reply in stream]

    assert await replies("ci-1") == [wire.field(1, b"U"), b"more"]
    with pytest.raises(PermissionDenied, match="run commands in microVMs in namespace prod"):
        await replies("prod")


async def test_what_may_name_microvms_of_others_is_told_to_those_who_may_see_all_namespaces() -> None:
    """Broken on purpose (answers are shown as they are): ci reads the name of a microVM of prod, and its uid."""
    viewer = Credential("all", Role.VIEWER, ("*",), token_sha256="cd" * 32)
    service = serving(Hosts("prod"), CI, viewer)

    async def told(who: str) -> tuple[str, str, str]:
        hosts = pb.HostsReply.FromString((await service.unary(fleet.HOSTS, b"", 1.0, {IDENTITY: who})).payload)
        outcomes = pb.AccuracyReply.FromString(
            (await service.unary(fleet.ACCURACY, b"", 1.0, {IDENTITY: who})).payload
        )
        return hosts.hosts[0].trouble, hosts.agents[0].why, json.loads(outcomes.outcome_json[0])["uid"]

    assert await told("ci") == (FAILED, REFUSED, "")
    assert await told("all") == ("prod/web: no such image", "shows microVM U", "U")


async def test_a_name_that_the_leader_does_not_know_has_no_rights() -> None:
    """Broken on purpose (an unknown name counts as nobody): a revoked caller goes on by way of another server."""
    with pytest.raises(Unauthenticated, match="revoked"):
        await delete(serving(Hosts("ci-1"), CI), "old")
    for name in ("", UNREAD):
        with pytest.raises(Unreachable, match="try again"):
            await delete(serving(Hosts("ci-1"), CI), name)


@pytest.mark.parametrize("name", ["", UNREAD, SHARED.name])
async def test_where_nothing_is_configured_everything_is_as_before_and_there_is_no_guard(name: str) -> None:
    service = serving(Hosts("prod"), limit=1)
    for _ in range(3):
        await service.unary(wire.DELETE, wire.with_uid(f"U{_}"), 1.0, {IDENTITY: name})


async def test_the_guard_counts_only_deletes_that_the_caller_may_make() -> None:
    """Broken on purpose (it counts before the rights are checked): a refused Delete uses up the bound."""
    hosts = Hosts("prod")
    service = serving(hosts, CI, limit=1)
    with pytest.raises(PermissionDenied):
        await delete(service)
    hosts.shown = "ci-1"
    await service.unary(wire.DELETE, wire.with_uid("V"), 1.0, {IDENTITY: "ci"})
    with pytest.raises(TooManyDeletes, match="--deletes-per-minute"):
        await delete(service)


async def test_after_the_term_the_credentials_that_were_read_since_count() -> None:
    """Broken on purpose (the old ledger is asked): a new name is called revoked while nobody leads."""
    new = Credential("new", Role.VIEWER, ("*",), token_sha256="cd" * 32)
    service = serving(Hosts("ci-1"), CI, read=(new,), over=True)
    await service.unary(newer.SERVER_INFO, b"", 1.0, {IDENTITY: "new"})
    with pytest.raises(Unauthenticated):
        await service.unary(newer.SERVER_INFO, b"", 1.0, {IDENTITY: "ci"})
