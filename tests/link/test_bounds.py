"""What hosts say is bounded: reports, microVMs and bids that cannot be true."""

from __future__ import annotations

import asyncio
from math import inf, nan

import pytest

from billet.core.identity import ROWS
from billet.core.model import Auction, Bid, Reason, Refusal, Resources, VmState
from billet.link import bounds, messages
from billet.link.rounds import Rounds
from billet.ports import Created, Denied, Unknown
from billet.wire.pb import link_pb2 as pb

ROOM = Resources(8, 8192, 0, 8)
ONE = pb.Resources(vcpu=1, memory_mib=1024, disk_mib=0, vms=1)


def row(**changes: object) -> pb.MicroVM:
    base = {"uid": "u1", "namespace": "ns", "name": "vm", "demand": ONE, "state": VmState.CREATED.value}
    return pb.MicroVM(**{**base, **changes})


@pytest.mark.parametrize(
    "report",
    [
        pb.Report(facts=pb.Facts(pressure=nan)),
        pb.Report(facts=pb.Facts(ahead_s=inf)),
        pb.Report(facts=pb.Facts(boot_s=1e308)),
        pb.Report(facts=pb.Facts(pending=-9)),
        pb.Report(cpu_share=nan),
        pb.Report(cpu_share=1e308),
        pb.Report(cpu_stall=inf),
        pb.Report(interval_s=nan),
        pb.Report(interval_s=-1),
        pb.Report(memory_used_mib=-(2**63)),
        pb.Report(memory_free_mib=-1),
        pb.Report(vms=-1),
        pb.Report(failed=-1),
        pb.Report(images=-5),
        pb.Report(taken=pb.Resources(vcpu=-1)),
        pb.Report(flintlockd="\x1b]0;pwn\x07"),
    ],
)
def test_a_report_that_cannot_be_true_is_refused(report: pb.Report) -> None:
    with pytest.raises(ValueError, match=r"fact|share|taken|count|printed"):
        messages.get_report(report)


def test_texts_of_a_report_are_made_printable() -> None:
    machine = pb.MachineFacts(cpu_model="cpu\x1b[31m", lacks=["a\nb", "x" * 5000] + ["y"] * 100)
    read = messages.get_report(pb.Report(machine=machine)).machine
    assert read.cpu_model == "cpu?[31m"
    assert read.lacks[0] == "a?b"
    assert len(read.lacks[1]) == bounds.TEXT_CHARS
    assert len(read.lacks) == bounds.TEXTS


def test_a_microvm_with_an_absurd_demand_is_kept_with_a_plausible_one() -> None:
    """To leave it out would be to say that it is gone."""
    demand = pb.Resources(vcpu=-1000, memory_mib=-(2**40), disk_mib=2**62, vms=-3)
    (seen,) = messages.get_inventory(pb.InventoryUpdate(seen=[row(demand=demand, retry=-1)])).seen
    assert seen.demand == Resources(0, 0, bounds.MOST.disk_mib, 1)
    assert seen.retry == 0


def test_a_row_without_a_uid_or_with_an_unknown_state_is_left_out() -> None:
    rows = [row(), row(uid=""), row(uid="u\n2"), row(uid="u" * 300), row(uid="u3", state=99)]
    assert [seen.uid for seen in messages.get_inventory(pb.InventoryUpdate(seen=rows)).seen] == ["u1"]


def test_a_host_with_too_many_microvms_is_refused() -> None:
    many = pb.InventoryUpdate(full=True, seen=[row(uid=f"u{n}") for n in range(ROWS + 1)])
    with pytest.raises(ValueError, match="the number of microVMs is 10001"):
        messages.get_inventory(many)


def test_a_host_may_name_so_many_images_and_no_more() -> None:
    """Broken on purpose (cut after all are read): a million names in one report keep the leader busy for seconds."""
    many = [f"image-{n}" for n in range(2 * bounds.IMAGES)]
    named = pb.Images(volumes=["x" * 2000, *many], kernels=many)
    report = pb.Report(interval_s=1.0, at_hand=pb.HostImages(unpacked=named, coming=named))
    at_hand = messages.get_report(report).at_hand
    assert at_hand
    assert len(at_hand.unpacked) == 2 * bounds.IMAGES - 1
    assert not at_hand.coming
    assert max(len(image.ref) for image in at_hand.unpacked) < 2000


def test_a_host_cannot_refuse_with_a_reason_that_only_the_leader_gives() -> None:
    """Broken on purpose: a host that says SILENT takes part with its standing bid, wins, and refuses, for ever."""
    for reason in ("SILENT", "AWAY", "SUSPECT", "FAULT", "unheard of"):
        assert messages.get_refusal("a", pb.Refusal(reason=reason)).reason is Reason.DECLINED
    assert messages.get_refusal("a", pb.Refusal(reason="NO_VCPU")).reason is Reason.NO_VCPU


class Bidder:
    def __init__(self, host_id: str) -> None:
        self.host_id, self.late = host_id, False
        self.rounds: list[int] = []

    def put_bytes(self, serialised: bytes) -> None:
        self.rounds += [call.round for call in pb.Down.FromString(serialised).calls]


def bids(number: int, lots: list[int], share: float = 0.5) -> pb.Bids:
    return pb.Bids(round=number, lot=lots, utilisation=[share] * len(lots), shape=[0.0] * len(lots))


async def answers_to(*said: tuple[str, pb.Bids]) -> list[Bid | Refusal]:
    """The answers that an auction gets that asks hosts a and b, when these hosts say this of round 1."""
    bidders = {name: Bidder(name) for name in ("a", "b", "not asked")}
    rounds = Rounds(bidders.get, 0.2, 0.2)
    auction = Auction("01", "ns", "vm", Resources(1, 1024, 0, 1))
    calling = asyncio.create_task(rounds.call_for_bids(auction, ["a", "b"]))
    await asyncio.sleep(0.01)
    assert bidders["a"].rounds == [1]
    for name, message in said:
        rounds.answered(bidders[name], message)
    return await calling


async def test_a_host_has_one_bid_in_an_auction_the_first() -> None:
    answers = await answers_to(("a", bids(1, [0], 0.5)), ("a", bids(1, [0], 0.1)), ("b", bids(1, [0], 0.9)))
    assert [(answer.host, answer.score.utilisation) for answer in answers if isinstance(answer, Bid)] == [
        ("a", 0.5), ("b", 0.9),
    ]  # fmt: skip
    assert len(answers) == 2


async def test_twenty_thousand_bids_for_one_lot_are_none() -> None:
    answers = await answers_to(("a", bids(1, [0] * 20_000)), ("b", bids(1, [0])))
    assert [type(answer) for answer in answers] == [Bid, Refusal]
    assert answers[1] == Refusal("a", Reason.SILENT)


async def test_a_host_that_was_not_asked_does_not_bid() -> None:
    answers = await answers_to(("not asked", bids(1, [0])), ("a", bids(1, [0])), ("b", bids(1, [0])))
    assert sorted(answer.host for answer in answers) == ["a", "b"]


async def test_columns_of_different_lengths_are_no_answer() -> None:
    broken = pb.Bids(round=1, lot=[0], utilisation=[], shape=[0.0])
    answers = await answers_to(("a", broken), ("b", bids(1, [0])))
    assert [answer.host for answer in answers if isinstance(answer, Bid)] == ["b"]


@pytest.mark.parametrize("uid", ["", "u" * 300, "u\x1b[31m"])
def test_a_create_whose_answer_has_no_plausible_uid_has_an_unknown_outcome(uid: str) -> None:
    """Broken on purpose (any uid will do): a placement without a uid, or one that no store takes."""
    assert isinstance(messages.get_outcome("h1", pb.Answer(uid=uid)), Unknown)
    assert messages.get_outcome("h1", pb.Answer(uid="u1")) == Created("u1", b"")


@pytest.mark.parametrize(("code", "told"), [(5, 5), (999, 2), (-1, 2)])
def test_a_code_that_does_not_exist_is_unknown(code: int, told: int) -> None:
    """Broken on purpose (passed on): the client's call fails with an internal error of the server."""
    assert messages.get_outcome("h1", pb.Answer(code=code, text="why")) == Denied(told, "why")


def test_the_texts_of_a_microvm_are_bounded() -> None:
    """Its record must fit into the store, and its name is printed."""
    absurd = row(namespace="n" * 5000, name="a\x1b[31m" + "x" * 5000, token="t" * 5000)
    (read,) = messages.get_inventory(pb.InventoryUpdate(seen=[absurd])).seen
    assert len(read.namespace) == len(read.name) == bounds.TEXT_CHARS
    assert read.name.isprintable()
    assert read.token == ""
