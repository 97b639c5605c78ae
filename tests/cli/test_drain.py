"""Which microVMs `billet host drain` deletes, waits for, or leaves."""

import pytest

from billet.commands.drain import remaining_on_host
from billet.commands.lists import as_dicts
from billet.wire.pb import fleet_pb2 as pb

ALLOWED = {"billet.io/evict": "allow"}


def classify(**fields):
    view = pb.PlacementView(**{"uid": "U1", "state": "STARTED", "vm_state": "CREATED", **fields})
    left = remaining_on_host(as_dicts(pb.PlacementsReply(placements=[view]))["placements"])
    return len(left.evictable), len(left.moving), [why for _, why in left.staying]


@pytest.mark.parametrize(
    ("fields", "evictable", "moving"),
    [
        ({"labels": ALLOWED}, 1, 0),
        ({"labels": ALLOWED, "vm_state": "FAILED"}, 1, 0),
        ({"labels": ALLOWED, "state": "RELEASING"}, 0, 1),
        ({"state": "RELEASING"}, 0, 1),
        ({"labels": ALLOWED, "state": "RESERVED", "uid": "", "vm_state": ""}, 0, 1),
        ({"state": "LOST"}, 0, 0),
    ],
)
def test_labelled_microvms_are_evictable_and_transitional_ones_are_waited_for(fields, evictable, moving):
    assert classify(**fields) == (evictable, moving, [])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no label billet.io/evict=allow"),
        ({"labels": {"billet.io/evict": "never"}}, "no label billet.io/evict=allow"),
        ({"adopted": True}, "created directly on the host"),
        ({"labels": ALLOWED, "vm_state": "UNREACHABLE"}, "fence it if it is dead"),
        ({"state": "RESERVED", "vm_state": "UNREACHABLE"}, "fence it if it is dead"),
    ],
)
def test_microvms_that_stay_have_a_reason(fields, why):
    evictable, moving, reasons = classify(**fields)
    assert (evictable, moving, len(reasons)) == (0, 0, 1)
    assert why in reasons[0]
