"""The faults of issue 11 that a simulator can see, put back as patches of the code that runs.

`python -m tests.sim.bugs_issue11 [NAME]...` prints the first seed that shows each, and the promises that it breaks.

What the simulator does not see, and the tests that see it:

2 that an attempt is forgotten, as long as no second host is asked: tests/host/test_unknown_outcomes.py
4 idle time counts work or absence: other guards begin the count anew, too: tests/leader/test_one_writer.py
5, 8 no simulated record is large, and no host has more than 100 microVMs: tests/stores/test_contract.py,
  tests/leader/test_one_writer.py
6 such a Get says UNAVAILABLE, which breaks no promise: tests/api/test_creates.py
7 no request id comes back after a day: tests/host/test_unknown_outcomes.py
10 the store refuses at random, and rarely two Deletes of one microVM: tests/leader/test_one_writer.py
12 copied identities, keys and certificates: tests/leader/test_admission.py, tests/cluster/test_identity.py
14 seed 522 showed that any host's OK counted for a microVM that was recorded meanwhile: tests/api/test_creates.py
15 terms above 2^61 are stopped at the wire, and would not count later on either: tests/link/test_bounds.py
16, 17 agents of the simulator are the real ones, which send no absurd numbers: tests/link/test_bounds.py
18 to 20 and 22 to 24 need the real store, DNS, descriptors or logs: tests/stores, tests/adapters, tests/link
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from unittest.mock import patch

from billet.api.creates import Creates
from billet.core import reconcile
from billet.core.model import Observed, Placement, PlacementState, VmState
from billet.core.state import State
from billet.host.flintlockd import CreateOrder
from billet.host.orders import RESOLVE_S, Orders
from billet.leader import reconciler
from billet.leader.admission import Admission
from billet.leader.ledger import Ledger
from billet.leader.steady_clock import SteadyClock
from tests.sim.bugs import Bug
from tests.sim.bugs_item7 import Patches, edited, print_found

# Creates that are doubled, lost or hung.


def finished_create_is_joined() -> Patches:
    """Item 1: a create that its clients gave up is joined once it has ended. That step of the server never ends."""
    return [edited(Creates, "_carry_out", "self._forget(auction.id, caller)", "pass")]


def _attempt_forgotten_after_a_minute() -> Patches:
    """Item 2: the count does not wait until flintlockd is back. It begins with the attempt, or with the process."""
    right = Orders.__init__

    def init(self: Orders, *rest: Any) -> None:
        right(self, *rest)
        self.begun_s = self._clock.monotonic_s()  # type: ignore[attr-defined]

    def may_be_known(self: Orders, order: CreateOrder) -> bool:
        attempted_s = self._unresolved_s.get(order.token)
        if attempted_s is None and order.options.instance == self._instance:
            return False
        return self._clock.monotonic_s() - (attempted_s or self.begun_s) < RESOLVE_S  # type: ignore[attr-defined]

    return [patch.object(Orders, "__init__", init), patch.object(Orders, "_may_be_known", may_be_known)]


def flintlockd_away_is_a_no_to_a_resend() -> Patches:
    """Item 2: as it was before. With either of the two guards no second host is asked."""
    wrong = "if False:"
    return [
        *_attempt_forgotten_after_a_minute(),
        edited(Orders, "_refused", "if order.options.resent and refusal.reason is Reason.DAEMON_AWAY:", wrong),
    ]


def reservation_dropped_under_a_create() -> Patches:
    """Item 3: a create takes over a reservation while the reconciler writes that it has ended."""
    return [edited(Ledger, "hold", "while written := self._writing.get(placement_id):", "while written := None:")]


def by_token(state: State, row: Observed) -> Placement | None:
    return state.placements.get(row.token)


def token_alone_finds_its_placement() -> Patches:
    """Item 9: the placement flips between two microVMs with one token."""
    return [patch.object(reconcile, "by_token", by_token)]


def copied_token_dooms_a_stranger() -> Patches:
    """Item 9."""

    def to_delete(
        state: State, host_id: str, rows: Mapping[str, Observed], uids: Iterable[str], in_hand: Collection[str]
    ) -> list[str]:
        uids = list(uids)
        doomed = reconcile.to_delete(state, host_id, rows, uids, in_hand)
        ended = (PlacementState.FENCED, PlacementState.RELEASING)
        for row in (rows[uid] for uid in uids if uid in rows):
            placement = by_token(state, row)
            if placement and placement.state in ended and row.state is not VmState.DELETING:
                doomed.append(row.uid)
        return doomed

    return [patch.object(reconciler, "to_delete", to_delete)]


# Who a host is.


def two_agents_with_one_socket_join() -> Patches:
    """Item 13: nobody compares which process listens at the address of flintlockd."""
    return [edited(Admission, "_index", "(self._of_daemon, claim.daemon)", "({}, claim.daemon)")]


def two_agents_that_show_one_microvm_join() -> Patches:
    """Items 13 and 14: who shows a microVM last has it."""
    return [patch.object(Admission, "_has_own_flintlockd", lambda self, host_id, rows: True)]


def owner_that_is_away_loses_its_microvms() -> Patches:
    """Item 14: only connected hosts are compared."""
    return [patch.object(Admission, "_owner", lambda self, uid, host_id: host_id)]


# The clock.


def records_end_by_the_wall_clock() -> Patches:
    """Item 21: a jump of a day ends the memory of what was deleted."""
    return [patch.object(SteadyClock, "now_s", lambda self: self._clock.now_s())]


BUGS = (
    Bug("finished create is joined", 0, 92, finished_create_is_joined),
    Bug("flintlockd away is a no to a resend", 4, None, flintlockd_away_is_a_no_to_a_resend),
    Bug("reservation dropped under a create", 2, 9, reservation_dropped_under_a_create),
    Bug("token alone finds its placement", 6, 452, token_alone_finds_its_placement),
    Bug("copied token dooms a stranger", 4, 398, copied_token_dooms_a_stranger),
    Bug("two agents with one socket join", 6, None, two_agents_with_one_socket_join),
    Bug("two agents that show one microVM join", 6, 193, two_agents_that_show_one_microvm_join),
    Bug("owner that is away loses its microVMs", 6, 2, owner_that_is_away_loses_its_microvms),
    Bug("records end by the wall clock", 4, 328, records_end_by_the_wall_clock),
)


if __name__ == "__main__":
    print_found(BUGS, sys.argv[1:])
