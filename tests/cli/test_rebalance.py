"""Output of `billet rebalance --plan`, and which microVMs and hosts take part."""

import json
from types import SimpleNamespace

import pytest

from billet.api.fleet_service import host_view
from billet.commands.lists import as_dicts
from billet.commands.rebalance import CANNOT_MIGRATE, Limits, fleet_of, print_plan
from billet.core.corrections import NO_DISCOUNT
from billet.core.model import Facts, Host, Resources
from billet.core.report import Report
from billet.core.state import State
from billet.leader.health import HealthTracker
from billet.process import SystemClock
from billet.wire.pb import fleet_pb2 as pb

ALLOWED = {"billet.io/evict": "allow"}
ROOM = pb.Resources(vcpu=16, memory_mib=65536, disk_mib=100_000, vms=99)


def vm(n, host, **fields):
    plain = {"uid": f"U{n:02}", "namespace": "ns", "name": f"vm-{n}", "host": host, "state": "STARTED", "vcpu": 2,
             "vm_state": "CREATED", "memory_mib": 4096, "disk_mib": 1000, "labels": ALLOWED}  # fmt: skip
    return pb.PlacementView(**{**plain, **fields})


def fleet(*placements, **states):
    """h0, h1 and h2 with these placements; `states` has the hosts that are not READY."""
    hosts = []
    for host_id in ("h0", "h1", "h2"):
        mine = [p for p in placements if p.host == host_id]
        taken = pb.Resources(
            vcpu=sum(p.vcpu for p in mine), memory_mib=sum(p.memory_mib for p in mine), vms=len(mine)
        )
        state = states.get(host_id, pb.READY)
        hosts.append(pb.HostView(id=host_id, state=state, allocatable=ROOM, taken=taken, boot_s=0.5))
    weights = {"shape": 1.0, "pressure": 0.2, "delay": 0.05, "of a newer Billet": 5.0}
    reply = pb.HostsReply(hosts=hosts, policy="spread", weights=weights)
    return fleet_of(as_dicts(reply), as_dicts(pb.PlacementsReply(placements=placements))["placements"])


def planned(capsys, snapshot, output="table", max_moves=20):
    print_plan(snapshot, snapshot.moves(Limits(max_moves, 0.005)), output)
    return capsys.readouterr().out


def test_the_plan_says_what_moves_what_it_gains_and_what_it_costs(capsys):
    snapshot = fleet(*(vm(n, "h0") for n in range(6)), vm(6, "h1", labels={}), h2=pb.CORDONED)
    output_text = planned(capsys, snapshot)
    moves = [line.split() for line in output_text.splitlines() if " ns/vm-" in line]
    assert [(move[3], move[4]) for move in moves] == [("h0", "h1")] * 2
    assert "Gain: CoV 0.714 -> 0.143; stranded" in output_text
    assert (
        "Cost: 2 microVMs deleted and recreated, about 1.0 s of boot time. 6 of 7 microVMs may be moved"
        in output_text
    )
    assert CANNOT_MIGRATE in output_text


def test_as_json_for_programs(capsys):
    output_text = json.loads(planned(capsys, fleet(*(vm(n, "h0") for n in range(6))), "json", max_moves=1))
    assert [move["name"] for move in output_text["moves"]] == ["ns/vm-0"]
    assert output_text["moves"][0]["cov"] == output_text["cov_after"] < output_text["cov_before"]


@pytest.mark.parametrize(
    "fields",
    [{"labels": {}}, {"labels": {"billet.io/evict": "never"}}, {"vm_state": "PENDING"}, {"state": "RELEASING"},
     {"vm_state": "UNREACHABLE"}, {"adopted": True, "labels": {}}, {"labels": {**ALLOWED, "billet.io/zon": "a"}}],
    ids=str,
)  # fmt: skip
def test_microvms_that_must_not_be_evicted_are_not_moved(capsys, fields):
    output_text = planned(capsys, fleet(*(vm(n, "h0", **fields) for n in range(6))))
    assert output_text.startswith("Nothing to gain: CoV is 1.414. 0 of ")


def test_hosts_that_are_not_ready_take_no_part(capsys):
    output_text = planned(capsys, fleet(*(vm(n, "h0") for n in range(6)), h1=pb.AWAY, h2=pb.CORDONED))
    assert output_text.startswith("Nothing to gain: CoV is 0.000.")


def test_a_constraint_to_a_host_is_respected(capsys):
    """Planted fault (constraints ignored): the microVM is deleted and recreated on the same host."""
    here = {**ALLOWED, "billet.io/host": "h0"}
    assert "Nothing to gain" in planned(capsys, fleet(*(vm(n, "h0", labels=here) for n in range(6))))
    there = {**ALLOWED, "billet.io/host": "h2"}
    output_text = planned(capsys, fleet(*(vm(n, "h0", labels=there) for n in range(6))), "json")
    assert {move["target"] for move in json.loads(output_text)["moves"]} == {"h2"}


def test_groups_count_members_on_all_hosts_and_reserved_ones(capsys):
    """Planted fault (count only STARTED ones, or only READY hosts): one moves to h2 or h1."""
    apart = {**ALLOWED, "billet.io/apart": "g"}
    load = [vm(n, "h0", labels={}) for n in range(5)]
    coming = vm(7, "h2", labels=apart, state="RESERVED", vm_state="")
    snapshot = fleet(*load, vm(6, "h0", labels=apart), coming, h1=pb.CORDONED)
    assert "Nothing to gain" in planned(capsys, snapshot)
    assert "ns/vm-6" in planned(capsys, fleet(*load, vm(6, "h0", labels=apart), h1=pb.CORDONED))


def test_boot_queue_and_corrections_are_read():
    late = pb.HostView(id="h", state=pb.READY, allocatable=ROOM, taken=ROOM, boot_s=0.5, ahead_s=9.0, pull_s=3.0)
    late.delay_correction, late.utilisation_correction = 2.0, 0.1
    right = pb.HostView(id="r", state=pb.READY, allocatable=ROOM, taken=ROOM)
    places = fleet_of(as_dicts(pb.HostsReply(hosts=[late, right], policy="spread")), []).places
    assert (places["h"].facts.ahead_s, places["h"].facts.pull_s, places["h"].view.discount) == (9.0, 3.0, (2.0, 0.1))
    assert (places["r"].facts.ahead_s, places["r"].view.discount) == (None, NO_DISCOUNT)


@pytest.mark.parametrize(
    "facts",
    [Facts(), Facts(0.25, 7, 1.5, 9.5, 4.5, 0.75, 2, 12.0, 3.0), Facts(0.0, 0, 0.0, 0.0, 0.0, 0.0)],
    ids=["nothing known", "all known", "all 0"],
)
def test_a_host_is_priced_with_all_reported_metrics(facts):
    """Planted fault (uncertainty, pulls and counts not passed on): the host is priced with defaults."""
    room = Resources(16, 65536, 100_000, 99)
    leadership = SimpleNamespace(
        ledger=SimpleNamespace(state=State()),
        accuracy=SimpleNamespace(discounted=lambda views: views),
        health=HealthTracker(State(), SystemClock(), 0.25),
        hosts=SimpleNamespace(certificate_ends_s=lambda _: 0.0),
        reconciler=SimpleNamespace(
            seen={"h0": SimpleNamespace(complete=True, rows={}, report=Report(facts, 0.0, 0, 0, 0, 0, True, 2.0))},
            age_s=lambda seen: 0.0,
        ),
    )
    reply = pb.HostsReply(hosts=[host_view(leadership, Host("h0", room, room))], policy="spread")
    assert fleet_of(as_dicts(reply), []).places["h0"].facts == facts
