"""Watch which hosts fail: creates that their flintlockd fails, boots that fail, and boot queues that stand still.

core/health.py has the memory of one host, core/blame.py decides whose fault a failed boot is. All of it is memory of
this term: the next leader knows what the hosts' inventories show it, and learns the rest anew, at two creates a host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from billet.core.blame import Blame, Charges
from billet.core.corrections import Trouble
from billet.core.health import (
    PENALTY,
    PULL_S,
    STALLED,
    SUSPECT_AFTER,
    Failure,
    Health,
    Kind,
    crowded,
    stall_limit_s,
    told,
)
from billet.core.memory import remember
from billet.core.model import Auction, Bid, Host, HostView, Observed, Reason, Refusal, VmState
from billet.core.plural import counted
from billet.core.report import InventoryUpdate, Report
from billet.core.state import State
from billet.core.vmm import Vmm
from billet.leader.memories import Memories
from billet.leader.vmms import Started, VmmWatch
from billet.leader.watched import Order, Watched
from billet.ports import Clock, Created, Denied, Failed, HostsListener, NotTaken, Outcome, Unknown

STILL_REPORTS = 3  # reports without a finished boot before a boot queue counts as stalled


class HealthTracker:
    """Hears everything that hosts send, passes it on to `inner`, and tells auctions which hosts to avoid."""

    def __init__(self, state: State, clock: Clock, share: float, inner: HostsListener | None = None) -> None:
        """`share`: most of the connected hosts that may be without orders at once for what has failed on them."""
        self._state = state
        self._clock = clock
        self._inner = inner
        self._blame = Blame()
        self._blame_of_vmms = Blame(may_end=True)
        self._blame_of_creates = Blame()  # that failed with a text that is not known here
        self._vmms = VmmWatch()
        self._orders: dict[str, Order] = {}  # by token
        self._hosts: dict[str, Watched] = {}  # that are connected
        self._away: dict[str, Watched] = {}
        self._memories = Memories(clock, share, self._hosts)

    # What an auction asks.

    def screened(
        self, auction: Auction, answers: Sequence[Bid | Refusal], ready: Collection[str]
    ) -> list[Bid | Refusal]:
        """The answers, with refusals in place of the bids of hosts that get no order now (`turned_away`)."""
        refusals = self.turned_away(auction, ready)
        return [refusals.get(a.host, a) if isinstance(a, Bid) else a for a in answers]

    def turned_away(self, auction: Auction, ready: Collection[str]) -> dict[str, Refusal]:
        """The refusals of hosts that get no order now.

        None if no other connected host qualifies for the auction, be it full or empty: a microVM that needs this
        zone, host or label, or the only host of a fleet, is better tried here than refused for good.
        """
        refusing = self.refusing()
        if not refusing or not any(self._qualifies(host_id, auction) for host_id in ready if host_id not in refusing):
            return {}
        return {host_id: Refusal(host_id, Reason.SUSPECT, self._memories.why(host_id)) for host_id in refusing}

    def _qualifies(self, host_id: str, auction: Auction) -> bool:
        return self._state.excluded_by(host_id, auction) is None

    def troubled(self, views: Mapping[str, HostView]) -> dict[str, HostView]:
        """The views, with what failures and a crowd of microVMs that do not boot add to the host's score."""
        found = self._troubles(views)
        return {
            host_id: v._replace(trouble=found[host_id]) if host_id in found else v for host_id, v in views.items()
        }

    def _troubles(self, host_ids: Collection[str]) -> dict[str, Trouble]:
        placed = {host_id: len(self._hosts[host_id].placed) for host_id in host_ids if host_id in self._hosts}
        found = {
            host_id: Trouble(PENALTY, f"{counted(placed[host_id], 'microVM')} placed since its last finished boot")
            for host_id in crowded(placed)
        }
        for host_id in host_ids:
            of_host = self._memories.trouble(host_id)
            if of_host.penalty:
                found[host_id] = of_host
        return found

    def refusing(self) -> frozenset[str]:
        """The hosts that get no order now."""
        return self._memories.refusing()

    def surcharges(self) -> Mapping[str, float]:
        """See Memories."""
        return self._memories.surcharges()

    def suspects(self, host_id: str) -> bool:
        """Whether a host is suspect."""
        return self._memories.suspects(host_id)

    def trouble(self, host_id: str) -> Trouble:
        """For operators: what has failed on a host, and what is added to its score now; a crowd is left out."""
        return self._memories.trouble(host_id, in_full=True)

    # What happens to orders.

    @contextmanager
    def order(self, auction: Auction, host_id: str) -> Iterator[None]:
        """An award to this host is carried out. If it is not `answered` meanwhile, the host did not get the order."""
        now_s = self._clock.monotonic_s()
        order = Order(host_id, auction.recipe, now_s)
        remember(self._orders, auction.id, order)
        if watched := self._hosts.get(host_id):
            watched.placed.add(auction.id)
        self._memories.takes(host_id, auction.id)
        try:
            yield
        finally:
            if not order.answered:
                self._end(host_id, auction.id)

    def answered(self, token: str, host_id: str, outcome: Outcome) -> None:
        """A host, or the link to it, has answered an order: the one in hand, or one of an earlier leader."""
        order = self._orders.get(token)
        if order:
            order.answered = True
            order.unknown = outcome.text if isinstance(outcome, Unknown) and not outcome.fault else ""
        ordered_s = order.at_s if order else self._clock.monotonic_s()
        if isinstance(outcome, Failed) or (isinstance(outcome, Unknown) and outcome.fault):
            self._create_failed(host_id, outcome.text, ordered_s)
        elif order and isinstance(outcome, Denied) and outcome.unclear:
            failure = Failure(Kind.CREATE, self._clock.monotonic_s(), told(outcome.text), order.recipe)
            self._apply(self._blame_of_creates.failed(host_id, failure), ordered_s)
        elif order and isinstance(outcome, Created):
            self._memories.cleared(host_id, Health.created)
            self._apply(self._blame_of_creates.succeeded(host_id, order.recipe), 0.0)
        if isinstance(outcome, NotTaken):
            self._state.fleet.answered(host_id, [outcome.refusal], self._clock.monotonic_s())
        if not isinstance(outcome, Created | Unknown):  # the inventory shows what becomes of those
            self._end(host_id, token)

    def _end(self, host_id: str, token: str) -> None:
        """A host no longer has an order in hand, or a microVM in its boot queue."""
        order = self._orders.get(token)
        if order and order.host == host_id:
            del self._orders[token]
        if watched := self._hosts.get(host_id):
            watched.placed.discard(token)
        self._memories.ended(host_id, token)

    # HostsListener.

    def joined(self, host: Host) -> None:
        """See HostsListener."""
        if self._inner:
            self._inner.joined(host)
        now_s = self._clock.monotonic_s()
        watched = self._away.pop(host.id, None) or Watched(moved_s=now_s, left_s=now_s)
        watched.returned(now_s)
        self._hosts[host.id] = watched
        self._memories.fleet_changed()

    def left(self, host_id: str) -> None:
        """See HostsListener. What has failed there is remembered: a host that comes and goes has not recovered."""
        if self._inner:
            self._inner.left(host_id)
        if watched := self._hosts.pop(host_id, None):
            watched.left_s = self._clock.monotonic_s()
            remember(self._away, host_id, watched)
        if health := self._memories.get(host_id):
            self._memories.ended(host_id, health.trying)
        self._memories.fleet_changed()

    def observed(self, host_id: str, inventory: InventoryUpdate) -> None:
        """See HostsListener."""
        if self._inner:
            self._inner.observed(host_id, inventory)
        watched = self._hosts.get(host_id)
        if watched is None:
            return
        gone = list(inventory.gone)
        if inventory.full:
            shown = {row.uid for row in inventory.seen}
            gone += watched.queue() - shown
        for uid in gone:
            token = watched.leaves_queue(uid) or ""
            self._vmms.ended(host_id, token)
            self._end(host_id, token or uid)
        if gone:
            watched.moved(self._clock.monotonic_s())
        for row in inventory.seen:
            self._row(host_id, watched, row)

    def _row(self, host_id: str, watched: Watched, row: Observed) -> None:
        order = self._orders.get(row.token) if row.token else None
        if order and order.host != host_id:
            order = None  # a copied token
        if row.state is VmState.PENDING and not row.retry:
            watched.waits(row.uid, row.token, self._clock.monotonic_s())
            return
        if row.state is VmState.CREATED:
            watched.overtakes(row.uid, order.at_s if order else 0.0)
        waited = watched.leaves_queue(row.uid) is not None
        match row.state:
            case VmState.CREATED if waited or order:
                self._booted(host_id, watched, row.token, order)
                self._started(host_id, row, order)
            case VmState.CREATED if row.vmm is Vmm.DEAD:
                self._died(row, self._vmms.ended(host_id, row.token))
            case VmState.PENDING | VmState.FAILED:
                watched.moved(self._clock.monotonic_s())
                if order and not order.failed:
                    order.failed = True
                    self._boot_failed(host_id, row, order)
            case VmState.DELETING:
                self._vmms.ended(host_id, row.token)
                self._end(host_id, row.token or row.uid)

    def _booted(self, host_id: str, watched: Watched, token: str, order: Order | None) -> None:
        watched.moved(self._clock.monotonic_s())
        watched.placed.clear()
        self._memories.cleared(host_id, Health.booted, order.at_s if order else 0.0)
        self._apply(self._blame.succeeded(host_id, order.recipe if order else ""), 0.0)
        self._end(host_id, token)

    def _started(self, host_id: str, row: Observed, order: Order | None) -> None:
        """A microVM is CREATED: whether its VMM lives shows later, unless it is dead already."""
        if order is None or row.vmm is Vmm.UNKNOWN:
            return
        vmm = Started(host_id, order.recipe, order.at_s, self._clock.monotonic_s())
        if row.vmm is Vmm.DEAD:
            self._died(row, vmm)
        else:
            self._vmms.started(row.token, vmm)

    def _died(self, row: Observed, vmm: Started | None) -> None:
        """A VMM is dead. That is no failure if it had lived for a while or others run: its guest may have ended."""
        if vmm and not self._vmms.some_run(vmm.host):
            text = told(f"the VMM of {row.namespace}/{row.name} died at once")
            failure = Failure(Kind.VMM, self._clock.monotonic_s(), text, vmm.recipe)
            self._apply(self._blame_of_vmms.failed(vmm.host, failure), vmm.ordered_s)

    def _lived(self, host_id: str) -> None:
        """VMMs that have lived for a while clear the host."""
        for vmm in self._vmms.lived(host_id, self._clock.monotonic_s()):
            self._memories.cleared(host_id, Health.lived, vmm.ordered_s)
            self._apply(self._blame_of_vmms.succeeded(host_id, vmm.recipe), 0.0)

    def _boot_failed(self, host_id: str, row: Observed, order: Order) -> None:
        """A boot has failed: the host, or the image, is at fault. The order is kept: flintlockd tries again."""
        text = told(f"{row.namespace}/{row.name} is {row.state.name}, retry {row.retry}")
        failure = Failure(Kind.BOOT, self._clock.monotonic_s(), text, order.recipe)
        self._apply(self._blame.failed(host_id, failure), order.at_s)
        self._memories.ended(host_id, row.token)

    def _apply(self, charges: Charges, ordered_s: float) -> None:
        for host_id in charges.lifted:
            self._memories.cleared(host_id, Health.lift, charges.recipe)
        for host_id, failure in charges.charged:
            self._memories.failed(host_id, failure, ordered_s)

    def _create_failed(self, host_id: str, text: str, ordered_s: float) -> None:
        self._memories.failed(host_id, Failure(Kind.CREATE, self._clock.monotonic_s(), told(text)), ordered_s)

    def reported(self, host_id: str, report: Report) -> None:
        """See HostsListener. Each report is a moment to see whether the boot queue stands still."""
        if self._inner:
            self._inner.reported(host_id, report)
        watched = self._hosts.get(host_id)
        if watched is None:
            return
        if report.daemon_ok:
            watched.still += 1
            self._lived(host_id)
            self._look(host_id, watched, report)
        else:
            watched.moved(self._clock.monotonic_s())  # flintlockd is away, which is shown as such

    def _resolve(self, host_id: str, watched: Watched) -> None:
        """End the orders whose outcome was unknown, and which the host turned out not to have. They have failed."""
        health = self._memories.get(host_id)
        for token in (*watched.placed, health.trying if health else ""):
            known, order = self._state.placements.get(token), self._orders.get(token)
            if known is None or known.host != host_id:
                self._end(host_id, token)
                if order and order.host == host_id and order.unknown:
                    self._create_failed(host_id, order.unknown, order.at_s)

    def _look(self, host_id: str, watched: Watched, report: Report) -> None:
        """Whether the host has stalled: its oldest microVM waits, and nothing has finished, for far too long.

        A try that waits there for as long has failed too.
        """
        self._resolve(host_id, watched)
        now_s, health = self._clock.monotonic_s(), self._memories.get(host_id)
        tried_s = now_s - health.trying_since_s if health and health.trying else 0.0
        if not watched.waiting:
            if health and tried_s > PULL_S:
                self._memories.ended(host_id, health.trying)  # nobody tells its outcome any more
            return
        token, since_s = next(iter(watched.waiting.values()))
        still_s = now_s - max(since_s, watched.moved_s)
        limit_s = stall_limit_s(report.facts, self._may_pull(host_id, token, report))
        if still_s <= limit_s or watched.still < STILL_REPORTS:
            return
        self._memories.confirmed(host_id)
        stalled = health is not None and health.stalled
        if stalled and tried_s <= limit_s:
            return
        text = STALLED.format(counted(len(watched.waiting), "microVM"), still_s)
        for _ in range(1 if stalled else SUSPECT_AFTER):
            self._memories.failed(host_id, Failure(Kind.STALL, now_s, text), now_s)
        if health:
            self._memories.ended(host_id, health.trying)

    def _may_pull(self, host_id: str, token: str, report: Report) -> bool:
        """Whether the oldest waiting microVM may need an image that the host has to pull."""
        order = self._orders.get(token) if token else None
        if order and self._blame.has_booted(host_id, order.recipe):
            return False
        return report.images is None or report.facts.pulls > 0 or report.facts.boots_seen < 1.0
