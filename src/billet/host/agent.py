"""One host: it knows what its flintlockd runs, bids for auctions, and passes creates on.

The agent's count of what is taken is its own: every microVM that flintlockd shows, made through Billet or not,
and the creates that it has in hand. It is what the leader's ledger counts, too, once both have heard everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import structlog

from billet.core import bidding
from billet.core.boots.queue import BootQueue
from billet.core.errors import Code
from billet.core.memory import remember
from billet.core.model import (
    Auction,
    Bid,
    Facts,
    Host,
    Observed,
    Reason,
    Refusal,
    Resources,
    VmState,
)
from billet.core.pressure import NO_STALLS, Stalls, backed_mib, felt
from billet.core.scoring import DEFAULT_WEIGHTS, Weights
from billet.host.flintlockd import CONNECT_S, Codec, CreateOrder, Daemon, describe
from billet.host.inventory import HostInventory
from billet.ports import (
    NOTHING_KNOWN,
    Clock,
    Created,
    Flintlock,
    InventoryUpdate,
    MachineFacts,
    NotTaken,
    Outcome,
    Reply,
    Report,
    Unknown,
)

log = structlog.get_logger()

RECONNECT_S = 0.2  # how long a call waits for a connection while flintlockd is known to be away
RESOLVE_S = 60.0  # after which a create that flintlockd does not show did not get through
BOOTS_AT_ONCE = 8  # boots that may have ended since, before everything is listed instead


class Measured(NamedTuple):
    """What the machine says of itself. Shares are 0 to 1 of the whole machine; None is a fact that cannot be had.

    `stalls` are the shares of time in which some task waited for CPU, memory and IO, smoothed. `memory_free_mib` and
    `volumes_free_mib` are what is truly free on the machine, to be held against what is promised of it.
    """

    cpu_share: float
    memory_used_mib: int
    disk_free_mib: int
    stalls: Stalls = NO_STALLS
    memory_free_mib: int | None = None
    volumes_free_mib: int | None = None


class Uplink(Protocol):
    """The way to the leader. Without a connection what is sent is dropped: a new one begins with everything."""

    def report(self, report: Report) -> None:
        """Broadcast a report."""

    def inventory(self, inventory: InventoryUpdate) -> None:
        """Tell what changed."""


class Agent:
    """The host's side of the link. Everything it decides is in core/bidding.py."""

    def __init__(
        self,
        host: Host,
        flintlock: Flintlock,
        codec: Codec,
        measure: Callable[[], Measured],
        clock: Clock,
        report_interval_s: float,
        instance: str,
        machine: MachineFacts = NOTHING_KNOWN,
    ) -> None:
        """`instance` names this process, and no other ever has the same name."""
        self.host = host
        self.instance = instance
        self.weights: Weights = DEFAULT_WEIGHTS  # the leader's, from its welcome
        self.uplink: Uplink | None = None
        self.stopping = False
        self.joined = asyncio.Event()  # a leader has heard everything from this agent once
        self._flintlock = flintlock
        self._daemon = Daemon(host.id, flintlock, codec)
        self._codec = codec
        self._measure = measure
        self._clock = clock
        self._interval_s = report_interval_s
        self._inventory = HostInventory(clock)
        # Creates in hand, by token, to answer an order that comes twice.
        self._doing: dict[str, asyncio.Task[Outcome]] = {}
        self._carried_out: dict[str, str] = {}  # uid by token, of the latest creates
        self._unresolved_s: dict[str, float] = {}  # when the outcome of a create could not be learnt, by token
        self._begun_s = clock.monotonic_s()
        self._known = False  # flintlockd has answered a List, and the last one too
        self._missed = False  # it has not, and that was said
        self._term = 0
        self._machine = machine
        self._lacks: dict[str, str] = {}  # which facts cannot be had at the moment, and why, by what would tell them
        self._pressure: float | None = None
        self._changed = asyncio.Event()

    def cannot_tell(self, source: str, lack: str) -> None:
        """A fact that cannot be had from this source, "" when it can again. Said once each time that it changes."""
        before = self._lacks.get(source, "")
        if lack and lack != before:
            self._lacks[source] = lack
            log.warning("a fact cannot be had on this host", host=self.host.id, fact=lack)
        elif before and not lack:
            del self._lacks[source]
            log.info("a fact can be had again on this host", host=self.host.id, fact=before)

    async def finish(self, grace_s: float) -> None:
        """Take nothing new, and wait for the creates in hand."""
        self.stopping = True
        if self._doing:
            await asyncio.wait(self._doing.values(), timeout=grace_s)

    # Bidding.

    @property
    def facts(self) -> Facts:
        """What only this host knows."""
        return self.boot_queue.facts(self._pressure, self._clock.monotonic_s())

    @property
    def boot_queue(self) -> BootQueue:
        """Its boots: what waits, and which images are here."""
        return self._inventory.boot_queue

    @property
    def taken(self) -> Resources:
        """What is taken of this host, creates in hand included."""
        return self._inventory.taken

    def bids(self, auctions: Sequence[Auction]) -> list[Bid | Refusal]:
        """Answer a call for bids, from memory: nothing is asked of anybody. All are by the facts of one moment."""
        facts = self.facts
        return [self._bid(auction, facts) for auction in auctions]

    def _bid(self, auction: Auction, facts: Facts) -> Bid | Refusal:
        if self.stopping:
            return Refusal(self.host.id, Reason.STOPPING)
        if not self._known:
            return Refusal(self.host.id, Reason.DAEMON_AWAY)
        missing, coming = self.boot_queue.missing(auction.images), self.boot_queue.coming(auction.images)
        return bidding.bid(self.host, self._inventory.taken, facts, auction, self.weights, missing, coming)

    # Orders.

    @property
    def term(self) -> int:
        """The greatest whose orders were obeyed."""
        return self._term

    def accepts(self, term: int) -> bool:
        """Whether an order of this term may be carried out; a newer term ends all older ones (promise 3)."""
        if term < self._term:
            return False
        self._term = term
        return True

    async def create(self, order: CreateOrder) -> Outcome:
        """Carry out an award, once, however often the order comes."""
        uid = self._made(order)
        if uid:
            return await self._repeated(uid, order)
        task = self._doing.get(order.token)
        if task is None:
            look_first = order.options.resent and self._may_have_told(order)
            refusal = self._declines(order, look_first)
            if refusal:
                return NotTaken(refusal)
            if not order.options.verdict_only:
                self._inventory.take_in_hand(order.token, order.demand, self._codec.read_images(order.request))
            task = asyncio.create_task(self._create(order, look_first))
            self._doing[order.token] = task
        return await asyncio.shield(task)

    def _made(self, order: CreateOrder) -> str:
        """The uid that this order has already led to, "" when none is known."""
        uid = self._carried_out.get(order.token, "")
        if order.options.resent and not uid:
            uid = next((row.uid for row in self._inventory.rows.values() if row.token == order.token), "")
        return uid

    async def _repeated(self, uid: str, order: CreateOrder) -> Outcome:
        """The order was carried out before; its answer may have been lost."""
        found = await self._daemon.fetch(uid, order.timeout_s)
        if found:
            return found._replace(reply=self._codec.without_token(found.reply))
        return Unknown("this order was carried out before, and flintlockd does not show its microVM")

    def _may_have_told(self, order: CreateOrder) -> bool:
        """Whether flintlockd may have been told of this order before, with an outcome that nobody knows.

        This process knows of its own tries. An order that was reserved for another process may have been carried out
        by that one; what it began shows within SETTLE_S, and this process began after that one's end.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._unresolved_s.get(order.token, -RESOLVE_S) < RESOLVE_S:
            return True
        return order.options.instance != self.instance and now_s - self._begun_s < RESOLVE_S

    def _declines(self, order: CreateOrder, look_first: bool) -> Refusal | None:
        host_id = self.host.id
        if not self.accepts(order.term):
            return Refusal(host_id, Reason.DECLINED, f"the order is of term {order.term}, now is {self._term}")
        if look_first:
            return None  # it may be there already, so no other host may be asked
        if self.stopping:
            return Refusal(host_id, Reason.STOPPING)
        if not self._known:
            return Refusal(host_id, Reason.DAEMON_AWAY)
        if order.options.verdict_only:
            return None
        return bidding.no_room(host_id, self.host.allocatable, self._inventory.taken, order.demand)

    async def _create(self, order: CreateOrder, look_first: bool) -> Outcome:
        outcome: Outcome = Unknown("the agent was stopped")
        try:
            outcome = await (
                self._daemon.look_up(order, "an earlier try") if look_first else self._daemon.create(order)
            )
        finally:
            self._doing.pop(order.token, None)
            self._inventory.no_longer_in_hand(order.token)
            if isinstance(outcome, Unknown) and not look_first:
                remember(self._unresolved_s, order.token, self._clock.monotonic_s())
            if isinstance(outcome, Created):
                remember(self._carried_out, order.token, outcome.uid)
                self._show(self._codec.read_created(outcome.reply)._replace(token=order.token))
            elif self.uplink:
                # Nothing has changed that the host shows, but the leader holds the room as long as this is in hand.
                self.uplink.inventory(InventoryUpdate(False, [], [], list(self._inventory.creating)))
        if isinstance(outcome, Created):
            return outcome._replace(reply=self._codec.without_token(outcome.reply))
        return outcome

    async def call(self, term: int, method: str, request: bytes, timeout_s: float) -> Reply:
        """Pass a unary call on. Who may read is not a matter of terms: hosts tell what they have to any server."""
        if not self.accepts(term) and method not in (self._codec.GET, self._codec.LIST):
            return Reply(Code.UNAVAILABLE, f"the order is of term {term}, now is {self._term}", b"")
        if not await self._flintlock.ready(min(CONNECT_S if self._known else RECONNECT_S, timeout_s)):
            return Reply(Code.UNAVAILABLE, "its flintlockd does not answer", b"")
        reply = await self._flintlock.call(method, request, timeout_s)
        if reply.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            return reply._replace(text=f"its flintlockd does not answer ({describe(reply)})")
        if method == self._codec.DELETE and reply.code == Code.OK:
            self._changed.set()  # look at once, so that the room comes back early
        if reply.code == Code.OK and method in (self._codec.GET, self._codec.LIST):
            return reply._replace(payload=self._codec.without_token(reply.payload))
        return reply

    # Watching flintlockd and the machine.

    async def run(self) -> None:
        """Watch for ever: a List every interval, or at once after a delete; a report after each."""
        boots = asyncio.create_task(self._watch_boots())
        try:
            while True:
                self._changed.clear()
                await self.refresh()
                if self.uplink:
                    self.uplink.report(self.report())
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await self._changed.wait()
        finally:
            boots.cancel()

    async def refresh(self) -> bool:
        """Ask flintlockd for everything and tell what changed. False when it does not answer."""
        begun_s = self._clock.monotonic_s()
        rows = await self._daemon.list_all(self._interval_s * 5)
        if rows is None and await self._flintlock.ready(CONNECT_S):  # one failed List says nothing
            rows = await self._daemon.list_all(self._interval_s * 5)
        if rows is None:
            if not self._missed:
                log.warning("flintlockd does not answer; this host bids for nothing until it does", host=self.host.id)
            self._known, self._missed = False, True
            return False
        if not self._known:
            if self._missed:
                log.info("flintlockd answers", host=self.host.id)
            self._known, self._missed = True, False
            self._inventory.merge(rows, begun_s)
            if self.uplink:
                self.uplink.inventory(self.everything())
        else:
            self._tell(*self._inventory.merge(rows, begun_s))
        return True

    def everything(self) -> InventoryUpdate:
        """The full inventory; call refresh() first."""
        return InventoryUpdate(True, list(self._inventory.rows.values()), [], list(self._inventory.creating))

    @property
    def known(self) -> bool:
        """Whether flintlockd answers, so that the inventory can be believed."""
        return self._known

    def report(self) -> Report:
        """What the machine and flintlockd look like now."""
        measured = self._measure()
        self._pressure = self._felt(measured)
        return Report(
            facts=self.facts,
            cpu_share=measured.cpu_share,
            memory_used_mib=measured.memory_used_mib,
            disk_free_mib=measured.disk_free_mib,
            vms=len(self._inventory.rows),
            failed=sum(row.state is VmState.FAILED for row in self._inventory.rows.values()),
            daemon_ok=self._known,
            interval_s=self._interval_s,
            taken=self._inventory.taken,
            stalls=measured.stalls,
            memory_free_mib=measured.memory_free_mib,
            volumes_free_mib=measured.volumes_free_mib,
            images=self.boot_queue.images,
            machine=self._machine._replace(lacks=(*self._machine.lacks, *self._lacks.values())),
        )

    def _felt(self, measured: Measured) -> float | None:
        whole, most = self.host.capacity, self.host.allocatable
        free = most.minus(self._inventory.taken)
        return felt(
            measured.stalls,
            (backed_mib(free.memory_mib, whole.memory_mib, most.memory_mib), measured.memory_free_mib),
            (backed_mib(free.disk_mib, whole.disk_mib, most.disk_mib), measured.volumes_free_mib),
        )

    def _show(self, row: Observed) -> None:
        """A microVM is there, seen in flintlockd's own reply."""
        if self._inventory.rows.get(row.uid) != row:
            self._inventory.put(row)
            self._inventory.looked([])
            self._tell([row], [])

    def _tell(self, seen: list[Observed], gone: list[str]) -> None:
        if (seen or gone) and self.uplink:
            self.uplink.inventory(InventoryUpdate(False, seen, gone, list(self._inventory.creating)))

    async def _watch_boots(self) -> None:
        """Look at the boot that is running more often than at everything: boots go one after another."""
        while True:
            await asyncio.sleep(min(self.boot_queue.look_every_s, self._interval_s))
            rows = self._inventory.rows if self._known else {}
            waiting = [uid for uid, row in rows.items() if row.state is VmState.PENDING]
            ended = []
            for uid in waiting[:BOOTS_AT_ONCE]:
                row = await self._daemon.look_at(uid, self._interval_s)
                if row is None or row.state is VmState.PENDING:
                    break
                ended.append(row)
            if len(ended) == BOOTS_AT_ONCE:  # by now, one List is cheaper than a Get for each
                self._changed.set()
            elif ended:
                self._wait_no_longer(ended)

    def _wait_no_longer(self, rows: list[Observed]) -> None:
        """Take over what became of microVMs that waited for their boot, unless a List has told it meanwhile."""
        news = [row for row in rows if self._inventory.is_pending(row.uid)]
        for row in news:
            self._inventory.put(row)
        self._inventory.looked(news)
        self._tell(news, [])
        if self.uplink:
            self.uplink.report(self.report())
