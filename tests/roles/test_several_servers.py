"""Credentials on two servers that share etcd: each follows what the other has changed, and keeps what it has read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from billet.api import fleet_service as fleet
from billet.wire import flintlock as wire
from billet.wire.auth import basic_header, hash_of
from billet.wire.headers import FORWARDED, IDENTITY, STALE
from billet.wire.pb import fleet_pb2 as pb
from tests.conformance.calls import Client, Refusal, attempt, eventually
from tests.conformance.targets import ready_hosts
from tests.harness import Cluster, plans
from tests.roles.calls import CI, closed, microvm

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
DENIED = grpc.StatusCode.PERMISSION_DENIED
OPS, USER = "token of ops", "token of ci"


class Servers(NamedTuple):
    """Two servers, an operator, and a user of ci-*."""

    cluster: Cluster

    def ask(self, server: int, token: str, method: str, request: bytes = b"", **metadata: str) -> bytes | Refusal:
        """The answer of one server."""
        headers = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        with closed(Client(self.cluster.grpc[server])) as client:
            client.metadata = [("authorization", basic_header(token)), *headers] if token else headers
            return attempt(client.call, method, request)

    def code(self, server: int, token: str, method: str = fleet.HOSTS, request: bytes = b"") -> object:
        answer = self.ask(server, token, method, request)
        return answer.code if isinstance(answer, Refusal) else "ok"

    def create(self, name: str, token: str, role: int, by: str = "", **more: object) -> None:
        request = pb.CreateCredentialRequest(name=name, role=role, token_sha256=hash_of(token), **more)  # type: ignore[arg-type]
        answer = self.ask(0, by, fleet.CREATE_CREDENTIAL, request.SerializeToString())
        assert not isinstance(answer, Refusal), answer

    def on_both(self, token: str, code: object) -> None:
        """Wait until both servers answer so."""
        for server in range(2):
            eventually(lambda server=server: self.code(server, token) == code)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    flags = ("--hold-s", "5")  # how long calls wait for a leader
    cluster = Cluster(tmp_path, plans(1, tmp_path), store="etcd", servers=2, server_flags=flags).start()
    try:
        for address in cluster.grpc:
            eventually(lambda address=address: ready_hosts(address, "") == 1)
        made = Servers(cluster)
        made.create("ops", OPS, pb.OPERATOR)
        made.create("ci", USER, pb.USER, by=OPS, namespaces=["ci-*"])
        made.on_both("", UNAUTHENTICATED)
        made.on_both(USER, "ok")
        yield made
    finally:
        cluster.stop()


@pytest.mark.parametrize("server", [0, 1])
def test_the_server_that_was_asked_for_a_credential_knows_it_at_once(servers: Servers, server: int) -> None:
    """Broken on purpose (a follower reads the credentials every second only): the new token is called wrong."""
    for n in range(5):
        request = pb.CreateCredentialRequest(name=f"n{n}", role=pb.VIEWER, token_sha256=hash_of(f"new {n}"))
        assert not isinstance(servers.ask(server, OPS, fleet.CREATE_CREDENTIAL, request.SerializeToString()), Refusal)
        assert servers.code(server, f"new {n}") == "ok"


def test_a_revoked_token_stops_working_on_every_server(servers: Servers) -> None:
    """Broken on purpose (a server reads the credentials at its start only): the second server goes on for ever."""
    revoke = pb.RevokeCredentialRequest(name="ci").SerializeToString()
    assert not isinstance(servers.ask(1, OPS, fleet.REVOKE_CREDENTIAL, revoke), Refusal)
    servers.on_both(USER, UNAUTHENTICATED)
    assert [servers.code(server, OPS) for server in range(2)] == ["ok", "ok"]


def test_an_expired_token_stops_working_on_every_server(servers: Servers) -> None:
    """Broken on purpose (only the leader knows the time): the other server answers reads of its own, see metrics."""
    servers.create("brief", "short", pb.VIEWER, by=OPS, expires_in_s=3.0)
    servers.on_both("short", "ok")
    servers.on_both("short", UNAUTHENTICATED)


@pytest.mark.parametrize("server", [0, 1])
def test_a_client_cannot_choose_its_name(servers: Servers, server: int) -> None:
    """Broken on purpose (the header of a client is kept): ci lists the credentials as ops."""
    for secret in ("", "1"):
        forged = {IDENTITY: "ops"} | ({FORWARDED: secret} if secret else {})
        answer = servers.ask(server, USER, fleet.CREDENTIALS, **forged)
        assert isinstance(answer, Refusal)
        assert answer.code in (DENIED, grpc.StatusCode.UNAVAILABLE)
        assert isinstance(servers.ask(server, "", fleet.CREDENTIALS, **forged), Refusal)


def test_without_the_store_a_server_uses_what_it_read_last_and_says_how_old_that_is(servers: Servers) -> None:
    """Broken on purpose (a store that does not answer counts as one without credentials): everybody is let in."""
    with closed(Client(servers.cluster.grpc[1], USER)) as client:
        uid = client.create(microvm(CI)).spec.uid
    foreign = Client(servers.cluster.grpc[0], OPS)
    with closed(foreign):
        prod = foreign.create(microvm("prod")).spec.uid
    for member in servers.cluster.etcd:
        member.kill()
    logs = [servers.cluster.folder / f"server-{n}.log" for n in range(2)]
    for log in logs:
        eventually(lambda log=log: re.search(r"cannot read the credentials.*age_s=[0-9.]+", log.read_text()))

    def stale(server: int, token: str, wanted: str) -> object:
        with closed(Client(servers.cluster.grpc[server], token)) as asking:
            answer = attempt(
                lambda: asking.channel.unary_unary(wire.GET).with_call(
                    wire.with_uid(wanted), timeout=60, metadata=asking.metadata
                )
            )
        if isinstance(answer, Refusal):
            return answer.code
        return "stale" if STALE in dict(answer[1].trailing_metadata()) else "ok"

    for server in range(2):  # both ask the memory of the last leader
        eventually(lambda server=server: stale(server, USER, uid) == "stale")
        assert stale(server, USER, prod) == DENIED
        assert stale(server, "wrong", uid) == UNAUTHENTICATED
        assert servers.code(server, "") == UNAUTHENTICATED
    servers.cluster.restart_etcd()
    for server in range(2):
        eventually(lambda server=server: stale(server, USER, uid) == "ok")


def test_a_server_that_starts_without_the_store_lets_nobody_in_and_calls_no_token_wrong(servers: Servers) -> None:
    """Broken on purpose (a server that has not read the store refuses unknown tokens): UNAUTHENTICATED for USER."""
    cluster, unavailable = servers.cluster, grpc.StatusCode.UNAVAILABLE
    for member in cluster.etcd:
        member.kill()
    for server in cluster.server:
        server.kill()
    cluster.restart_server(1)
    assert [servers.code(1, token) for token in (USER, "wrong", "")] == [unavailable] * 3
    cluster.restart_etcd()
    eventually(lambda: servers.code(1, USER) == "ok")
    assert [servers.code(1, token) for token in ("wrong", "")] == [UNAUTHENTICATED] * 2
