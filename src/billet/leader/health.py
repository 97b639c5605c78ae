"""Watch which hosts fail: creates that their flintlockd fails, boots that fail, and boot queues that stand still.

core/health.py has the memory of one host, core/blame.py decides whose fault a failed boot is. All of it is memory of
this term: the next leader knows what the hosts' inventories show it, and learns the rest anew, at two creates a host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from billet.core.blame import Blame, Charges
from billet.core.corrections import NO_TROUBLE, Trouble
from billet.core.health import (
    PENALTY,
    PULL_S,
    STALLED,
    SUSPECT_AFTER,
    Failure,
    Health,
    Kind,
    crowded,
    most_refusing,
    stall_limit_s,
    told,
    trouble,
    worst,
)
from billet.core.memory import remember
from billet.core.model import Auction, Bid, Host, HostView, Observed, Reason, Refusal, VmState
from billet.core.plural import counted
from billet.core.report import InventoryUpdate, Report
from billet.core.state import State
from billet.core.vmm import Vmm
from billet.leader.vmms import Started, VmmWatch
from billet.leader.watched import Order, Watched
from billet.ports import Clock, Created, Failed, HostsListener, Outcome, Unknown

log = structlog.get_logger()

STILL_REPORTS = 3  # reports without a finished boot before a boot queue counts as stalled


class HealthTracker:
    """Hears everything that hosts send, passes it on to `inner`, and tells auctions which hosts to avoid."""

    def __init__(self, state: State, clock: Clock, share: float, inner: HostsListener | None = None) -> None:
        """`share`: most of the connected hosts that may be without orders at once for what has failed on them."""
        self._state = state
        self._clock = clock
        self._share = share
        self._inner = inner
        self._health: dict[str, Health] = {}  # of hosts that have failed since they succeeded last
        self._blame = Blame()
        self._blame_of_vmms = Blame(may_end=True)
        self._vmms = VmmWatch()
        self._orders: dict[str, Order] = {}  # by token
        self._hosts: dict[str, Watched] = {}  # that are connected

    # What an auction asks.

    def screened(
        self, auction: Auction, answers: Sequence[Bid | Refusal], ready: Collection[str]
    ) -> list[Bid | Refusal]:
        """The answers, with refusals in place of the bids of hosts that get no order now.

        They keep their bids if no other connected host qualifies for the auction, be it full or empty: a microVM that
        needs this zone, host or label, or the only host of a fleet, is better tried here than refused for good.
        """
        why = self.refusing()
        if not why or not any(self._qualifies(host_id, auction) for host_id in ready if host_id not in why):
            return list(answers)
        return [
            Refusal(a.host, Reason.SUSPECT, why[a.host]) if isinstance(a, Bid) and a.host in why else a
            for a in answers
        ]

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
        if self._health:
            now_s, worst_ones = self._clock.monotonic_s(), self._worst()
            for host_id in host_ids & self._health.keys():
                of_host = trouble(self._health[host_id], worst_ones, host_id, now_s)
                if of_host.penalty:
                    found[host_id] = of_host
        return found

    def refusing(self) -> dict[str, str]:
        """The hosts that get no order now, and why."""
        if not self._health:
            return {}
        now_s = self._clock.monotonic_s()
        for host_id in [host_id for host_id, health in self._health.items() if health.forgotten(now_s)]:
            del self._health[host_id]
        found = ((host_id, self._health[host_id]) for host_id in self._worst())
        return {host_id: health.why(now_s) for host_id, health in found if health.refuses(now_s)}

    def suspects(self, host_id: str) -> bool:
        """Whether a host is suspect."""
        health = self._health.get(host_id)
        return health is not None and health.suspect and host_id in self._worst()

    def trouble(self, host_id: str) -> Trouble:
        """What has failed on a host, and what is added to its score now; a crowd is left out."""
        health, now_s = self._health.get(host_id), self._clock.monotonic_s()
        if health is None or health.forgotten(now_s):
            return NO_TROUBLE
        return Trouble(trouble(health, self._worst(), host_id, now_s).penalty, health.why(now_s))

    def _worst(self) -> list[str]:
        """Those that may be without orders: a part of the fleet at most, the worst first."""
        here = {host_id: health for host_id, health in self._health.items() if host_id in self._hosts}
        return worst(here, most_refusing(len(self._hosts), self._share))

    # What happens to orders.

    @contextmanager
    def order(self, auction: Auction, host_id: str) -> Iterator[None]:
        """An award to this host is carried out. If it is not `answered` meanwhile, the host did not get the order."""
        now_s = self._clock.monotonic_s()
        order = Order(host_id, auction.recipe, now_s)
        remember(self._orders, auction.id, order)
        if watched := self._hosts.get(host_id):
            watched.placed.add(auction.id)
        if health := self._health.get(host_id):
            health.takes(auction.id, now_s)
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
        if isinstance(outcome, Failed) or (isinstance(outcome, Unknown) and outcome.fault):
            self._create_failed(host_id, outcome.text, order.at_s if order else self._clock.monotonic_s())
        if not isinstance(outcome, Created | Unknown):  # the inventory shows what becomes of those
            self._end(host_id, token)

    def _end(self, host_id: str, token: str) -> None:
        """A host no longer has an order in hand, or a microVM in its boot queue."""
        order = self._orders.get(token)
        if order and order.host == host_id:
            del self._orders[token]
        if watched := self._hosts.get(host_id):
            watched.placed.discard(token)
        if health := self._health.get(host_id):
            health.ended(token)

    # HostsListener.

    def joined(self, host: Host) -> None:
        """See HostsListener."""
        if self._inner:
            self._inner.joined(host)
        self._hosts[host.id] = Watched(moved_s=self._clock.monotonic_s())

    def left(self, host_id: str) -> None:
        """See HostsListener. What has failed there is remembered: a host that comes and goes has not recovered."""
        if self._inner:
            self._inner.left(host_id)
        self._hosts.pop(host_id, None)
        if health := self._health.get(host_id):
            health.trying = ""

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
            gone += [uid for uid in watched.waiting if uid not in shown]
        for uid in gone:
            token, _ = watched.waiting.pop(uid, ("", 0.0))
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
        waited = row.uid in watched.waiting
        if row.state is VmState.PENDING and not row.retry:
            watched.waiting.setdefault(row.uid, (row.token, self._clock.monotonic_s()))
            return
        watched.waiting.pop(row.uid, None)
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
        if health := self._health.get(host_id):
            health.booted(order.at_s if order else 0.0)
            self._drop_if_well(host_id)
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
            if health := self._health.get(host_id):
                health.lived(vmm.ordered_s)
                self._drop_if_well(host_id)
            self._apply(self._blame_of_vmms.succeeded(host_id, vmm.recipe), 0.0)

    def _boot_failed(self, host_id: str, row: Observed, order: Order) -> None:
        """A boot has failed: the host, or the image, is at fault. The order is kept: flintlockd tries again."""
        text = told(f"{row.namespace}/{row.name} is {row.state.name}, retry {row.retry}")
        failure = Failure(Kind.BOOT, self._clock.monotonic_s(), text, order.recipe)
        self._apply(self._blame.failed(host_id, failure), order.at_s)
        if health := self._health.get(host_id):
            health.ended(row.token)

    def _apply(self, charges: Charges, ordered_s: float) -> None:
        for host_id in charges.lifted:
            if health := self._health.get(host_id):
                health.lift(charges.recipe)
                self._drop_if_well(host_id)
        for host_id, failure in charges.charged:
            self._failed(host_id, failure, ordered_s)

    def _drop_if_well(self, host_id: str) -> None:
        if not self._health[host_id].failures:
            del self._health[host_id]
            log.info("host has recovered", host=host_id)

    def _create_failed(self, host_id: str, text: str, ordered_s: float) -> None:
        self._failed(host_id, Failure(Kind.CREATE, self._clock.monotonic_s(), told(text)), ordered_s)

    def _failed(self, host_id: str, failure: Failure, ordered_s: float) -> None:
        health = self._health.setdefault(host_id, Health())
        before = health.suspect
        health.failed(failure, ordered_s)
        if health.suspect and not before:
            log.warning("host is suspect", host=host_id, why=health.why(self._clock.monotonic_s()))

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
        health = self._health.get(host_id)
        for token in (*watched.placed, health.trying if health else ""):
            known, order = self._state.placements.get(token), self._orders.get(token)
            if known is None or known.host != host_id:
                self._end(host_id, token)
                if order and order.host == host_id and order.unknown:
                    self._create_failed(host_id, order.unknown, order.at_s)

    def _look(self, host_id: str, watched: Watched, report: Report) -> None:
        """Whether the host has stalled: its oldest microVM waits, and nothing has finished, for far too long.

        What waits there is then the next try: it boots once the host has recovered, and no other need go there.
        """
        self._resolve(host_id, watched)
        now_s, health = self._clock.monotonic_s(), self._health.get(host_id)
        if not watched.waiting:
            if health and health.trying and now_s - health.trying_since_s > PULL_S:
                health.trying = ""  # nobody tells its outcome any more
            return
        uid, (token, since_s) = next(iter(watched.waiting.items()))
        still_s = now_s - max(since_s, watched.moved_s)
        if health is None or not health.stalled:
            limit_s = stall_limit_s(report.facts, self._may_pull(host_id, token, report))
            if still_s <= limit_s or watched.still < STILL_REPORTS:
                return
            text = STALLED.format(counted(len(watched.waiting), "microVM"), still_s)
            for _ in range(SUSPECT_AFTER):
                self._failed(host_id, Failure(Kind.STALL, now_s, text), now_s)
            health = self._health[host_id]
        health.trying, health.trying_since_s = token or uid, now_s

    def _may_pull(self, host_id: str, token: str, report: Report) -> bool:
        """Whether the oldest waiting microVM may need an image that the host has to pull."""
        order = self._orders.get(token) if token else None
        if order and self._blame.has_booted(host_id, order.recipe):
            return False
        return report.images is None or report.facts.pulls > 0 or report.facts.boots_seen < 1.0
