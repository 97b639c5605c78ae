"""Servers know each other's forwarded calls by a secret that neither clients nor agents can compute."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import grpc
import grpc.aio
import pytest

from billet.api.grpc_server import GrpcServer
from billet.api.servers import EARLIER_S, Secrets
from billet.ports import Answer, Leader
from billet.wire.flintlock import CREATE
from billet.wire.headers import FORWARDED, TOKEN
from billet.wire.tls import TlsSettings
from tests.api.callers import callers

LINK_TOKEN = "link-secret"
EARLIER = sha256(f"forwarded\0{LINK_TOKEN}".encode()).hexdigest()  # every agent can compute it


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def secrets(clock: Clock | None = None) -> Secrets:
    return Secrets(LINK_TOKEN, clock or Clock())


def test_a_leader_accepts_its_own_secret_only() -> None:
    """Before the fix: a hash of the link token, which agents have; without a link token a constant."""
    leader, other = secrets(), secrets()
    leader.leads()
    assert other.to_show(Leader("a", "", "", leader.own)) == leader.own
    assert leader.accepts(leader.own)
    assert not any(leader.accepts(shown) for shown in ("", EARLIER, other.own))


def test_servers_of_an_earlier_version_are_known_during_an_upgrade() -> None:
    clock = Clock()
    upgraded = secrets(clock)
    assert upgraded.to_show(Leader("old", "", "")) == EARLIER
    assert not upgraded.accepts(EARLIER), "only a leader is forwarded to"
    upgraded.leads()
    assert upgraded.accepts(EARLIER), "calls that the last leader still had"
    clock.now_s += EARLIER_S
    assert not upgraded.accepts(EARLIER)
    upgraded.to_show(Leader("new", "", "", "its own"))
    upgraded.leads()
    assert not upgraded.accepts(EARLIER)


def test_the_secret_does_not_make_another_leader_of_a_server_and_is_not_shown() -> None:
    assert Leader("a", "b", "c", "hidden") == Leader("a", "b", "c")
    assert "hidden" not in repr(Leader("a", "b", "c", "hidden"))


class Noting:
    """A Backend that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    async def unary(self, method: str, request: bytes, timeout_s: float, metadata: Mapping[str, str]) -> Answer:
        self.asked.append(dict(metadata))
        return Answer(b"")


@pytest.mark.parametrize("shown", [EARLIER, "", "guess"])
async def test_a_client_or_agent_cannot_speak_as_a_server(shown: str) -> None:
    """Before the fix (with EARLIER): it chooses the token of a create, and so whose microVM it is."""
    backend, known = Noting(), secrets()
    known.leads()
    server = GrpcServer(backend, callers(), known.accepts)  # type: ignore[arg-type]  # it has no streams
    port = await server.listen("127.0.0.1:0", TlsSettings(insecure=True))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        create = channel.unary_unary(CREATE)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(b"", metadata=((FORWARDED, shown), (TOKEN, "chosen")))
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await create(b"", metadata=((TOKEN, "chosen"),)) == b""
        assert await create(b"", metadata=((FORWARDED, known.own), (TOKEN, "given"))) == b""
    assert [metadata.get(TOKEN) for metadata in backend.asked] == [None, "given"]
    await server.stop(0)
