"""The agent of one host: bid for auctions, carry out the leader's orders, report what the host runs.

The agent counts what is taken of its host itself: every microVM that flintlockd shows, created through Billet or
not, and the creates in hand. The leader's ledger comes to the same sum once it has heard everything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from billet.core import bidding
from billet.core.boots.queue import BootQueue
from billet.core.metadata import Metadata
from billet.core.model import Auction, Bid, Facts, Host, Observed, Reason, Refusal, Resources, VmState
from billet.core.pressure import NO_STALLS, Stalls, backed_mib, felt
from billet.core.report import NOTHING_KNOWN, InventoryUpdate, MachineFacts, Report
from billet.core.scoring import DEFAULT_WEIGHTS, Weights
from billet.host.flintlockd import Codec, CreateOrder, Daemon
from billet.host.orders import Orders
from billet.host.watcher import Uplink, Watcher
from billet.ports import Clock, Flintlock, Outcome, Reply

log = structlog.get_logger()

MEASURE_EVERY = 0.9  # report intervals; less than 1, so that each interval's report measures, whatever the timer does


class Measured(NamedTuple):
    """What the machine measures. Shares are 0 to 1 of the whole machine; None is a metric that is unavailable.

    `stalls` are the shares of time in which some task waited for CPU, memory and IO, smoothed. `memory_free_mib` and
    `volumes_free_mib` are what is really free on the machine, to be compared with what is promised.
    """

    cpu_share: float
    memory_used_mib: int
    disk_free_mib: int
    stalls: Stalls = NO_STALLS
    memory_free_mib: int | None = None
    volumes_free_mib: int | None = None


class Agent:
    """The host's side of the link. All its decisions about bids are in core/bidding.py."""

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
        daemon_id: Callable[[], str] = lambda: "",
        namespace: str = "flintlock",
        look: Callable[[Observed], Observed] = lambda row: row,
    ) -> None:
        """`instance` names this process; no other process ever has the same name. `daemon_id` identifies the socket
        of flintlockd, "" when it cannot. `namespace` is flintlockd's in containerd. `look`
        adds what a microVM's VMM does."""
        self._daemon_id = daemon_id
        self.host = host
        self.instance = instance
        self.weights: Weights = DEFAULT_WEIGHTS  # the leader's, from its welcome
        self.joined = asyncio.Event()  # set once a leader has received the full inventory
        self.ordered: Counter[str] = Counter()  # orders to create, by outcome
        self._measure = measure
        self._clock = clock
        self._interval_s = report_interval_s
        self._machine = machine
        self._unavailable: dict[str, str] = {}  # metrics that are unavailable now, and why, by source
        self._pressure: float | None = None
        self._latest: Measured | None = None
        self._measured_s = 0.0  # monotonic
        daemon = Daemon(host.id, flintlock, codec, look)
        self._watcher = Watcher(host.id, flintlock, daemon, clock, report_interval_s, self.report, namespace)
        self._orders = Orders(host, instance, flintlock, daemon, codec, self._watcher, clock)

    async def run(self) -> None:
        """Watch flintlockd and report, for ever."""
        await self._watcher.run()

    async def finish(self, grace_s: float) -> None:
        """Refuse new creates, and wait for those in hand, `grace_s` at most."""
        await self._orders.finish(grace_s)

    # Bidding.

    @property
    def facts(self) -> Facts:
        """What only this host knows."""
        return self.boot_queue.facts(self._pressure, self._clock.monotonic_s())

    @property
    def boot_queue(self) -> BootQueue:
        """The host's boots that wait, and the images it has."""
        return self._watcher.inventory.boot_queue

    @property
    def taken(self) -> Resources:
        """What is taken of this host, creates in hand included."""
        return self._watcher.inventory.taken

    def bids(self, auctions: Sequence[Auction]) -> list[Bid | Refusal]:
        """Answer a call for bids from memory, without IO. All answers use the facts of the same moment."""
        facts = self.facts
        return [self._bid(auction, facts) for auction in auctions]

    def _bid(self, auction: Auction, facts: Facts) -> Bid | Refusal:
        if self._orders.stopping:
            return Refusal(self.host.id, Reason.STOPPING)
        if not self.known:
            return Refusal(self.host.id, Reason.DAEMON_AWAY)
        missing, coming = self.boot_queue.missing(auction.images), self.boot_queue.coming(auction.images)
        return bidding.bid(self.host, self.taken, facts, auction, self.weights, missing, coming)

    # Orders (see Orders).

    @property
    def term(self) -> int:
        """The greatest term whose orders were obeyed."""
        return self._orders.term

    def accepts(self, term: int) -> bool:
        """Whether an order of this term may be carried out."""
        return self._orders.accepts(term)

    async def create(self, order: CreateOrder) -> Outcome:
        """Carry out an award once, even when the order arrives several times."""
        outcome = await self._orders.create(order)
        self.ordered[type(outcome).__name__.lower()] += 1
        return outcome

    async def call(self, term: int, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """Pass a unary call on to flintlockd."""
        return await self._orders.call(term, method, request, timeout_s, metadata)

    # Inventory (see Watcher).

    @property
    def uplink(self) -> Uplink | None:
        """The connection to the leader, None when there is none."""
        return self._watcher.uplink

    @uplink.setter
    def uplink(self, uplink: Uplink | None) -> None:
        self._watcher.uplink = uplink

    @property
    def known(self) -> bool:
        """Whether flintlockd answered the last List, so that the inventory is current."""
        return self._watcher.known

    async def refresh(self) -> bool:
        """List all microVMs and tell the leader what changed. Return False when flintlockd does not answer."""
        return await self._watcher.refresh()

    def everything(self) -> InventoryUpdate:
        """The full inventory, as of the last refresh()."""
        return self._watcher.everything()

    # Reports.

    def set_unavailable(self, source: str, metric: str) -> None:
        """Note that a source cannot provide a metric, and why; "" when it can again. Each change is logged once."""
        before = self._unavailable.get(source, "")
        if metric and metric != before:
            self._unavailable[source] = metric
            log.warning("metric unavailable on this host", host=self.host.id, metric=metric)
        elif before and not metric:
            del self._unavailable[source]
            log.info("metric available again on this host", host=self.host.id, metric=before)

    @property
    def daemon_id(self) -> str:
        """Identifies the socket of this host's flintlockd, so that two agents beside it are noticed; "" = unknown."""
        return self._daemon_id()

    def report(self) -> Report:
        """Describe the machine as last measured, and flintlockd as it is now."""
        measured = self._measured()
        self._pressure = self._felt(measured)
        rows = self._watcher.inventory.rows
        trouble = (self._watcher.trouble,) if self._watcher.trouble else ()
        return Report(
            facts=self.facts,
            cpu_share=measured.cpu_share,
            memory_used_mib=measured.memory_used_mib,
            disk_free_mib=measured.disk_free_mib,
            vms=len(rows),
            failed=sum(row.state is VmState.FAILED for row in rows.values()),
            daemon_ok=self.known,
            interval_s=self._interval_s,
            taken=self.taken,
            stalls=measured.stalls,
            memory_free_mib=measured.memory_free_mib,
            volumes_free_mib=measured.volumes_free_mib,
            images=self.boot_queue.images,
            machine=self._machine._replace(lacks=(*trouble, *self._machine.lacks, *self._unavailable.values())),
            flintlockd=self.daemon_id,
            at_hand=self.boot_queue.at_hand,
        )

    def _measured(self) -> Measured:
        """Measure the machine, at most once in an interval: a boot that ends changes the queue, not the machine."""
        now_s = self._clock.monotonic_s()
        if self._latest is None or now_s - self._measured_s >= MEASURE_EVERY * self._interval_s:
            self._latest, self._measured_s = self._measure(), now_s
        return self._latest

    def _felt(self, measured: Measured) -> float | None:
        whole, most = self.host.capacity, self.host.allocatable
        free = most.minus(self.taken)
        return felt(
            measured.stalls,
            (backed_mib(free.memory_mib, whole.memory_mib, most.memory_mib), measured.memory_free_mib),
            (backed_mib(free.disk_mib, whole.disk_mib, most.disk_mib), measured.volumes_free_mib),
        )
