"""What only etcd can do to us: lost answers, late copies, members that stand still or die, no answer at all."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from billet.adapters.pki import write_pki
from billet.cli import main
from billet.config import ServerConfig
from billet.core.errors import CommitOutcomeUnknown, ConfigError, StaleTerm, StoreError, StoreUnreachable
from billet.core.model import PlacementState
from billet.core.state import PutPlacement
from billet.node import Node
from billet.ports import Term
from billet.store import etcd_commit
from billet.store.etcd import EtcdStore, check_version
from billet.store.etcd_client import EtcdClient
from billet.store.etcd_election import after_prefix
from billet.wire.pb import etcd_rpc_pb2 as pb
from tests.etcd_fixture import LocalEtcd, free_ports
from tests.stores.backends import ME, OTHER, SOON_S, EtcdBackend, contents, placement, told, until, written

RESERVED = PutPlacement(placement(1))
STARTED = PutPlacement(placement(1, state=PlacementState.STARTED))
Attempt = Callable[[], Awaitable[pb.TxnResponse]]


class Faults:
    """Between a store and its client: what happens to each attempt at a transaction."""

    def __init__(self, store: EtcdStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[pb.TxnRequest] = []
        self.plan: list[Callable[[Attempt], Awaitable[pb.TxnResponse]]] = []
        self._call = store.client.call
        monkeypatch.setattr(store.client, "call", self._faulty)

    async def _faulty(self, method: str, request: Any, reply: Any, timeout_s: float = 0.0) -> Any:
        if method != "KV/Txn":
            return await self._call(method, request, reply, timeout_s)
        self.sent.append(request)
        fault = self.plan.pop(0) if self.plan else as_it_is
        return await fault(lambda: self._call(method, request, reply, timeout_s))

    async def resend(self, n: int) -> bool:
        """A late copy of the nth transaction; whether it took effect."""
        return (await self._call("KV/Txn", self.sent[n], pb.TxnResponse)).succeeded


async def as_it_is(attempt: Attempt) -> pb.TxnResponse:
    return await attempt()


async def answer_lost(attempt: Attempt) -> pb.TxnResponse:
    await attempt()
    raise StoreUnreachable("no answer")


async def request_lost(attempt: Attempt) -> pb.TxnResponse:
    raise StoreUnreachable("no answer")


async def refused(attempt: Attempt) -> pb.TxnResponse:
    raise StoreError("etcd refused: too many requests")


async def transactions(store: EtcdStore, after: int, count: int) -> list[tuple[int, dict[str, bytes | None]]]:
    """The first so many that changed records after that revision, as etcd's own history has them."""
    seen: list[tuple[int, dict[str, bytes | None]]] = []
    watch = store.client.watch(store.prefix, after_prefix(store.prefix), after)
    async with asyncio.timeout(SOON_S), aclosing(watch) as responses:
        async for response in responses:
            grouped: dict[int, dict[str, bytes | None]] = {}
            for event in response.events:
                if name := store.record_key(event.kv.key):
                    value = None if event.type == event.DELETE else event.kv.value
                    grouped.setdefault(event.kv.mod_revision, {})[name] = value
            seen += grouped.items()
            if len(seen) >= count:
                break
    return seen


async def leading(server: LocalEtcd, lease_ttl_s: int = 60) -> tuple[EtcdStore, Term]:
    store = EtcdBackend(server, lease_ttl_s).store()
    await store.open()
    return store, await store.campaign(ME)


async def test_a_late_copy_of_a_transaction_does_not_undo_a_later_one(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, term = await leading(etcd_server)
    faults = Faults(store, monkeypatch)
    faults.plan = [request_lost]
    await store.commit(term, [RESERVED])
    await store.commit(term, [STARTED])
    assert not await faults.resend(0)
    assert contents(await store.load()) == written(STARTED)
    await store.close()


@pytest.mark.parametrize("fault", [answer_lost, request_lost])
async def test_a_transaction_whose_answer_was_lost_takes_effect_once(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    store, term = await leading(etcd_server)
    start = (await store.load()).revision
    Faults(store, monkeypatch).plan = [fault, fault]
    first = await store.commit(term, [RESERVED])
    last = await store.commit(term, [STARTED])
    assert await transactions(store, start, 2) == [(first, written(RESERVED)), (last, written(STARTED))]
    await store.close()


@pytest.mark.parametrize(("fault", "held"), [(answer_lost, True), (request_lost, False)])
async def test_after_an_outcome_that_stayed_unknown_the_next_commit_still_works(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch, fault: Any, held: bool
) -> None:
    store, term = await leading(etcd_server)
    monkeypatch.setattr(etcd_commit, "COMMIT_S", -1.0)
    faults = Faults(store, monkeypatch)
    faults.plan = [fault]
    with pytest.raises(CommitOutcomeUnknown):
        await store.commit(term, [RESERVED])
    assert contents(await store.load()) == (written(RESERVED) if held else {})
    await store.commit(term, [STARTED])
    assert not await faults.resend(0)
    assert contents(await store.load()) == written(STARTED)
    await store.close()


async def test_a_refusal_after_a_lost_answer_is_not_called_a_failure(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, term = await leading(etcd_server)
    faults = Faults(store, monkeypatch)
    faults.plan = [answer_lost, refused]
    await store.commit(term, [RESERVED])
    faults.plan = [refused]
    with pytest.raises(StoreError, match="too many") as caught:
        await store.commit(term, [STARTED])
    assert not isinstance(caught.value, CommitOutcomeUnknown)
    assert contents(await store.load()) == written(RESERVED)
    await store.close()


async def test_a_term_that_ended_before_the_answer_could_be_learnt_leaves_it_unknown(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = EtcdBackend(etcd_server)
    store = backend.store()
    await store.open()
    term = await store.campaign(ME)

    async def lost_with_the_term(attempt: Attempt) -> pb.TxnResponse:
        await attempt()
        await backend.depose(store, term)
        raise StoreUnreachable("no answer")

    Faults(store, monkeypatch).plan = [lost_with_the_term]
    with pytest.raises(CommitOutcomeUnknown):
        await store.commit(term, [RESERVED])
    await store.close()


async def test_more_changes_than_one_transaction_takes_are_refused_and_nothing_is_written(
    etcd_server: LocalEtcd,
) -> None:
    store, term = await leading(etcd_server)
    with pytest.raises(StoreError, match="nothing was written"):
        await store.commit(term, [PutPlacement(placement(n)) for n in range(128)])
    most = [PutPlacement(placement(n)) for n in range(127)]
    await store.commit(term, most)
    assert contents(await store.load()) == written(*most)
    await store.close()


async def test_the_term_ends_when_etcd_stands_still(own_etcd: LocalEtcd) -> None:
    store, term = await leading(own_etcd, lease_ttl_s=2)
    own_etcd.pause()
    await asyncio.wait_for(store.ended(term), SOON_S)
    with pytest.raises(StaleTerm):
        await store.commit(term, [RESERVED])
    own_etcd.resume()
    await store.close()


async def test_the_term_ends_before_etcd_gives_the_place_away(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, term = await leading(etcd_server, lease_ttl_s=4)

    async def unanswered(self: EtcdClient, lease: int) -> int:
        raise StoreUnreachable("no answer")

    monkeypatch.setattr(EtcdClient, "keep_alive", unanswered)
    await asyncio.wait_for(store.ended(term), SOON_S)
    assert await store.leader() == ME
    await store.close()


async def test_the_term_ends_in_time_however_long_one_answer_is_waited_for(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, term = await leading(etcd_server, lease_ttl_s=4)

    async def never(self: EtcdClient, lease: int) -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    monkeypatch.setattr(EtcdClient, "keep_alive", never)
    await asyncio.wait_for(store.ended(term), SOON_S)
    assert await store.leader() == ME
    await store.close()


async def test_the_term_ends_when_the_lease_was_taken_away(etcd_server: LocalEtcd) -> None:
    backend = EtcdBackend(etcd_server, lease_ttl_s=2)
    store = backend.store()
    await store.open()
    term = await store.campaign(ME)
    await backend.depose(store, term)
    await asyncio.wait_for(store.ended(term), SOON_S)
    assert await store.leader() is None
    await store.close()


async def test_the_term_ends_even_when_the_keeper_fails_in_a_way_nobody_thought_of(
    etcd_server: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, term = await leading(etcd_server, lease_ttl_s=2)

    async def broken(self: EtcdClient, lease: int) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(EtcdClient, "keep_alive", broken)
    await asyncio.wait_for(store.ended(term), SOON_S)
    await store.close()


async def test_a_leader_that_is_gone_without_a_word_is_followed_when_its_lease_ends(etcd_server: LocalEtcd) -> None:
    backend = EtcdBackend(etcd_server, lease_ttl_s=2)
    gone, next_one = backend.store(), backend.store()
    await gone.open()
    await next_one.open()
    old = await gone.campaign(ME)
    (candidacy,) = gone.candidacies.standing
    assert candidacy.keeper
    candidacy.keeper.cancel()
    new = await asyncio.wait_for(next_one.campaign(OTHER), SOON_S)
    assert new.number > old.number
    await asyncio.wait_for(gone.ended(old), SOON_S)
    await gone.close()
    await next_one.close()


async def test_a_leader_deposed_by_mistake_is_refused_and_hears_of_it(etcd_server: LocalEtcd) -> None:
    backend = EtcdBackend(etcd_server, lease_ttl_s=3)
    first, second = backend.store(), backend.store()
    await first.open()
    await second.open()
    old = await first.campaign(ME)
    waiting = asyncio.create_task(second.campaign(OTHER))
    await second.depose(ME)
    new = await asyncio.wait_for(waiting, SOON_S)
    with pytest.raises(StaleTerm):
        await first.commit(old, [RESERVED])
    await second.commit(new, [STARTED])
    await asyncio.wait_for(first.ended(old), SOON_S)
    await first.close()
    await second.close()


@pytest.mark.parametrize("trouble", ["kill", "pause"])
async def test_nobody_is_said_to_lead_when_etcd_cannot_be_asked_for_longer_than_a_lease(
    own_etcd: LocalEtcd, trouble: str
) -> None:
    store, _ = await leading(own_etcd, lease_ttl_s=2)
    leaders = store.leaders()
    await told(leaders, ME)
    getattr(own_etcd, trouble)()
    await told(leaders, None)
    await asyncio.to_thread(own_etcd.start if trouble == "kill" else own_etcd.resume)
    await asyncio.wait_for(store.campaign(OTHER), SOON_S)
    await told(leaders, OTHER)
    await store.close()


async def test_a_commit_to_a_member_that_stands_still_is_never_a_lie(
    own_etcd: LocalEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, term = await leading(own_etcd)
    await store.commit(term, [PutPlacement(placement(0))])
    own_etcd.pause()
    faults = Faults(store, monkeypatch)  # none; it only counts
    committing = asyncio.create_task(store.commit(term, [RESERVED]))
    await until(lambda: len(faults.sent) == 3)
    own_etcd.resume()
    revision = await asyncio.wait_for(committing, SOON_S)
    later = await store.commit(term, [STARTED])
    assert contents(await store.load()) == written(PutPlacement(placement(0)), STARTED)
    assert await transactions(store, revision - 1, 2) == [(revision, written(RESERVED)), (later, written(STARTED))]
    await store.close()


async def test_a_commit_to_a_member_that_stands_still_too_long_has_an_unknown_outcome(own_etcd: LocalEtcd) -> None:
    store, term = await leading(own_etcd, lease_ttl_s=2)
    own_etcd.pause()
    with pytest.raises(CommitOutcomeUnknown):
        await store.commit(term, [RESERVED])
    own_etcd.resume()
    held = contents(await store.load())
    assert held in ({}, written(RESERVED))
    await store.close()


async def test_the_store_goes_on_by_itself_when_its_member_was_killed_and_started_again(own_etcd: LocalEtcd) -> None:
    store, term = await leading(own_etcd)
    start = (await store.load()).revision
    watching = asyncio.create_task(transactions(store, start, 2))
    first = await store.commit(term, [RESERVED])
    own_etcd.kill()
    committing = asyncio.create_task(store.commit(term, [STARTED]))
    await asyncio.to_thread(own_etcd.start)
    last = await asyncio.wait_for(committing, SOON_S)
    assert await watching == [(first, written(RESERVED)), (last, written(STARTED))]
    assert contents(await store.load()) == written(STARTED)
    assert await store.leader() == ME
    await store.close()


async def test_an_endpoint_that_does_not_answer_is_passed_over(etcd_server: LocalEtcd) -> None:
    (dead,) = free_ports(1)
    backend = EtcdBackend(etcd_server)
    store = EtcdStore([f"http://127.0.0.1:{dead}", etcd_server.endpoint], prefix=backend.prefix)
    await store.open()
    term = await store.campaign(ME)
    await store.commit(term, [RESERVED])
    ((_, changes),) = await transactions(store, (await store.load()).revision - 1, 1)
    assert changes == written(RESERVED)
    await store.close()


async def test_an_etcd_that_does_not_answer_is_said_in_one_line_without_the_words_of_grpc() -> None:
    ports = free_ports(2)
    refusing = EtcdStore([f"http://127.0.0.1:{port}" for port in ports])
    nameless = EtcdStore(["http://no-such-name.invalid:2379"])
    nowhere = EtcdStore(["unix:/nowhere/etcd.sock"])
    stores = [refusing, nameless, nowhere]
    failures = await asyncio.wait_for(asyncio.gather(*(s.open() for s in stores), return_exceptions=True), SOON_S)
    assert [str(failure) for failure in failures] == [
        f"etcd does not answer at 127.0.0.1:{ports[0]}, 127.0.0.1:{ports[1]}: start it, or correct --store",
        "etcd does not answer at no-such-name.invalid:2379: start it, or correct --store",
        "etcd does not answer at unix:/nowhere/etcd.sock: start it, or correct --store",
    ]
    assert all(isinstance(failure, StoreError) for failure in failures)
    await asyncio.gather(*(store.close() for store in stores))


async def test_no_refusal_of_etcds_passes_on_the_words_that_mean_a_missing_microvm(etcd_server: LocalEtcd) -> None:
    client = EtcdClient([etcd_server.endpoint])
    with pytest.raises(StoreError) as caught:
        await client.call("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=4711), pb.LeaseRevokeResponse)
    assert not re.search("not found", caught.value.text, re.IGNORECASE)
    await client.close()


async def test_the_store_speaks_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    pki = write_pki(tmp_path / "pki", ["127.0.0.1"], 1)
    flags = ["--cert-file", str(pki.server_cert), "--key-file", str(pki.server_key)]
    flags += ["--trusted-ca-file", str(pki.ca), "--client-cert-auth"]
    server = LocalEtcd(tmp_path, flags, scheme="https")
    await asyncio.to_thread(server.start)
    try:
        files = {"ca": str(pki.ca), "cert": str(pki.client_cert), "key": str(pki.client_key)}
        store = EtcdStore([server.endpoint], **files)
        await store.open()
        await store.commit(await store.campaign(ME), [RESERVED])
        assert contents(await store.load()) == written(RESERVED)
        await store.close()
    finally:
        server.stop()


@pytest.mark.parametrize("version", ["3.5.0", "3.5.5", "3.5.0-rc.1"])
def test_releases_that_lose_data_are_refused(version: str) -> None:
    with pytest.raises(StoreError, match="upgrade"):
        check_version(version)


async def demand_passwords(server: LocalEtcd) -> None:
    """Make etcd ask for a user, root, whose password is "secret"."""
    client = EtcdClient([server.endpoint])
    steps = [("UserAdd", "root", "secret"), ("RoleAdd", "root", ""), ("UserGrantRole", "root", "root")]
    for method, first, second in [*steps, ("AuthEnable", "", "")]:  # all of them begin with two texts, or fewer
        request = pb.AuthenticateRequest(name=first, password=second)
        await client.call(f"Auth/{method}", request, pb.AuthenticateResponse, timeout_s=5.0)
    await client.close()


async def test_the_store_gives_user_and_password_and_again_when_its_token_has_aged(own_etcd: LocalEtcd) -> None:
    await demand_passwords(own_etcd)
    store = EtcdStore([own_etcd.endpoint], user="root", password="secret")
    await store.open()
    term = await store.campaign(ME)
    first = await store.commit(term, [RESERVED])
    store.client.token = "aged.1"
    last = await store.commit(term, [STARTED])
    store.client.token = "aged.2"
    assert await transactions(store, first - 1, 2) == [(first, written(RESERVED)), (last, written(STARTED))]
    store.client.token = "aged.3"
    await store.resign(term)
    assert await store.leader() is None
    await store.close()


async def test_a_server_and_the_store_commands_log_in_by_their_settings(own_etcd: LocalEtcd, tmp_path: Path) -> None:
    await demand_passwords(own_etcd)
    url, password = own_etcd.endpoint.replace("http://", "etcd://"), tmp_path / "password"
    password.write_text("secret\n")
    without_tls = {"insecure": True, "link_insecure": True, "http_endpoint": ""}
    ports = {"grpc_endpoint": "127.0.0.1:0", "link_endpoint": "127.0.0.1:0"}
    login = {"etcd_user": "root", "etcd_password": "secret"}
    node = Node(ServerConfig(id="a", data_dir=str(tmp_path), store=url, **without_tls, **ports, **login))
    await node.start()
    running = asyncio.create_task(node.run())

    async def check(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, ["store", "check", "--store", url, *arguments])

    await until(lambda: node.leads)
    said = await check("--etcd-user", "root", "--etcd-password-file", str(password), "-o", "json")
    assert json.loads(said.stdout)["leader"] == "a"
    refused = await check()
    assert (refused.exit_code, "check --etcd-user" in refused.stderr) == (1, True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await node.close()


@pytest.mark.parametrize(("user", "password"), [("", ""), ("root", "wrong")])
async def test_an_etcd_that_does_not_know_us_is_said(own_etcd: LocalEtcd, user: str, password: str) -> None:
    await demand_passwords(own_etcd)
    store = EtcdStore([own_etcd.endpoint], user=user, password=password)

    async def lead() -> None:
        await store.open()
        await store.campaign(ME)

    with pytest.raises(StoreError, match=r"etcd refused.* check --etcd-user") as caught:
        await lead()
    assert "secret" not in caught.value.text
    await store.close()


@pytest.mark.parametrize("version", ["3.4.23", "3.5.6", "3.6.0+git"])
def test_other_releases_are_taken(version: str) -> None:
    with capture_logs() as logs:
        check_version(version)
    assert logs == []


@pytest.mark.parametrize("version", ["3.4.22", "3.3.0", "who knows"])
def test_releases_that_nobody_tests_with_are_warned_of(version: str) -> None:
    with capture_logs() as logs:
        check_version(version)
    assert [line["log_level"] for line in logs] == ["warning"]


@pytest.mark.parametrize("endpoint", ["h1:2379", "ftp://h1:2379", "http://"])
def test_an_endpoint_that_is_none_is_a_wrong_setting(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        EtcdStore([endpoint])
