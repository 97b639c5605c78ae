"""One host: it knows what its flintlockd runs, bids for auctions, and passes creates on.

The agent's count of what is taken is its own: every microVM that flintlockd shows, made through Billet or not,
and the creates that it has in hand. It is what the leader's ledger counts, too, once both have heard everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import structlog

from billet.core import bidding
from billet.core.errors import Code
from billet.core.model import (
    ZERO,
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
from billet.core.scoring import DEFAULT_WEIGHTS, Weights
from billet.ports import (
    PLAINLY,
    Clock,
    Created,
    Denied,
    Flintlock,
    How,
    Inventory,
    NotTaken,
    Outcome,
    Reply,
    Report,
    Unknown,
)

log = structlog.get_logger()

LOOKUPS = 5  # how often a token is looked for after a create whose outcome is unknown
LOOKUP_PAUSE_S = 0.5
BROKEN = "Stream removed"  # what gRPC may say, under UNKNOWN, of a connection that broke
CONNECT_S = 2.0  # how long a create waits for a connection to flintlockd before it counts as not sent
RECONNECT_S = 0.2  # the same for a call while flintlockd is known to be away
REMEMBERED = 10_000  # creates whose order may come again
SETTLE_S = 60.0  # after which a create that flintlockd does not show did not get through
BOOT_WEIGHT = 0.25  # of the newest boot in the moving mean
BOOT_POLL_S = 0.25  # how often the boot that is running is looked at
BOOTS_AT_ONCE = 8  # boots that may have ended since, before everything is listed instead


class Codec(Protocol):
    """Flintlock's messages, as far as an agent reads and writes them (wire/flintlock.py)."""

    CREATE: str
    DELETE: str
    GET: str
    LIST: str

    def with_token(self, request: bytes, token: str) -> bytes:
        """A create request with the token in it."""

    def without_token(self, reply: bytes) -> bytes:
        """A reply without it."""

    def with_uid(self, uid: str) -> bytes:
        """A request that names one microVM."""

    def read_list(self, reply: bytes) -> list[Observed]:
        """The microVMs of a List."""

    def read_created(self, reply: bytes) -> Observed:
        """The microVM of a Create or a Get."""


class Measured(NamedTuple):
    """What the machine says of itself. Shares are 0 to 1 of the whole machine."""

    cpu_share: float
    memory_used_mib: int
    disk_free_mib: int
    pressure: float


class Uplink(Protocol):
    """The way to the leader. Without a connection what is sent is dropped: a new one begins with everything."""

    def report(self, report: Report) -> None:
        """Broadcast a report."""

    def inventory(self, inventory: Inventory) -> None:
        """Tell what changed."""


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """A create that this host has won. `demand` is what it is charged."""

    term: int
    token: str
    request: bytes
    demand: Resources
    timeout_s: float
    how: How = PLAINLY


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
    ) -> None:
        """`instance` names this process, and no other ever has the same name."""
        self.host = host
        self.instance = instance
        self.weights: Weights = DEFAULT_WEIGHTS  # the leader's, from its welcome
        self.uplink: Uplink | None = None
        self.stopping = False
        self.joined = asyncio.Event()  # a leader has heard everything from this agent once
        self._flintlock = flintlock
        self._codec = codec
        self._measure = measure
        self._clock = clock
        self._interval_s = report_interval_s
        self._rows: dict[str, Observed] = {}  # what flintlockd shows, by uid
        self._seen_s: dict[
            str, float
        ] = {}  # when a row was seen last, by uid: a List begun earlier tells nothing new
        self._listed_s = 0.0  # when the newest List that was taken over was begun
        self._creating: dict[str, Resources] = {}  # creates in hand, by token
        self._doing: dict[str, asyncio.Task[Outcome]] = {}  # the same, to answer an order that comes twice
        self._carried_out: dict[str, str] = {}  # uid by token, of the latest creates
        self._unsettled_s: dict[str, float] = {}  # when the outcome of a create could not be learnt, by token
        self._begun_s = clock.monotonic_s()
        self._taken = ZERO
        self._pending = 0
        self._known = False  # flintlockd has answered a List, and the last one too
        self._missed = False  # it has not, and that was said
        self._term = 0
        self._boots = BootClock()
        self._pressure = 0.0
        self._changed = asyncio.Event()

    async def finish(self, grace_s: float) -> None:
        """Take nothing new, and wait for the creates in hand."""
        self.stopping = True
        if self._doing:
            await asyncio.wait(self._doing.values(), timeout=grace_s)

    # Bidding.

    @property
    def facts(self) -> Facts:
        """What only this host knows."""
        return Facts(self._pressure, self._pending + len(self._creating), self._boots.mean_s)

    @property
    def taken(self) -> Resources:
        """What is taken of this host, creates in hand included."""
        return self._taken

    def bid(self, auction: Auction) -> Bid | Refusal:
        """Answer a call for bids, from memory: nothing is asked of anybody."""
        if self.stopping:
            return Refusal(self.host.id, Reason.STOPPING)
        if not self._known:
            return Refusal(self.host.id, Reason.DAEMON_AWAY)
        return bidding.bid(self.host, self._taken, self.facts, auction, self.weights)

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
            look_first = order.how.again and self._may_have_told(order)
            refusal = self._declines(order, look_first)
            if refusal:
                return NotTaken(refusal)
            if not order.how.verdict_only:
                self._creating[order.token] = order.demand
                self._taken = self._taken.plus(order.demand)
            task = asyncio.create_task(self._create(order, look_first))
            self._doing[order.token] = task
        return await asyncio.shield(task)

    def _made(self, order: CreateOrder) -> str:
        """The uid that this order has already led to, "" when none is known."""
        uid = self._carried_out.get(order.token, "")
        if order.how.again and not uid:
            uid = next((row.uid for row in self._rows.values() if row.token == order.token), "")
        return uid

    async def _repeated(self, uid: str, order: CreateOrder) -> Outcome:
        """The order was carried out before; its answer may have been lost."""
        found = await self._fetch(uid, order.timeout_s)
        if found:
            return found._replace(reply=self._codec.without_token(found.reply))
        return Unknown("this order was carried out before, and flintlockd does not show its microVM")

    def _may_have_told(self, order: CreateOrder) -> bool:
        """Whether flintlockd may have been told of this order before, with an outcome that nobody knows.

        This process knows of its own tries. An order that was reserved for another process may have been carried out
        by that one; what it began shows within SETTLE_S, and this process began after that one's end.
        """
        now_s = self._clock.monotonic_s()
        if now_s - self._unsettled_s.get(order.token, -SETTLE_S) < SETTLE_S:
            return True
        return order.how.instance != self.instance and now_s - self._begun_s < SETTLE_S

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
        if order.how.verdict_only:
            return None
        return bidding.no_room(host_id, self.host.allocatable, self._taken, order.demand)

    async def _create(self, order: CreateOrder, look_first: bool) -> Outcome:
        outcome: Outcome = Unknown("the agent was stopped")
        try:
            outcome = await (self._look_up(order, "an earlier try") if look_first else self._tell_flintlockd(order))
        finally:
            self._doing.pop(order.token, None)
            self._no_longer_in_hand(order.token)
            if isinstance(outcome, Unknown) and not look_first:
                remember(self._unsettled_s, order.token, self._clock.monotonic_s())
            if isinstance(outcome, Created):
                remember(self._carried_out, order.token, outcome.uid)
                self._show(self._codec.read_created(outcome.reply)._replace(token=order.token))
            elif self.uplink:
                # Nothing has changed that the host shows, but the leader holds the room as long as this is in hand.
                self.uplink.inventory(Inventory(False, [], [], list(self._creating)))
        if isinstance(outcome, Created):
            return outcome._replace(reply=self._codec.without_token(outcome.reply))
        return outcome

    async def _tell_flintlockd(self, order: CreateOrder) -> Outcome:
        if not await self._flintlock.ready(min(CONNECT_S, order.timeout_s)):
            return NotTaken(Refusal(self.host.id, Reason.DAEMON_AWAY))
        request = self._codec.with_token(order.request, order.token)
        reply = await self._flintlock.call(self._codec.CREATE, request, order.timeout_s)
        match reply.code:
            case Code.OK if order.how.verdict_only:
                return await self._take_back(reply)
            case Code.OK:
                return Created(self._codec.read_created(reply.payload).uid, reply.payload)
            case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED | Code.CANCELLED | Code.INTERNAL:
                return await self._look_up(order, describe(reply))
            case Code.UNKNOWN if reply.text == BROKEN:
                return await self._look_up(order, describe(reply))
            case _:
                return Denied(reply.code, reply.text)

    async def _take_back(self, reply: Reply) -> Outcome:
        """flintlockd made what it should have refused, and no room was reserved for it: delete it again."""
        uid = self._codec.read_created(reply.payload).uid
        await self._flintlock.call(self._codec.DELETE, self._codec.with_uid(uid), CONNECT_S)
        detail = "its flintlockd accepts what Billet expects it to refuse; the microVM was deleted again"
        return NotTaken(Refusal(self.host.id, Reason.DECLINED, detail))

    async def _look_up(self, order: CreateOrder, how: str) -> Outcome:
        """The outcome is unknown: look for the token before anything else (promise 4)."""
        looked = False
        for attempt in range(LOOKUPS):
            if attempt:
                await asyncio.sleep(LOOKUP_PAUSE_S)
            await self._flintlock.ready(CONNECT_S)
            rows = await self._list(order.timeout_s)
            looked = looked or rows is not None
            uid = next((row.uid for row in rows or () if row.token == order.token), None)
            if uid and (found := await self._fetch(uid, order.timeout_s)):
                return found
        what = "it does not show the microVM so far" if looked else "it does not answer"
        return Unknown(f"flintlockd broke off the create ({how}), and {what}")

    async def _fetch(self, uid: str, timeout_s: float) -> Created | None:
        """The reply that was lost, from a Get, which is like a Create's on the wire."""
        got = await self._flintlock.call(self._codec.GET, self._codec.with_uid(uid), timeout_s)
        return Created(uid, got.payload) if got.code == Code.OK else None

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
        rows = await self._list(self._interval_s * 5)
        if rows is None and await self._flintlock.ready(CONNECT_S):  # one failed List says nothing
            rows = await self._list(self._interval_s * 5)
        if rows is None:
            if not self._missed:
                log.warning("flintlockd does not answer; this host bids for nothing until it does", host=self.host.id)
            self._known, self._missed = False, True
            return False
        if not self._known:
            if self._missed:
                log.info("flintlockd answers", host=self.host.id)
            self._known, self._missed = True, False
            self._merge(rows, begun_s)
            if self.uplink:
                self.uplink.inventory(self.everything())
        else:
            self._tell(*self._merge(rows, begun_s))
        return True

    def everything(self) -> Inventory:
        """The full inventory; call refresh() first."""
        return Inventory(True, list(self._rows.values()), [], list(self._creating))

    @property
    def known(self) -> bool:
        """Whether flintlockd answers, so that the inventory can be believed."""
        return self._known

    def report(self) -> Report:
        """What the machine and flintlockd look like now."""
        measured = self._measure()
        self._pressure = measured.pressure
        return Report(
            facts=self.facts,
            cpu_share=measured.cpu_share,
            memory_used_mib=measured.memory_used_mib,
            disk_free_mib=measured.disk_free_mib,
            vms=len(self._rows),
            failed=sum(row.state is VmState.FAILED for row in self._rows.values()),
            daemon_ok=self._known,
            interval_s=self._interval_s,
        )

    async def _list(self, timeout_s: float) -> list[Observed] | None:
        reply = await self._flintlock.call(self._codec.LIST, b"", timeout_s)
        return self._codec.read_list(reply.payload) if reply.code == Code.OK else None

    def _merge(self, rows: list[Observed], begun_s: float) -> tuple[list[Observed], list[str]]:
        """Take over a List that was begun then; return what is new or other, and what is gone."""
        if begun_s < self._listed_s:
            return [], []  # it was slow, and a newer one has been taken over
        self._listed_s = begun_s
        listed = {row.uid for row in rows}
        changed = [r for r in rows if self._rows.get(r.uid) != r and self._seen_s.get(r.uid, 0.0) < begun_s]
        gone = [uid for uid in self._rows if uid not in listed and self._seen_s[uid] < begun_s]
        booted = sum(row.state is VmState.CREATED and self._is_pending(row.uid) for row in changed)
        for row in changed:
            self._put(row)
        for uid in gone:
            self._drop(uid)
        self._boots.looked(booted, self._pending, self._clock.monotonic_s())
        return changed, gone

    def _is_pending(self, uid: str) -> bool:
        row = self._rows.get(uid)
        return row is not None and row.state is VmState.PENDING

    def _show(self, row: Observed) -> None:
        """A microVM is there, seen in flintlockd's own reply."""
        if self._rows.get(row.uid) != row:
            self._put(row)
            self._boots.looked(0, self._pending, self._clock.monotonic_s())
            self._tell([row], [])

    def _tell(self, seen: list[Observed], gone: list[str]) -> None:
        if (seen or gone) and self.uplink:
            self.uplink.inventory(Inventory(False, seen, gone, list(self._creating)))

    def _put(self, row: Observed) -> None:
        old = self._rows.get(row.uid)
        if old:
            self._count(old, -1)
        else:
            self._no_longer_in_hand(row.token)
        self._seen_s[row.uid] = self._clock.monotonic_s()
        self._rows[row.uid] = row
        self._count(row, 1)

    def _no_longer_in_hand(self, token: str) -> None:
        """A create has ended, or flintlockd shows its microVM already: either way it is counted once."""
        demand = self._creating.pop(token, None)
        if demand:
            self._taken = self._taken.minus(demand)

    def _drop(self, uid: str) -> None:
        row = self._rows.pop(uid)
        del self._seen_s[uid]
        self._count(row, -1)

    def _count(self, row: Observed, sign: int) -> None:
        self._taken = self._taken.plus(row.demand) if sign > 0 else self._taken.minus(row.demand)
        if row.state is VmState.PENDING:
            self._pending += sign

    async def _watch_boots(self) -> None:
        """Look at the boot that is running more often than at everything: boots go one after another."""
        while True:
            await asyncio.sleep(min(BOOT_POLL_S, self._interval_s))
            waiting = [uid for uid, row in self._rows.items() if row.state is VmState.PENDING] if self._known else []
            booted = []
            for uid in waiting[:BOOTS_AT_ONCE]:
                row = await self._look_at(uid)
                if row is None or row.state is VmState.PENDING:
                    break
                booted.append(row)
            if len(booted) == BOOTS_AT_ONCE:  # by now, one List is cheaper than a Get for each
                self._changed.set()
            elif booted:
                self._have_booted(booted)

    async def _look_at(self, uid: str) -> Observed | None:
        """One microVM as flintlockd shows it now, None when it does not."""
        reply = await self._flintlock.call(self._codec.GET, self._codec.with_uid(uid), self._interval_s)
        return self._codec.read_created(reply.payload) if reply.code == Code.OK else None

    def _have_booted(self, rows: list[Observed]) -> None:
        """Take over what was seen of microVMs that waited, unless a List has told it meanwhile."""
        news = [row for row in rows if self._is_pending(row.uid)]
        for row in news:
            self._put(row)
        self._boots.looked(len(news), self._pending, self._clock.monotonic_s())
        self._tell(news, [])
        if self.uplink:
            self.uplink.report(self.report())


class BootClock:
    """The host's own mean boot time: how long its one boot worker was busy, for each boot that it finished."""

    def __init__(self) -> None:
        self.mean_s = 0.0
        self._busy_since_s: float | None = None

    def looked(self, booted: int, pending: int, now_s: float) -> None:
        """`booted` microVMs became CREATED since the last look; `pending` still wait."""
        if booted and self._busy_since_s is not None:
            each_s = (now_s - self._busy_since_s) / booted
            weight = 1.0 - (1.0 - BOOT_WEIGHT) ** booted if self.mean_s else 1.0
            self.mean_s += (each_s - self.mean_s) * weight
            self._busy_since_s = now_s
        if pending == 0:
            self._busy_since_s = None
        elif self._busy_since_s is None:
            self._busy_since_s = now_s


K = TypeVar("K")
T = TypeVar("T")


def remember(memory: dict[K, T], key: K, value: T) -> None:
    """Keep it, and forget the oldest beyond REMEMBERED."""
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]


def describe(reply: Reply) -> str:
    """A status for people. A channel's own text may say "not found" of a name, which must reach no client."""
    return f"{Code(reply.code).name}" if reply.code in set(Code) else f"code {reply.code}"
