"""Records: what is read is what was written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billet.core.access import Credential, DropCredential, PutCredential, Role
from billet.core.errors import StoreCorrupt
from billet.core.model import Host, Placement, PlacementState, Resources
from billet.core.state import Change, DropHost, DropPlacement, PutHost, PutPlacement
from billet.ports import Leader
from billet.store.records import decode, encode, read_leader
from tests.core.strategies import amounts, hosts

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
placements = st.builds(
    Placement,
    id=texts,
    namespace=texts,
    name=texts,
    demand=amounts,
    host=texts,
    state=st.sampled_from(PlacementState),
    uid=texts,
    labels=st.dictionaries(texts, texts, max_size=3),
    score=st.floats(allow_nan=False, allow_infinity=False),
    runner_up=texts,
    adopted=st.booleans(),
    changed_at_s=st.floats(0, 1e11),
)
credentials = st.builds(
    Credential,
    name=texts,
    role=st.sampled_from(Role),
    namespaces=st.lists(texts, max_size=3).map(tuple),
    exec=st.booleans(),
    token_sha256=texts,
    certificate=texts,
    created_at_s=st.floats(0, 1e11),
    created_by=texts,
    expires_at_s=st.floats(0, 1e11),
)
changes = st.one_of(
    st.builds(PutHost, hosts),
    st.builds(DropHost, texts),
    st.builds(PutPlacement, placements),
    st.builds(DropPlacement, texts),
    st.builds(PutCredential, credentials),
    st.builds(DropCredential, texts),
)


# The last two: a key that is not UTF-8, which msgspec reports otherwise, and more nesting than Python's stack takes.
WRONG = [
    b"[]", b"{}", b'{"v":1}', b'{"v":"x"}', b'{"v":1,"demand":7}', b'{"v":1,"\xf6":1}', b'{"v":' + b"[" * 200_000
]  # fmt: skip


@given(changes)
def test_a_change_is_read_as_it_was_written(change: Change) -> None:
    assert decode(*encode(change)) == change


@given(st.binary(max_size=60) | st.sampled_from(WRONG))
def test_bytes_that_are_no_record_are_called_corrupt(record: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        decode("placements/p1", record)


@given(
    texts.filter(lambda key: not key.startswith(("hosts/", "placements/", "credentials/"))), st.none() | st.binary()
)
def test_a_record_of_a_kind_that_is_not_known_is_called_corrupt(key: str, record: bytes | None) -> None:
    with pytest.raises(StoreCorrupt, match="upgrade Billet, or delete the record"):
        decode(key, record)


@pytest.mark.parametrize("field", ["unheard_of", "another"])
def test_a_field_that_is_not_known_is_passed_over(field: str) -> None:
    key, record = encode(
        PutPlacement(Placement("p", "ns", "n", Resources(1, 1024, 0, 1), "h", PlacementState.RESERVED))
    )
    assert record
    assert decode(key, record[:-1] + f',"{field}":1}}'.encode()) == decode(key, record)


def test_a_host_that_was_written_before_there_was_fencing_is_not_fenced() -> None:
    key, record = encode(PutHost(Host("h1", Resources(1), Resources(1), cordoned=True)))
    assert record
    fields = json.loads(record)
    del fields["fenced"]
    assert decode(key, json.dumps(fields).encode()) == decode(key, record)


@pytest.mark.parametrize("wrong", [b"1", b'{"id":"a"}', b"\xff", b""])
def test_a_leader_that_cannot_be_read_is_called_corrupt(wrong: bytes) -> None:
    with pytest.raises(StoreCorrupt):
        read_leader(wrong)


def test_a_leader_is_read_from_what_a_candidate_left() -> None:
    assert read_leader(b'{"id":"a","grpc":"h:1","link":"h:2"}') == Leader("a", "h:1", "h:2")
