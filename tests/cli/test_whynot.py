"""Output of `billet explain --why-not`."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from billet.cli import main
from billet.client import Client
from billet.core.constraints import read, violation
from billet.core.model import Facts, Host, HostView, Peers, Reason, Refusal, Resources, Score
from billet.core.questions.record import AuctionRecord, Called
from billet.core.questions.whynot import why_not
from billet.core.scoring import DEFAULT_WEIGHTS
from billet.show.whynot import FIELDS, why_not_report
from billet.wire.auction_records import encode
from billet.wire.pb.fleet_pb2 import RecordsReply
from tests.cli.test_tables import text
from tests.core.test_whynot import AUCTION, ROOM, held, on, view


def answer(record, host_id, width=200):
    return " ".join(text(why_not_report(why_not(record, host_id), record), width).split())


def test_a_fuller_host_lost_on_utilisation():
    output = answer(held(AUCTION, {"a": view(4), "b": view(9)}, {}), "b")
    assert output.startswith("b bid 1.3")
    assert "; it lost on utilisation (+0.312), shape (+0." in output
    assert "It would have won with 5 fewer vCPU allocated (4 instead of 9)" in output


def test_a_boot_queue_and_a_cordon():
    slow = held(AUCTION, {"a": view(4), "b": view(4)}, {"a": Facts(pending=7, boot_s=3.0), "b": Facts(0, 2, 3.0)})
    assert "with its boot queue at" in answer(slow, "a")
    shut = held(AUCTION, {"a": view(4), "b": view(0, cordoned=True)}, {})
    assert answer(shut, "b") == "b did not get ns/vm: it is cordoned. It would have won if it were not cordoned."


def test_a_full_host_and_one_too_small():
    full = HostView(ROOM, Resources(16, 65536, 0, 3))
    output = answer(held(AUCTION, {"a": view(15), "b": full}, {}), "b")
    assert output.startswith(
        "b did not get ns/vm: it had not enough vCPU (needs 2 vCPU, 0 free). It would have won with"
    )
    assert (
        "2 fewer vCPU allocated (14 instead of 16) and with 2 GiB less memory allocated (62 GiB instead of 64 GiB)"
        in output
    )
    assert "both were counted as 0" in output
    small = HostView(Resources(1, 1024, 0, 9), Resources())
    output = answer(held(AUCTION, {"a": view(4), "b": small}, {}), "b")
    assert output.endswith("It could not have won even when empty: the whole host has 1 vCPU and 1 GiB memory.")


@pytest.mark.parametrize(
    ("labels", "constraint"),
    [
        ({"billet.io/zone": "b"}, "zone b"),
        ({"billet.io/host": "a"}, "host a"),
        ({"billet.io/require.disk": "nvme", "billet.io/require.gpu": "yes"}, "require disk=nvme and gpu=yes"),
        ({"billet.io/avoid.disk": "hdd"}, "avoid disk=hdd"),
    ],
    ids=str,
)
def test_an_excluding_constraint_is_named(labels, constraint):
    auction = replace(AUCTION, labels=labels, constraints=read(labels))
    barred = violation(Host("b", ROOM, ROOM, "c", {"disk": "hdd"}), auction.constraints)
    output = answer(held(auction, {"a": view(8), "b": view(excluded_by=barred)}, {}), "b")
    assert output.endswith(f"). It could not have won: the constraint `{constraint}` excludes it.")


def test_an_excluding_group_is_named():
    auction = replace(AUCTION, constraints=read({"billet.io/apart": "web"}))
    barred = Refusal("b", Reason.APART, "already has ns/other of group web")
    output = answer(held(auction, {"a": view(8), "b": view(excluded_by=barred)}, {}), "b")
    assert output.endswith("the constraint `apart web` excludes it.")


@pytest.mark.parametrize(
    ("called", "why"),
    [
        (Called(3, 0, ("z",)), "it was not connected to the leader"),
        (Called(100, 32), "of 100 hosts the leader compares the 32 that suit best by their last reports"),
        (Called(3), "the fleet had no host of this name at that time"),
        (Called(), "the record does not say why"),
    ],
)
def test_why_a_host_was_not_asked(called, why):
    record = replace(held(AUCTION, {"a": view(4), "b": view(7)}, {}), called=called)
    assert answer(record, "z").startswith(f"z took no part in the auction of ns/vm: {why}")


def test_the_winner():
    assert answer(held(AUCTION, {"a": view(4), "b": view(7)}, {}), "a") == "a won ns/vm."


def test_a_missing_capability_names_the_providers_that_have_it():
    shared = replace(AUCTION, needs_virtiofs=True)
    assert answer(on("firecracker", shared, a=view(4), b=view(0)), "b") == (
        "b did not get ns/vm: its provider cannot do virtiofs (firecracker)."
        " A host whose provider is cloudhypervisor could have bid."
        " It would have won with such a provider."
        " (A refusal carries no pressure and boot queue; both were counted as 0.)"
    )
    output = answer(on("firecracker", replace(shared, provider="firecracker"), a=view(4), b=view(0)), "b")
    assert output.endswith("No host could have won: the request names the provider firecracker.")


def test_differences_that_would_print_as_zero_are_left_out():
    output = answer(held(AUCTION, {"a": view(4), "b": view(9)}, {"b": Facts(pressure=0.001)}), "b")
    assert "pressure (" not in output
    assert "(+0.000)" not in output


def test_a_create_over_its_quota(monkeypatch):
    over = "namespace ns is over its quota: it may have 3 microVMs, has 3 and wants 1 more"
    kept = [encode(AuctionRecord(AUCTION, DEFAULT_WEIGHTS, 0.0, outcome="unplaced", text=over))]
    monkeypatch.setattr(Client, "fleet", lambda self, method, request, reply: RecordsReply(record=kept))
    output = CliRunner().invoke(main, ["explain", "ns/vm", "--why-not", "a"])
    assert output.stderr.strip() == f"billet: no host was asked for 'ns/vm': {over}"


def test_the_table_has_every_part_of_the_score():
    assert {*FIELDS, "total"} == set(Score._fields)


def test_what_is_to_be_spread_was_lost_to_a_zone_with_fewer_of_the_group():
    """Broken on purpose (the verdict speaks of scores alone): it says that a lost, which bid less than b."""
    wanted = replace(AUCTION, constraints=read({"billet.io/spread": "g"}))
    peers = {"a": Peers("spread", 0, 2, 2), "b": Peers("spread", 0, 1, 2)}
    views = {host: view(taken)._replace(peers=(peers[host],)) for host, taken in (("a", 0), ("b", 9))}
    output = answer(held(wanted, views, {}), "a")
    assert output.startswith(
        "a did not get ns/vm, which is to be spread: it has 2 of the group in its zone and 0 on it, and b 1 of the "
        "group in its zone and 0 on it."
    )
    assert output.endswith("No single change to it would have made it win.")
