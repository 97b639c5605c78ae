"""What `billet host drain` may delete, what it waits for, and what stays."""

import pytest

from billet.commands.drain import sort_out
from billet.commands.lists import as_dicts
from billet.wire.pb import fleet_pb2 as pb

ALLOWED = {"billet.io/evict": "allow"}


def left_of(**fields):
    view = pb.PlacementView(**{"uid": "U1", "state": "STARTED", "vm_state": "CREATED", **fields})
    left = sort_out(as_dicts(pb.PlacementsReply(placements=[view]))["placements"])
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
def test_what_its_label_allows_goes_and_what_moves_is_waited_for(fields, evictable, moving):
    assert left_of(**fields) == (evictable, moving, [])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no label billet.io/evict=allow"),
        ({"labels": {"billet.io/evict": "never"}}, "no label billet.io/evict=allow"),
        ({"adopted": True}, "made on the host itself"),
        ({"labels": ALLOWED, "vm_state": "UNREACHABLE"}, "fence it if it is dead"),
        ({"state": "RESERVED", "vm_state": "UNREACHABLE"}, "fence it if it is dead"),
    ],
)
def test_what_stays_says_why(fields, why):
    evictable, moving, reasons = left_of(**fields)
    assert (evictable, moving, len(reasons)) == (0, 0, 1)
    assert why in reasons[0]
