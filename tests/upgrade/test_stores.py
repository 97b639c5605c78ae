"""Stores that older versions of Billet wrote are read, and mean the same. 47881c4/write.py made the files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from billet.core.model import Host, Placement, PlacementState, Resources
from billet.core.questions.checkup import findings
from billet.core.state import Change, PutHost, PutPlacement, State, apply, check
from billet.ports import Leader
from billet.store import backup
from billet.store.records import decode, encode, read_leader
from billet.store.sqlite import SqliteStore
from billet.wire.headers import REQUEST_ID, token_of
from billet.wire.pb import flintlock_pb2 as rpc

OLD = Path(__file__).parent / "47881c4"
LEADER = Leader("server-1", "10.0.0.1:9090", "10.0.0.1:9095")
AT_S = 1_790_000_000.0
LABELS = {
    "cluster.x-k8s.io/cluster-name": "prod",
    "billet.io/group": "web",
    "billet.io/zone": "zone-a",
    "billet.io/priority": "3",
}
SMALL, LARGE = Resources(2, 2048, 10_240, 1), Resources(16, 65_536, 102_400, 1)


def stored() -> list[tuple[str, bytes]]:
    lines = (OLD / "records.jsonl").read_bytes().splitlines()
    return [
        (key, bytes(raw)) for key, raw in (msgspec.json.decode(line, type=tuple[str, msgspec.Raw]) for line in lines)
    ]


def fleet(changes: Iterable[Change]) -> State:
    state = State()
    for change in changes:
        apply(state, change)
    check(state)
    return state


def expect_the_fleet(state: State) -> None:
    """All values that were written, by the names of today."""
    rack_a1, rack_a2, rack_b1 = (state.hosts[name] for name in ("rack-a1", "rack-a2", "rack-b1"))
    assert rack_a1 == Host(
        "rack-a1",
        capacity=Resources(64, 262_144, 1_907_348, 200),
        allocatable=Resources(124, 253_952, 1_900_000, 200),
        zone="zone-a",
        labels={"rack": "a", "disk": "nvme"},
        provider="firecracker",
        cordoned=False,
        fenced=False,
    )
    assert (rack_a2.provider, rack_a2.cordoned, rack_a2.fenced) == ("cloudhypervisor", True, False)
    assert (rack_b1.zone, rack_b1.provider, rack_b1.cordoned, rack_b1.fenced) == ("zone-b", "", False, True)

    by_name = {placement.name: placement for placement in state.placements.values()}
    assert {name: placement.state.name for name, placement in by_name.items()} == {
        "web-0": "RESERVED",
        "web-1": "STARTED",
        "by-hand": "STARTED",
        "web-2": "RELEASING",
        "web-3": "LOST",
        "web-4": "GONE",
        "web-5": "FENCED",
    }
    assert {placement.state for placement in by_name.values()} == set(PlacementState)
    assert by_name["web-0"] == Placement(
        "01JE000000000000000000000A",
        namespace="team",
        name="web-0",
        demand=SMALL,
        host="rack-a1",
        state=PlacementState.RESERVED,
        uid="",
        labels=LABELS,
        score=0.25,
        runner_up="rack-a2",
        adopted=False,
        changed_at_s=AT_S,
        instance="agent-run-7",
    )
    assert by_name["web-1"].demand == LARGE
    assert [name for name, placement in by_name.items() if placement.adopted] == ["by-hand"]
    assert by_name["by-hand"].id == by_name["by-hand"].uid == "01JE00000000000000000000U2"
    # Only these hold room: web-0 and web-1, then by-hand and web-2. LOST, GONE and FENCED ones do not.
    assert {host: taken for host, taken in state.taken.items() if taken.vms} == {
        "rack-a1": SMALL.plus(LARGE),
        "rack-a2": SMALL.plus(SMALL),
    }


def test_stored_records_are_read_with_every_value() -> None:
    expect_the_fleet(fleet(decode(key, record) for key, record in stored()))


def test_a_stored_record_is_the_same_once_it_is_stored_again() -> None:
    for key, record in stored():
        change = decode(key, record)
        again, written = encode(change)
        assert again == key
        assert decode(key, written) == change
        assert isinstance(change, PutHost | PutPlacement)


def test_a_request_id_leads_to_the_placement_that_an_older_version_made() -> None:
    request = rpc.CreateMicroVMRequest()
    request.microvm.namespace = "team"
    token = token_of(request.SerializeToString(), {REQUEST_ID: "order-4711"}, lambda: "a new one")
    placements = {key: record for key, record in stored() if key.startswith("placements/")}
    assert b'"web-1"' in placements[f"placements/{token}"]


def test_a_stored_leader_is_read() -> None:
    assert read_leader((OLD / "leader.json").read_bytes()) == LEADER


async def test_a_store_file_opens_goes_on_with_its_terms_and_takes_commits(tmp_path: Path) -> None:
    path = Path(shutil.copy(OLD / "store.db", tmp_path))
    store = SqliteStore(path, create=False)
    await store.open()
    snapshot = await store.load()
    state = fleet(snapshot.changes)
    expect_the_fleet(state)
    assert findings([*state.hosts.values()], [*state.placements.values()]) == []
    assert snapshot.revision == 10
    term = await store.campaign(LEADER)
    assert term.number == 3
    assert await store.commit(term, snapshot.changes[:1]) == 11
    await store.close()


@pytest.mark.parametrize("name", ["backup.jsonl"])
async def test_a_backup_is_restored(tmp_path: Path, name: str) -> None:
    taken = backup.read(OLD / name)
    assert (taken.header.revision, taken.header.term, taken.header.records) == (10, 2, 10)
    store = SqliteStore(tmp_path / "new.db")
    await store.open()
    await backup.restore(store, taken, False, lambda count: None)
    expect_the_fleet(fleet((await store.load()).changes))
    await store.close()
