"""Faults that no test noticed before issue 10 (its item 7), as patches of the code that runs.

Each makes a test of its own fail, in tests/leader, tests/host, tests/link or tests/stores. Here the simulator looks
for them too. `seed` is None where it sees no fault within 500 seeds; the docstring says why, and what it would need.
`python -m tests.sim.bugs_item7 [NAME]...` prints the first seed that shows each, and the promises that it breaks.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from billet.host.orders import Orders
from billet.leader.auctioneer import Auctioneer
from billet.leader.deletes import Deletes
from billet.leader.presence import Presence
from billet.leader.reconciler import Reconciler
from billet.link.server import LinkServer
from billet.sim.seed import run_seed
from billet.sim.store import SimStore
from tests.sim.bugs import SEEDS, Bug

Patches = list[AbstractContextManager[Any]]


def edited(owner: type, name: str, right: str, wrong: str) -> AbstractContextManager[Any]:
    """A patch of one method, whose source has `wrong` in place of `right`.

    Raises ValueError unless the source contains `right` exactly once: the code has changed, and so must the patch.
    """
    method = owner.__dict__[name]
    source = textwrap.dedent(inspect.getsource(method))
    if source.count(right) != 1:
        raise ValueError(f"{owner.__name__}.{name} contains {right!r} {source.count(right)} times")
    defined: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), inspect.getfile(method), "exec"), method.__globals__, defined)
    return patch.object(owner, name, defined[name])


# Promise 2.


def idle_reservation_counted_while_flintlockd_is_away() -> Patches:
    """Needs a create that flintlockd begins later than RESOLVE_AFTER_S (30 s) after it was sent.

    In the simulator none begins after SLOW_S + HANG_S (18 s), so that the microVM shows before the reservation ends,
    however the seconds are counted. A hang of 30 to 60 s, during which List fails, would show it.
    """
    return [edited(Reconciler, "reported", "if not report.daemon_ok:", "if False:")]


def reconnected_host_not_checked() -> Patches:
    """Needs a host that reconnects while its own record is being written, and shows something else than before.

    That happens once in 300 seeds: a record is written at the first join and around a fence or a cordon only. The
    next look corrects what was written from the old inventory; what remains is a LOST microVM that the host no longer
    had when it said hello. A checker would see that: nothing is adopted that was gone before the latest hello.
    """
    return [edited(Reconciler, "_reconcile_host", "if self.seen.get(host_id) is not seen:", "if False:")]


def token_not_looked_up_in_hand() -> Patches:
    """Costs time only, 12 times in each seed: the next sweep, within 15 s here, looks again.

    A checker with a limit would see it: a microVM that a host shows is in the store after a few quiet seconds.
    """
    return [edited(Reconciler, "_in_hand", "row.token in in_hand", "False")]


def releasing_from_any_state() -> Patches:
    """Needs a client that deletes a microVM which was fenced, on a host that is back and still has it.

    Never in 300 seeds: a client deletes each microVM once, and a host deletes a fenced one as soon as it is back.
    More Deletes of fenced microVMs, to slow hosts (a long `delete_s`), would show it.
    """
    return [edited(Auctioneer, "delete", " and placement.state is PlacementState.STARTED", "")]


def rejoined_host_bids_before_its_inventory() -> Patches:
    """Every hello is followed by a look without an inventory, but the agent itself has its own.

    It counts the microVMs that the ledger does not know yet, and refuses an order that it has no room for. An agent
    that is welcomed while its flintlockd does not answer refuses everything. With both, the fault costs an order that
    is refused. A checker would see it: no order is sent to a host before its inventory was received.
    """
    return [edited(Reconciler, "_follow_up", "if not seen.complete:", "if False:")]


def rejoined_host_stays_ready() -> Patches:
    """Needs a second hello without a goodbye of the first connection: `gone(other)` says that for every new hello.

    The two guard the same thing. Visible only together with "new hello does not end the old connection".
    """
    return [edited(Presence, "expect", "self._hosts.pop(host_id, None)", "pass")]


def new_hello_does_not_end_the_old_connection() -> Patches:
    """Needs an agent that dials again before the server has noticed the end of its old connection.

    That happens 3 times in 300 seeds; then a call for bids waits up to 2 s longer, and nothing is lost. A checker
    would see it: no call for bids waits for a connection that its agent has replaced.
    """
    return [edited(LinkServer, "_hello", "self.gone(other)", "pass")]


# Promise 3.


def order_sent_in_a_later_term() -> Patches:
    """Needs a server that is elected twice while one create waits for its host, for `arrive_s` (5 s) at most.

    Never in 300 seeds. And no room is taken twice: the reservation is in the store and so in the new ledger. A
    checker would see the order itself: one that is not sent again has the term in which its reservation was written.
    """
    return [edited(LinkServer, "_order", "if self._term is not term:", "if False:")]


def lease_counted_from_the_answer() -> Patches:
    """The model of the store; tests/stores/test_lease.py has the real one.

    Needs an answer that is late by more than a tenth of the lease (0.3 s), and then 2.7 s without any renewal.
    """
    return [edited(SimStore, "_keep", "asked_s + BELIEVED_S", "self._world.now_s + BELIEVED_S")]


# Promise 4.


def stopping_answered_before_looking() -> Patches:
    """Needs an agent that is asked to stop: the simulator only kills agents. A fault `agent_stops` would show it."""
    return [edited(Orders, "_declines", "if look_first:", "if look_first and not self.stopping:")]


def first_order_to_a_restarted_agent() -> Patches:
    """Needs an agent that is started again between the claim and the order: 3 times in 300 seeds.

    A process that gets another's order remembers it as its own, so that nothing boots twice. A checker would see the
    order itself: one that is not sent again names the process that it reaches.
    """
    return [edited(LinkServer, "_order", "order.instance != connection.instance", "False")]


def caller_that_has_gone_is_not_noticed() -> Patches:
    """Breaks no promise that is checked, 9 times in 300 seeds: a microVM boots that no client waits for.

    A checker would see it: no order is sent for a create that its client had given up by then.
    """
    return [edited(Auctioneer, "_carry_out", "if caller.gone:", "if False:")]


def wanted_deletes_forgotten() -> Patches:
    """Costs time only: the next sweep, within 15 s here, wants the Delete again.

    And never in 300 seeds is another Delete wanted while one is under way on the same host.
    """
    return [edited(Deletes, "want", "self._wanted[host_id] |= wanted", "pass")]


BUGS = (
    Bug(
        "idle reservation counted while flintlockd is away",
        2,
        None,
        idle_reservation_counted_while_flintlockd_is_away,
    ),
    Bug("reconnected host not checked", 2, None, reconnected_host_not_checked),
    Bug("token not looked up in hand", 2, None, token_not_looked_up_in_hand),
    Bug("RELEASING from any state", 2, None, releasing_from_any_state),
    Bug("rejoined host bids before its inventory", 2, None, rejoined_host_bids_before_its_inventory),
    Bug("rejoined host stays ready", 2, None, rejoined_host_stays_ready),
    Bug("new hello does not end the old connection", 2, None, new_hello_does_not_end_the_old_connection),
    Bug("order sent in a later term", 3, None, order_sent_in_a_later_term),
    Bug("lease counted from the answer", 3, None, lease_counted_from_the_answer),
    Bug("stopping answered before looking", 4, None, stopping_answered_before_looking),
    Bug("first order to a restarted agent", 4, None, first_order_to_a_restarted_agent),
    Bug("caller that has gone is not noticed", 4, None, caller_that_has_gone_is_not_noticed),
    Bug("wanted deletes forgotten", 4, None, wanted_deletes_forgotten),
)


def main(names: list[str]) -> None:
    for bug in BUGS:
        if names and bug.name not in names:
            continue
        with bug.put_in():
            results = (run_seed(seed) for seed in range(SEEDS))
            found = next((result for result in results if result.violations), None)
        seed, promises = (found.seed, sorted({v.promise for v in found.violations})) if found else (None, [])
        print(f"{seed!s:>5}  promises {promises}  {bug.name}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
