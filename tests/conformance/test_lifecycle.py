"""Checks 16 to 25 and 36: Get, Delete, List and the stream, and what CAPMVM does with them."""

from __future__ import annotations

import grpc
import pytest
from ulid import ULID

from billet.wire.pb import flintlock_types_pb2 as types

from .calls import CREATED, DELETING, GONE, PENDING, Client, Refusal, attempt, eventually, own, refused, spec
from .targets import Service, Target

UNKNOWN, INVALID = grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT


def is_gone(client: Client, uid: str) -> bool:
    """Whether Get says so, as CAPMVM decides it. Until then the state must be DELETING."""
    got = attempt(client.get, uid)
    assert GONE in got.text if isinstance(got, Refusal) else got.status.state == DELETING
    return isinstance(got, Refusal)


def test_check_16_no_uid(client: Client) -> None:
    assert refused(client.get, "") == (INVALID, "invalid request")
    assert refused(client.delete, "") == (INVALID, "invalid request")


def test_check_17_get_unknown(client: Client) -> None:
    uid = str(ULID())
    code, text = refused(client.get, uid)
    assert code == UNKNOWN
    assert text == (
        f"getting microvm: error attempting to locate microvm with uid: {uid}: microvm spec //{uid} not found"
    )


def booted(client: Client, uid: str) -> None:
    """Wait for the end of a boot: a real flintlockd may lose a Delete during a boot."""
    eventually(lambda: client.get(uid).status.state == CREATED)


def test_check_19_delete_in_the_queue(slow_client: Client) -> None:
    waiting = slow_client.create(spec()).spec.uid
    assert slow_client.delete(waiting) == b""
    assert slow_client.get(waiting).status.state == DELETING  # the worker is busy, so it stays so


def test_check_19_delete_then_get(client: Client) -> None:
    uid = client.create(spec()).spec.uid
    booted(client, uid)
    assert client.delete(uid) == b""
    eventually(lambda: is_gone(client, uid))


def test_check_20_delete_unknown(client: Client) -> None:
    uid = str(ULID())
    assert refused(client.delete, uid) == (
        UNKNOWN,
        f"deleting microvm: checking to see if spec exists: microvm spec //{uid} not found",
    )


def test_check_21_delete_twice(slow_client: Client) -> None:
    """Not for a target of others: a real flintlockd spins after a second Delete, until it is restarted."""
    uid = slow_client.create(spec()).spec.uid
    assert slow_client.delete(uid) == b""
    assert slow_client.delete(uid) == b""


def test_check_21_no_host_gets_a_second_delete(cluster: Target, slow: Service, slow_client: Client) -> None:
    """Broken on purpose (every Delete is passed on): the host would spin until its restart."""
    uid = slow_client.create(spec()).spec.uid
    for _ in range(4):
        assert slow_client.delete(uid) == b""
    assert slow_client.get(uid).status.state == DELETING
    assert uid not in [spinning for host in slow.hosts for spinning in host.stats()["spinning"]]


def test_check_22_list_everything(client: Client) -> None:
    made = {client.create(spec(namespace=namespace)).spec.uid: own(namespace) for namespace in ("west", "east")}
    seen = {vm.spec.uid: vm for vm in client.list()}
    assert {uid: seen[uid].spec.namespace for uid in made} == made
    assert all(seen[uid].spec.kernel.filename and seen[uid].spec.metadata for uid in made)


def test_check_22_list_shows_microvms_created_on_a_host(client: Client, inside: Service) -> None:
    direct = Client(inside.hosts[0].grpc_address)
    uid = direct.create(spec(namespace="direct")).spec.uid
    eventually(lambda: uid in {vm.spec.uid for vm in client.list()})
    eventually(lambda: client.get(uid).spec.uid == uid)
    direct.close()


def test_check_23_list_filters(client: Client) -> None:
    one, other, elsewhere = spec("lone", "filter"), spec("pair", "filter"), spec("pair", "filter2")
    lone, pair1, pair2, far = (client.create(s).spec.uid for s in (one, other, other, elsewhere))

    def uids(**query: str) -> set[str]:
        return {vm.spec.uid for vm in client.list(**{key: value and own(value) for key, value in query.items()})}

    assert uids(namespace="filter") == {lone, pair1, pair2}
    assert uids(namespace="filter", name="") == {lone, pair1, pair2}
    assert uids(namespace="filter", name="pair") == {pair1, pair2}
    assert uids(namespace="filter", name="pai") == set()
    assert uids(name="pair") == {pair1, pair2, far}
    assert uids(namespace="nowhere") == set()


def test_check_25_stream(client: Client) -> None:
    assert refused(client.stream, "") == (INVALID, "invalid request")
    uids = {client.create(spec(name, "flow")).spec.uid for name in ("a", "b")}
    assert {vm.spec.uid for vm in client.stream(own("flow"), name=own("a"))} == uids
    assert client.stream(own("dry")) == []


def test_check_36_the_loop_of_capmvm(client: Client) -> None:
    """Create, wait for CREATED, delete, and wait until Get says "not found"."""
    made = client.create(spec("node-1", "capi"))
    uid = made.spec.uid
    assert made.status.state == PENDING
    vm = eventually(lambda: client.get(uid) if client.get(uid).status.state == CREATED else None)
    assert vm.spec.uid == uid
    assert vm.status.state != types.MicroVMStatus.FAILED
    if client.get(uid).status.state != DELETING:
        client.delete(uid)
    eventually(lambda: is_gone(client, uid))
    assert GONE in refused(client.get, uid).text
    assert GONE in refused(client.delete, uid).text


@pytest.mark.parametrize("uid", ["not-a-ulid", "../../etc", "x" * 200])
def test_a_malformed_uid_is_not_found(client: Client, uid: str) -> None:
    assert refused(client.get, uid).text.endswith(f"microvm spec //{uid} not found")
