"""etcd looked after: when what is due, and that it happens under a working store."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from billet.core.errors import StoreFull
from billet.core.state import PutHost, PutPlacement
from billet.ports import Term
from billet.store import etcd_care
from billet.store.engine import Vitals
from billet.store.etcd import EtcdStore
from billet.store.etcd_care import NOTHING, Care, Done, Member, Plan, due, members_of
from billet.wire.pb import etcd_rpc_pb2 as pb
from tests.etcd_fixture import LocalEtcd
from tests.stores.backends import ME, SOON_S, contents, host, placement, told, written

MB = 1 << 20


def member(at: int = 0, size_mb: int = 50, used_mb: int = 40, leads: bool = False, **other: int) -> Member:
    return Member(
        at, at + 1, other.get("revision", 50_000), size_mb * MB, used_mb * MB, leads, bool(other.get("full"))
    )


THREE = [member(0, 500, 100, leads=True), member(1, 500, 100), member(2, 120, 100)]


@pytest.mark.parametrize(
    ("members", "done", "now_s", "plan"),
    [
        pytest.param([], Done(), 0.0, NOTHING, id="nobody answers"),
        pytest.param([member()], Done(), 0.0, Plan(compact=40_000), id="never compacted"),
        pytest.param([member(revision=10_900)], Done(), 0.0, NOTHING, id="hardly any history"),
        pytest.param([member()], Done(38_000, 100.0), 159.0, NOTHING, id="compacted just now"),
        pytest.param([member()], Done(38_000, 100.0), 160.0, Plan(compact=40_000), id="a minute ago"),
        pytest.param([member(revision=150_000)], Done(40_000, 100.0), 101.0, Plan(compact=140_000), id="fast growth"),
        pytest.param([member()], Done(39_500, 0.0), 900.0, NOTHING, id="an idle etcd"),
        pytest.param([member(0, 190, 95)], Done(40_000), 0.0, NOTHING, id="waste too small to matter"),
        pytest.param([member(0, 900, 700)], Done(40_000), 0.0, NOTHING, id="mostly in use"),
        pytest.param(THREE, Done(40_000), 0.0, Plan(defragment=1), id="a follower first"),
        pytest.param(THREE[:1] + THREE[2:], Done(40_000), 0.0, Plan(defragment=0), id="the leader at last"),
        pytest.param(THREE, Done(40_000, defragmented_s=100.0), 159.0, NOTHING, id="one at a time"),
    ],
)
def test_what_is_due(members: list[Member], done: Done, now_s: float, plan: Plan) -> None:
    assert due(members, True, done, now_s) == plan


def test_no_member_is_stopped_while_another_is_away() -> None:
    assert due(THREE[:2], False, Done(40_000), 0.0) == NOTHING


def test_a_full_etcd_gets_room_step_by_step_and_keeps_its_alarm_when_all_is_in_use() -> None:
    full = [member(0, 100, 90, leads=True, full=1), member(1, 100, 90)]
    done = Done(40_000, 0.0, 0.0, full_bytes=100 * MB)
    assert due(full, True, done, 1.0) == Plan(compact=50_000)
    done = done._replace(compacted=50_000)
    assert due(full, True, done, 1.0) == Plan(defragment=1)
    assert due(full, True, done._replace(defragmented=frozenset({1})), 1.0) == Plan(defragment=0)
    done = done._replace(defragmented=frozenset({0, 1}))
    small = [member(0, 20, 20, leads=True, full=1), member(1, 20, 20)]
    assert due(small, True, done, 1.0) == Plan(disarm=True)
    assert due(full, True, done, 1.0) == NOTHING


def test_a_member_behind_two_endpoints_is_one() -> None:
    status = pb.StatusResponse(header=pb.ResponseHeader(member_id=7, revision=9), dbSize=5, dbSizeInUse=4, leader=7)
    assert members_of({0: None, 1: status, 2: status}) == [Member(1, 7, 9, 5, 4, True, False)]


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[LocalEtcd, EtcdStore, Term]]:
    """A leader on an etcd with a quota of 16 MB, who looks often and tolerates little."""
    monkeypatch.setattr(etcd_care, "LOOK_S", 0.05)
    monkeypatch.setattr(etcd_care, "COMPACT_EVERY_S", 0.2)
    monkeypatch.setattr(etcd_care, "KEEP_REVISIONS", 50)
    monkeypatch.setattr(etcd_care, "COMPACT_AT_LEAST_REVISIONS", 10)
    server = LocalEtcd(tmp_path, ["--quota-backend-bytes", str(16 * MB)])
    await asyncio.to_thread(server.start)
    store = EtcdStore([server.endpoint], lease_ttl_s=60)
    await store.open()
    yield server, store, await store.campaign(ME)
    await store.close()
    server.stop()


def much(n: int, size_bytes: int, among: int = 10) -> PutHost:
    """A record of that size, of one of a few hosts."""
    put = PutHost(host(f"h{n % among}"))
    object.__setattr__(put.host, "labels", {"much": f"{n:08}" * (size_bytes // 8)})
    return put


async def fill(store: EtcdStore, term: Term, among: int = 10) -> tuple[dict[str, bytes | None], StoreFull]:
    """Stop looking after etcd and commit until it takes no more: what it took, and what it said."""
    assert store.care
    store.care.cancel()
    taken: dict[str, bytes | None] = {}
    for n in itertools.count():
        put = much(n, 100_000, among)
        try:
            await store.commit(term, [put])
        except StoreFull as error:
            return taken, error
        taken |= written(put)
    raise AssertionError


@pytest.mark.parametrize("_attempt", range(4))
async def test_a_commit_is_refused_only_if_nothing_of_it_was_written(
    small: tuple[LocalEtcd, EtcdStore, Term], _attempt: int
) -> None:
    """etcd says "no space" also to the transaction with which it crosses its quota, and carries it out.

    Which one that is depends on who else writes at that moment; so others do, and it is tried a few times. Broken on
    purpose (etcd's word is taken for it): in 7 of 12 attempts the store held what its caller was told is not there.
    """
    _, store, term = small

    async def rival(n: int) -> None:
        put = pb.PutRequest(key=b"somebody else's/%d" % n, value=bytes(5_000))
        with suppress(StoreFull):
            while True:
                await store.client.steady("KV/Put", put, pb.PutResponse)

    rivals = [asyncio.create_task(rival(n)) for n in range(8)]
    held, _ = await fill(store, term)
    await asyncio.gather(*rivals)
    assert contents(await store.load()) == held


async def status_of(store: EtcdStore) -> pb.StatusResponse:
    return await store.client.call("Maintenance/Status", pb.StatusRequest(), pb.StatusResponse)


async def test_history_is_cut_while_commits_go_on_and_whoever_follows_the_leader_hears_nothing_of_it(
    small: tuple[LocalEtcd, EtcdStore, Term],
) -> None:
    _, store, term = small
    leaders = store.leaders()
    await told(leaders, ME)
    async with asyncio.timeout(60):
        for n in range(1_900):  # 10 KB each: without care, the 1,600th finds etcd full
            await store.commit(term, [much(n, 10_000)])
    assert (await store.vitals()).troubles == ()
    assert len((await store.load()).changes) == 10
    await store.resign(term)
    assert await anext(leaders) is None


async def test_a_file_that_is_mostly_empty_is_packed_while_commits_go_on(
    small: tuple[LocalEtcd, EtcdStore, Term], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store, term = small
    before_bytes = 0
    for n in range(100):
        await store.commit(term, [much(n, 100_000)])
        before_bytes = max(before_bytes, (await store.vitals()).size_bytes)
    small_writes = itertools.count()

    async def written_until(true: Callable[[Vitals], bool]) -> None:
        async with asyncio.timeout(SOON_S):
            while not true(await store.vitals()):
                await store.commit(term, [PutPlacement(placement(next(small_writes) % 10))])

    # It is packed once in a minute, so not before nothing is left of the history but what is small.
    await written_until(lambda vitals: vitals.used_bytes < 3 * MB)
    monkeypatch.setattr(etcd_care, "SLACK_BYTES", 1 * MB)
    await written_until(lambda vitals: vitals.size_bytes < before_bytes / 2)
    assert len((await store.load()).changes) == 20


async def test_a_full_etcd_refuses_with_the_way_out_and_goes_on_when_care_has_made_room(
    small: tuple[LocalEtcd, EtcdStore, Term],
) -> None:
    _, store, term = small
    held, error = await fill(store, term)
    assert "raise --quota-backend-bytes" in error.text
    assert "\n" not in error.text
    assert contents(await store.load()) == held
    assert "NOSPACE" in "".join((await store.vitals()).troubles)
    with pytest.raises(StoreFull):
        await store.campaign(ME)
    care = Care(store.client, store.in_charge)
    while await care.look():
        pass
    assert (await store.vitals()).troubles == ()
    await store.commit(term, [PutPlacement(placement(1))])
    assert contents(await store.load()) == held | written(PutPlacement(placement(1)))
    assert (await store.vitals()).size_bytes < 8 * MB


async def test_an_etcd_that_is_full_of_what_is_in_use_stays_closed_until_it_is_given_more(
    small: tuple[LocalEtcd, EtcdStore, Term],
) -> None:
    _, store, term = small
    held, _ = await fill(store, term, among=1_000)
    care = Care(store.client, store.in_charge)
    while await care.look():
        pass
    with pytest.raises(StoreFull):
        await store.commit(term, [PutPlacement(placement(1))])
    assert contents(await store.load()) == held


async def test_a_server_that_comes_to_a_full_etcd_makes_room_before_anybody_leads(
    small: tuple[LocalEtcd, EtcdStore, Term],
) -> None:
    server, store, term = small
    await fill(store, term)
    await store.resign(term)
    late = EtcdStore([server.endpoint])
    await late.open()
    elected = None
    async with asyncio.timeout(SOON_S):
        while not elected:
            with suppress(StoreFull):
                elected = await late.campaign(ME)
    await late.commit(elected, [PutPlacement(placement(1))])
    await late.close()
