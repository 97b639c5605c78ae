"""What a person reads who asks why a host did not win."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.client import Client
from billet.core.constraints import read, violation
from billet.core.model import Facts, Host, HostView, Reason, Refusal, Resources
from billet.core.questions.record import AuctionRecord, Called
from billet.core.questions.whynot import why_not
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.show.whynot import told
from billet.wire.auction_records import encode
from billet.wire.pb.fleet_pb2 import RecordsReply
from tests.cli.test_tables import text
from tests.core.test_whynot import AUCTION, ROOM, held, on, view


def answer(record, host_id, width=200):
    return " ".join(text(told(why_not(record, host_id), record), width).split())


def test_a_fuller_host_hears_by_what_it_lost_and_what_would_have_helped():
    said = answer(held(AUCTION, {"a": view(4), "b": view(9)}, {}), "b")
    assert said.startswith("b asked 1.4")
    assert "; it lost by how full it would be (+0.312), its shape (+0." in said
    assert "It would have won with 5 vCPU less taken (4 instead of 9)" in said


def test_a_queue_and_a_cordon_in_words():
    slow = held(AUCTION, {"a": view(4), "b": view(4)}, {"a": Facts(pending=7, boot_s=3.0), "b": Facts(0, 2, 3.0)})
    assert "with its boot queue at" in answer(slow, "a")
    shut = held(AUCTION, {"a": view(4), "b": view(0, cordoned=True)}, {})
    assert answer(shut, "b") == "b did not get ns/vm: it is cordoned. It would have won were it not cordoned."


def test_a_full_host_and_one_too_small():
    full = HostView(ROOM, Resources(16, 65536, 0, 3))
    said = answer(held(AUCTION, {"a": view(15), "b": full}, {}), "b")
    assert said.startswith(
        "b did not get ns/vm: it had not enough vCPU (needs 2 vCPU, 0 free). It would have won with"
    )
    assert "2 vCPU less taken (14 instead of 16) and with 2 GiB less memory taken (62 GiB instead of 64 GiB)" in said
    assert "none was counted" in said
    small = HostView(Resources(1, 1024, 0, 9), Resources())
    said = answer(held(AUCTION, {"a": view(4), "b": small}, {}), "b")
    assert said.endswith("However empty, it could not have won: the whole host has 1 vCPU and 1 GiB memory.")


@pytest.mark.parametrize(
    ("labels", "preference"),
    [
        ({"billet.io/zone": "b"}, "for zone b"),
        ({"billet.io/host": "a"}, "for host a"),
        ({"billet.io/require.disk": "nvme", "billet.io/require.gpu": "yes"}, "for disk=nvme and gpu=yes"),
        ({"billet.io/avoid.disk": "hdd"}, "to avoid disk=hdd"),
    ],
    ids=str,
)
def test_a_host_that_a_wish_rules_out_hears_of_the_wish(labels, preference):
    auction = replace(AUCTION, labels=labels, constraints=read(labels))
    barred = violation(Host("b", ROOM, ROOM, "c", {"disk": "hdd"}), auction.constraints)
    said = answer(held(auction, {"a": view(8), "b": view(excluded_by=barred)}, {}), "b")
    assert said.endswith(f"). It could not have won: the constraint {preference} excludes it.")


def test_a_host_that_has_one_of_a_group_that_is_kept_apart_hears_of_the_group():
    auction = replace(AUCTION, constraints=read({"billet.io/apart": "web"}))
    barred = Refusal("b", Reason.APART, "already has ns/other of group web")
    said = answer(held(auction, {"a": view(8), "b": view(excluded_by=barred)}, {}), "b")
    assert said.endswith("the constraint to be apart from others of group web excludes it.")


@pytest.mark.parametrize(
    ("called", "why"),
    [
        (Called(3, 0, ("z",)), "it was not connected to the leader"),
        (Called(100, 32), "of 100 hosts the leader asks the 32 that suit the policy best"),
        (Called(3), "the fleet had no such host then"),
        (Called(), "the record does not say why"),
    ],
)
def test_a_host_that_was_not_asked_hears_why(called, why):
    record = replace(held(AUCTION, {"a": view(4), "b": view(7)}, {}), called=called)
    assert answer(record, "z").startswith(f"z was not asked for ns/vm: {why}")


def test_the_winner_hears_that_it_won():
    assert answer(held(AUCTION, {"a": view(4), "b": view(7)}, {}), "a") == "a won ns/vm."


def test_a_host_whose_provider_cannot_hears_which_one_can():
    shared = replace(AUCTION, needs_virtiofs=True)
    assert answer(on("firecracker", shared, a=view(4), b=view(0)), "b") == (
        "b did not get ns/vm: its provider cannot do virtiofs (firecracker)."
        " A host whose provider is cloudhypervisor would have been asked for its bid."
        " It would have won with such a provider."
        " (A refusal does not tell pressure and boot queue; none was counted.)"
    )
    said = answer(on("firecracker", replace(shared, provider="firecracker"), a=view(4), b=view(0)), "b")
    assert said.endswith("No host could have won: the request itself names the provider firecracker.")


def test_what_would_show_as_nothing_is_no_reason():
    said = answer(held(AUCTION, {"a": view(4), "b": view(9)}, {"b": Facts(pressure=0.001)}), "b")
    assert "its pressure (" not in said
    assert "(+0.000)" not in said


def test_a_create_beyond_its_quota_hears_that_no_host_was_asked(monkeypatch):
    over = "namespace ns is over its quota: it may have 3 microVMs, has 3 and wants 1 more"
    kept = [encode(AuctionRecord(AUCTION, DEFAULT_WEIGHTS, 0.0, outcome="unplaced", text=over))]
    monkeypatch.setattr(Client, "fleet", lambda self, method, request, reply: RecordsReply(record=kept))
    said = CliRunner().invoke(main, ["explain", "ns/vm", "--why-not", "a"])
    assert said.stderr.strip() == f"billet: no host was asked for 'ns/vm': {over}"
