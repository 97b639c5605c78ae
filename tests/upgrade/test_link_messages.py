"""Messages of agents and servers of older versions are read, and mean the same. 47881c4/write.py made the files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from billet.core.model import (
    Auction,
    Bid,
    Constraints,
    Facts,
    Host,
    Image,
    Observed,
    Reason,
    Refusal,
    Resources,
    Score,
    VmState,
)
from billet.core.pressure import NO_STALLS, Stalls
from billet.core.report import InventoryUpdate, MachineFacts, Report
from billet.core.scoring import Weights
from billet.link import bid_messages, messages
from billet.link.hello import get_hello
from billet.ports import Created, Denied, NotTaken, Unknown
from billet.wire.pb import link_pb2 as pb

OLD = Path(__file__).parent / "47881c4"
TAKEN = Resources(20, 69_632, 122_880, 3)
SMALL, LARGE = Resources(2, 2048, 10_240, 1), Resources(16, 65_536, 102_400, 1)
REQUESTED_ID = "req-b0b1c5143d62eb152bd2216b093fdc77"
FACTS = Facts(
    pressure=0.125,
    pending=2,
    boot_s=1.5,
    ahead_s=3.25,
    pull_s=6.5,
    uncertainty=0.375,
    pulls=1,
    boots_seen=20.0,
    pulls_seen=4.0,
)

M = TypeVar("M", bound=Message)


def read(kind: type[M], name: str) -> M:
    return kind.FromString((OLD / f"{name}.bin").read_bytes())


def up(name: str) -> pb.Up:
    return read(pb.Up, f"up-{name}")


def down(name: str) -> pb.Down:
    return read(pb.Down, f"down-{name}")


def test_every_file_is_read_by_a_test() -> None:
    named = ["answers", "bids", "hello", "inventory", "report", "report-of-a-host-that-knows-little"]
    told = ["calls", "goodbye", "order", "standby", "stream", "welcome"]
    assert {path.stem for path in OLD.glob("*.bin")} == {"piece"} | {f"up-{n}" for n in named} | {
        f"down-{n}" for n in told
    }


def test_an_agents_hello() -> None:
    hello = up("hello").hello
    assert get_hello(hello) == Host(
        "rack-a1",
        capacity=Resources(64, 262_144, 1_907_348, 200),
        allocatable=Resources(124, 253_952, 1_900_000, 200),
        zone="zone-a",
        labels={"rack": "a", "disk": "nvme"},
        provider="firecracker",
    )
    assert (hello.version, hello.instance, hello.term) == ("0.1.0", "agent-run-7", 2)


def test_an_agents_report() -> None:
    assert messages.get_report(up("report").report) == Report(
        facts=FACTS,
        cpu_share=0.25,
        memory_used_mib=65_536,
        disk_free_mib=1_500_000,
        vms=5,
        failed=1,
        daemon_ok=True,
        interval_s=2.0,
        taken=TAKEN,
        stalls=Stalls(0.0625, 0.0, 0.125),
        memory_free_mib=190_000,
        volumes_free_mib=1_400_000,
        images=12,
        machine=MachineFacts("A CPU @ 3.0 GHz", True, ("firecracker",), ("volumes: no thin pool",)),
    )


def test_metrics_that_an_agent_does_not_have_are_not_read_as_zero() -> None:
    report = messages.get_report(up("report-of-a-host-that-knows-little").report)
    assert report.facts == Facts()
    assert (report.stalls, report.machine) == (NO_STALLS, MachineFacts())
    assert (report.memory_free_mib, report.volumes_free_mib, report.images, report.daemon_ok) == (
        None,
        None,
        None,
        False,
    )


def test_an_agents_inventory() -> None:
    assert messages.get_inventory(up("inventory").inventory) == InventoryUpdate(
        True,
        [
            Observed("01JE00000000000000000000U1", "team", "web-1", LARGE, VmState.CREATED, REQUESTED_ID, 0),
            Observed("01JE00000000000000000000U2", "default", "by-hand", SMALL, VmState.FAILED, "", 3),
        ],
        ["01JE00000000000000000000U4"],
        ["01JE000000000000000000000A"],
    )


def test_an_agents_bids_and_every_reason_for_a_refusal() -> None:
    (bids,) = up("bids").bids
    assert bids.round == 5
    (lot, bid), *refusals = bid_messages.get_bids("rack-a1", bids)
    assert lot == 1
    score = Score(total=0.6875, utilisation=0.5, pressure=0.0625, delay=0.0625, shape=0.0625)
    assert bid == Bid("rack-a1", score, basis=TAKEN, facts=FACTS, missing=1, coming=2, formula=6)
    # Reason names are on the wire. New reasons may follow; these stay, and no name may be read as another reason.
    written = [
        Reason.NO_VCPU, Reason.NO_MEMORY, Reason.NO_DISK, Reason.NO_SLOT, Reason.PROVIDER, Reason.MACVTAP,
        Reason.VIRTIOFS, Reason.ZONE, Reason.HOST, Reason.LABEL, Reason.AVOIDED, Reason.APART, Reason.CORDONED,
        Reason.FENCED, Reason.DAEMON_AWAY, Reason.STOPPING, Reason.SILENT, Reason.AWAY, Reason.DECLINED,
    ]  # fmt: skip
    expected = [(10 + n, Refusal("rack-a1", reason, f"detail {n}")) for n, reason in enumerate(written)]
    for n in (16, 17):  # no host says of itself that it is silent or away
        expected[n] = (10 + n, Refusal("rack-a1", Reason.DECLINED, f"{written[n].name} detail {n}"))
    assert refusals == expected


def test_what_became_of_a_create() -> None:
    answers = up("answers").answers
    assert [answer.order for answer in answers] == [0, 1, 2, 3]
    assert [messages.get_outcome("rack-a1", answer) for answer in answers] == [
        Created("01JE00000000000000000000U1", b"reply"),
        Denied(2, "creating microvm: 'VCPU' failed"),
        NotTaken(Refusal("rack-a1", Reason.STOPPING, "")),
        Unknown("flintlockd did not answer"),
    ]


def test_a_leaders_welcome() -> None:
    welcome = down("welcome").welcome
    assert welcome.term == 2
    assert messages.get_weights(welcome) == Weights(pressure=0.25, delay=0.5, policy="pack", shape=0.75)


def test_a_leaders_call_for_bids() -> None:
    (call,) = down("calls").calls
    assert call.round == 5
    (first, large), (second, plain) = bid_messages.get_call(call)
    assert (first, second) == (1, 2)
    assert large == Auction(
        "", "", "",
        demand=SMALL,
        provider="firecracker",
        needs_macvtap=True,
        needs_virtiofs=False,
        constraints=Constraints(policy="pack"),
        images=(Image("ghcr.io/vm/ubuntu:24.04"), Image("ghcr.io/vm/kernel:6.1", kernel=True)),
    )  # fmt: skip
    assert plain == Auction("", "", "", demand=Resources(4, 4096, 0, 1))


def test_a_leaders_order() -> None:
    (order,) = down("order").orders
    assert (order.id, order.term, order.timeout_ms) == (9, 2, 30_000)
    assert order.method == "/microvm.services.api.v1alpha1.MicroVM/CreateMicroVM"
    assert order.payload == b"\x0a\x06\x12\x04team"
    assert (order.token, messages.get_resources(order.demand)) == (REQUESTED_ID, SMALL)
    assert (order.verdict_only, order.resent, order.instance) == (False, True, "agent-run-7")


def test_streams_standby_and_goodbye() -> None:
    (stream,) = down("stream").streams
    assert (stream.id, stream.method, stream.timeout_ms) == ("s-1", "/x.Y/Exec", 1_000)
    assert down("standby").standby.leader == "10.0.0.1:9095"
    assert down("goodbye").goodbye.why == "another agent has this host's name"
    piece = read(pb.Piece, "piece")
    assert (piece.data, piece.end, piece.code, piece.text) == (b"data", True, 5, "text")
    assert [*stream.metadata, *piece.headers, *piece.trailers, *down("stream").cancelled] == []
