"""What flintlockd's answers to a create mean (host/verdicts.py), and what an agent makes of each."""

from __future__ import annotations

import pytest

from billet.adapters.flintlock import GrpcFlintlock
from billet.core.errors import Code
from billet.fake.faults import ALWAYS, Fault, FaultKind
from billet.host import flintlockd
from billet.host.verdicts import Meaning, meaning
from billet.ports import Created, Denied, Failed, Unknown
from billet.wire import flintlock as wire
from tests.cluster.clients import eventually
from tests.host.test_agent import Pair, order, pair  # noqa: F401

SAVING = "creating microvm: saving microvm spec: "
LOCKED = f"{SAVING}getting containerd writer: ref flintlock/ns/a/U/1 locked for 12ms (since 2026): unavailable"
FULL = f"{SAVING}getting containerd writer: failed to create: write /var/lib/containerd/ref: no space left on device"
DOWN = (
    "creating microvm: checking to see if spec exists: getting vm spec from store: finding content in store: "
    "walking content store for a: connection error: desc = dial unix /run/containerd/containerd.sock: connect refused"
)
PUBLISHING = "creating microvm: publishing microvm created event: publishing event: connection refused"
COMMITTING = f"{SAVING}committing content to store: failed to commit: unavailable"
NEWER = "creating microvm: the moon is full"

MEANINGS = {
    "creating microvm: an error occurred when attempting to validate microvm spec: validation": Meaning.VERDICT,
    "converting request: creating vmid from spec: name is required": Meaning.VERDICT,
    "creating microvm: microvm provider x isn't available": Meaning.VERDICT,
    "creating microvm: macvtap network interfaces not supported by the microvm provider": Meaning.VERDICT,
    "creating microvm: adding instance data: decoding existing instance metadata: illegal base64": Meaning.VERDICT,
    "creating microvm: checking to see if spec exists: walking content store: filters: parse error": Meaning.VERDICT,
    f"{SAVING}getting lease for owner: filters: parse error": Meaning.VERDICT,
    f"{SAVING}getting containerd writer: contains value with non-printable ASCII characters": Meaning.VERDICT,
    DOWN: Meaning.HOST_FAULT,
    FULL: Meaning.HOST_FAULT,
    f"{SAVING}getting lease for owner: creating lease: unavailable": Meaning.HOST_FAULT,
    LOCKED: Meaning.BUSY,
    PUBLISHING: Meaning.OUTCOME_UNKNOWN,
    COMMITTING: Meaning.OUTCOME_UNKNOWN,
    f"{COMMITTING}: locked for a second": Meaning.OUTCOME_UNKNOWN,
    f"{SAVING}a step that a newer flintlockd takes": Meaning.OUTCOME_UNKNOWN,
    "Stream removed": Meaning.OUTCOME_UNKNOWN,
    NEWER: Meaning.UNRECOGNISED,
    "": Meaning.UNRECOGNISED,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flintlockd, "LOOKUP_PAUSE_S", 0.0)
    monkeypatch.setattr(flintlockd, "BUSY_PAUSE_S", 0.0)


@pytest.mark.parametrize("text", MEANINGS)
def test_the_text_of_unknown_decides(text: str) -> None:
    assert meaning(Code.UNKNOWN, text) is MEANINGS[text]


def test_other_codes_decide_alone() -> None:
    for code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.INTERNAL):
        assert meaning(code, NEWER) is Meaning.OUTCOME_UNKNOWN
    assert meaning(Code.UNAUTHENTICATED, "") is Meaning.HOST_FAULT
    assert meaning(Code.INVALID_ARGUMENT, "") is meaning(Code.RESOURCE_EXHAUSTED, "") is Meaning.VERDICT


def refuse(text: str, kind: FaultKind = FaultKind.REFUSE, count: int = ALWAYS) -> Fault:
    return Fault(kind, count=count, text=text, code=Code.UNKNOWN)


@pytest.mark.parametrize("text", [DOWN, FULL])
async def test_a_hosts_own_fault_is_no_verdict(pair: Pair, text: str) -> None:  # noqa: F811
    """Before: Denied, so the client got the error although other hosts could have booted the microVM."""
    agent, fake = pair
    fake.faults.add(refuse(text))
    assert await agent.create(order("01FAULT")) == Failed(Code.UNKNOWN, text)
    assert agent.taken.vms == 0


async def test_a_locked_record_is_tried_again_on_the_same_host(pair: Pair) -> None:  # noqa: F811
    agent, fake = pair
    fake.faults.add(refuse(LOCKED, count=flintlockd.BUSY_TRIES - 1))
    assert isinstance(await agent.create(order("01RACE")), Created)
    fake.faults.add(refuse(LOCKED))
    assert await agent.create(order("01LOCKED")) == Failed(Code.UNKNOWN, LOCKED)
    assert fake.stats()["creates_accepted"] == 1


async def test_promise_1_a_create_is_not_sent_again_once_its_room_is_gone(pair: Pair) -> None:  # noqa: F811
    """Somebody creates a microVM on the host directly, between two tries (seed 3635 of the simulator)."""
    _, fake = pair
    fake.faults.add(refuse(LOCKED, count=1))
    client = GrpcFlintlock(fake.grpc_address)
    daemon = flintlockd.Daemon("h1", client, wire)
    assert await daemon.create(order("01FULL"), lambda: False) == Failed(Code.UNKNOWN, LOCKED)
    assert fake.stats()["creates_accepted"] == 0
    await client.close()


@pytest.mark.parametrize("text", [PUBLISHING, COMMITTING])
async def test_promise_4_an_ambiguous_failure_is_looked_up(pair: Pair, text: str) -> None:  # noqa: F811
    agent, fake = pair
    fake.faults.add(refuse(text, FaultKind.REFUSE_AFTER_ACCEPT, 1))
    assert isinstance(await agent.create(order("01THERE")), Created)
    fake.faults.add(refuse(text))
    outcome = await agent.create(order("01NOT"))
    assert isinstance(outcome, Unknown)
    assert outcome.fault
    assert text in outcome.text


async def test_promise_4_an_unrecognised_failure_is_final_once_flintlockd_shows_no_microvm(
    pair: Pair,  # noqa: F811
) -> None:
    agent, fake = pair
    fake.faults.add(refuse(NEWER, FaultKind.REFUSE_AFTER_ACCEPT, 1))
    assert isinstance(await agent.create(order("01THERE")), Created)
    fake.faults.add(refuse(NEWER))
    assert await agent.create(order("01NOT")) == Denied(Code.UNKNOWN, NEWER, unclear=True)
    fake.faults.add(Fault(FaultKind.REFUSE, "ListMicroVMs", ALWAYS))
    assert isinstance(await agent.create(order("01SILENT")), Unknown)


async def test_what_should_have_been_refused_is_deleted_also_if_the_answer_was_lost(pair: Pair) -> None:  # noqa: F811
    agent, fake = pair
    fake.faults.add(refuse(PUBLISHING, FaultKind.REFUSE_AFTER_ACCEPT, 1))
    await agent.create(order("01FINE", verdict_only=True))
    await eventually(lambda: set(fake.stats()["by_state"]) <= {"DELETING"})
