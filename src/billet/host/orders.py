"""Carry out the leader's orders: no create twice, and nothing for a leader whose term is over."""

from __future__ import annotations

import asyncio

from billet.core import bidding
from billet.core.errors import Code
from billet.core.memory import remember
from billet.core.metadata import Metadata
from billet.core.model import Host, Observed, Reason, Refusal, VmState
from billet.host.flintlockd import CONNECT_S, Codec, CreateOrder, Daemon, describe
from billet.host.watcher import Watcher
from billet.ports import Clock, Created, Ended, Flintlock, NotTaken, Outcome, Reply, Unknown

UNANSWERED = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.INTERNAL)
RECONNECT_S = 0.2  # how long a call waits for a connection while flintlockd does not respond
RESOLVE_S = 60.0  # a create that flintlockd has not shown after answering Lists for this long never reached it


class Orders:
    """One host's orders. `instance` names this agent process; no other process ever has the same name."""

    def __init__(
        self,
        host: Host,
        instance: str,
        flintlock: Flintlock,
        daemon: Daemon,
        codec: Codec,
        watcher: Watcher,
        clock: Clock,
    ) -> None:
        self.stopping = False
        self.term = 0  # the greatest term whose orders were obeyed
        self._host = host
        self._instance = instance
        self._flintlock = flintlock
        self._daemon = daemon
        self._codec = codec
        self._watcher = watcher
        self._inventory = watcher.inventory
        self._clock = clock
        self._doing: dict[str, asyncio.Future[Outcome]] = {}  # creates in hand, by token
        self._deleting: dict[str, asyncio.Task[Reply]] = {}  # Deletes in progress, by uid
        self._carried_out: dict[str, str] = {}  # uid by token, of the latest creates
        self._ended: dict[str, str] = {}  # uid by token, of the latest microVMs that were deleted by an order
        self._unresolved_s: dict[str, float] = {}  # by token: when a create ended with an unknown outcome

    def accepts(self, term: int) -> bool:
        """Whether an order of this term may be carried out; a newer term ends all older ones (promise 3)."""
        if term < self.term:
            return False
        self.term = term
        return True

    async def finish(self, grace_s: float) -> None:
        """Refuse new creates, and wait for those in hand, `grace_s` at most."""
        self.stopping = True
        if self._doing:
            await asyncio.wait(self._doing.values(), timeout=grace_s)

    # Creates.

    async def create(self, order: CreateOrder) -> Outcome:
        """Carry out an award once, even when the order arrives several times."""
        uid = self._created_uid(order)
        if uid:
            return await self._repeated(uid, order)
        if doing := self._doing.get(order.token):
            return await asyncio.shield(doing)
        look_first = order.options.resent and self._may_be_known(order)
        refusal = self._declines(order, look_first)
        if refusal:
            return self._refused(order, refusal)
        if not order.options.verdict_only:
            images = self._codec.read_images(order.request)
            self._inventory.begin_create(order.token, order.demand, images)
        doing = self._doing[order.token] = asyncio.get_running_loop().create_future()
        outcome: Outcome = Unknown("the agent was stopped")
        try:
            outcome = await self._create(order, look_first)
        finally:
            doing.set_result(outcome)
        return outcome

    def _created_uid(self, order: CreateOrder) -> str:
        """The uid of the microVM that this order has already created, "" when none is known."""
        uid = self._carried_out.get(order.token, "")
        if not order.options.resent:
            if not uid or self._is_gone(uid):
                self._forget(order.token)  # a new auction, perhaps under a token that the leader has forgotten
                return ""
            return uid
        return uid or self._daemon.find(order, self._inventory.rows.values()) or self._ended_uid(order)

    def _ended_uid(self, order: CreateOrder) -> str:
        """The uid of the microVM that this order has created and a Delete has ended, "" when none is known."""
        row = self._inventory.deleted.get(self._ended.get(order.token, ""))
        return self._daemon.find(order, [row]) if row else ""

    def _forget(self, token: str) -> None:
        self._carried_out.pop(token, None)
        self._inventory.deleted.pop(self._ended.pop(token, ""), None)

    def _is_gone(self, uid: str) -> bool:
        """Whether flintlockd no longer has a microVM that it has had."""
        return self._watcher.known and uid not in self._inventory.rows

    async def _repeated(self, uid: str, order: CreateOrder) -> Outcome:
        """Answer an order that was carried out before: its first answer may have been lost."""
        if self._is_gone(uid):
            return Ended(uid)
        found = await self._daemon.fetch(uid, order.timeout_s)
        if found:
            return found._replace(reply=self._codec.without_token(found.reply))
        return Unknown("this order was carried out before, and flintlockd does not show its microVM")

    def _may_be_known(self, order: CreateOrder) -> bool:
        """Whether flintlockd may have received this order before, with an unknown outcome.

        This process remembers its own attempts. An order reserved for another process may have been sent by that
        one, which ended before this process started. What was begun shows within RESOLVE_S of a flintlockd that
        answers; while it does not answer, time proves nothing, even before a List has failed.
        """
        attempted_s = self._unresolved_s.get(order.token)
        if attempted_s is None and order.options.instance == self._instance:
            return False
        known_since_s = self._watcher.known_since_s
        if known_since_s is None:
            return True
        return self._watcher.known_until_s - max(known_since_s, attempted_s or known_since_s) < RESOLVE_S

    def _refused(self, order: CreateOrder, refusal: Refusal) -> Outcome:
        """A refusal, unless another host would be asked while flintlockd, which is away, may have the microVM."""
        if order.options.resent and refusal.reason is Reason.DAEMON_AWAY:
            return Unknown("flintlockd does not answer, and may have the microVM from an earlier attempt")
        return NotTaken(refusal)

    def _declines(self, order: CreateOrder, look_first: bool) -> Refusal | None:
        host_id = self._host.id
        if not self.accepts(order.term):
            return Refusal(host_id, Reason.DECLINED, self._outdated(order.term))
        if look_first:
            return None  # the microVM may exist here already, so no other host may be asked
        if self.stopping:
            return Refusal(host_id, Reason.STOPPING)
        if not self._watcher.known:
            return Refusal(host_id, Reason.DAEMON_AWAY)
        if order.options.verdict_only:
            return None
        return bidding.no_room(host_id, self._host.allocatable, self._inventory.taken, order.demand)

    def _fits(self) -> bool:
        """Whether all that is on the host and all creates in hand have room."""
        return self._host.allocatable.covers(self._inventory.taken)

    async def _create(self, order: CreateOrder, look_first: bool) -> Outcome:
        outcome: Outcome = Unknown("the agent was stopped")
        try:
            outcome = await (
                self._daemon.look_up(order, "an earlier attempt")
                if look_first
                else self._daemon.create(order, self._fits)
            )
        finally:
            self._doing.pop(order.token, None)
            self._inventory.end_create(order.token)
            if isinstance(outcome, Unknown) and (ended := self._ended_uid(order)):
                outcome = Ended(ended)
            elif isinstance(outcome, Unknown) and not look_first:
                remember(self._unresolved_s, order.token, self._clock.monotonic_s())
            if isinstance(outcome, Created):
                remember(self._carried_out, order.token, outcome.uid)
                self._watcher.created(self._daemon.read(outcome.reply)._replace(token=order.token))
            else:
                self._watcher.tell_creating()
        match outcome:
            case Created():
                return outcome._replace(reply=self._codec.without_token(outcome.reply))
            case NotTaken(refusal):
                return self._refused(order, refusal)
        return outcome

    # Other calls.

    async def call(self, term: int, method: str, request: bytes, timeout_s: float, metadata: Metadata = ()) -> Reply:
        """Pass a unary call on to flintlockd. Reads are answered whatever their term is."""
        reads = method in (self._codec.GET, self._codec.LIST)
        if not self.accepts(term) and not reads:
            return Reply(Code.UNAVAILABLE, self._outdated(term), b"")
        if not await self._flintlock.ready(min(CONNECT_S if self._watcher.known else RECONNECT_S, timeout_s)):
            return Reply(Code.UNAVAILABLE, "its flintlockd does not answer", b"")
        if method == self._codec.DELETE:
            reply = await self._delete(request, timeout_s, metadata)
        else:
            reply = await self._daemon.call(method, request, timeout_s, metadata)
        if reply.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            return reply._replace(text=f"its flintlockd does not answer ({describe(reply)})")
        if reply.code == Code.OK and reads:
            return reply._replace(payload=self._codec.without_token(reply.payload))
        return reply

    def _outdated(self, term: int) -> str:
        return f"the order is of term {term}, and a leader of term {self.term} has taken over"

    async def _delete(self, request: bytes, timeout_s: float, metadata: Metadata) -> Reply:
        """Pass a Delete on, unless one is in progress: a second one makes flintlockd spin until it is restarted."""
        uid = self._codec.read_uid(request)
        deleting = self._deleting.get(uid)
        if deleting is None:
            deleting = asyncio.create_task(self._look_and_delete(uid, request, timeout_s, metadata))
            self._deleting[uid] = deleting
            deleting.add_done_callback(lambda _: self._deleting.pop(uid, None))
        return await asyncio.shield(deleting)

    async def _look_and_delete(self, uid: str, request: bytes, timeout_s: float, metadata: Metadata) -> Reply:
        """Look at the microVM, then delete it unless flintlockd says that it does so already.

        What the inventory says may be old: flintlockd may have accepted a Delete since, or lost one.
        """
        got = await self._daemon.call(self._codec.GET, self._codec.with_uid(uid), timeout_s)
        if got.code in UNANSWERED:
            return got
        row = self._codec.read_created(got.payload) if got.code == Code.OK else None
        if row and row.state is VmState.DELETING:
            self._deleted(row, Code.OK)
            return Reply(Code.OK, "", b"")
        reply = await self._daemon.call(self._codec.DELETE, request, timeout_s, metadata)
        if row := row or self._inventory.rows.get(uid):
            self._deleted(row, reply.code)
        return reply

    def _deleted(self, row: Observed, code: int) -> None:
        """Remember what a Delete has ended. Without an answer it may have: once the microVM is gone, it has."""
        if code not in (Code.OK, *UNANSWERED):
            return
        self._inventory.note_deleted(row)
        if row.token:
            remember(self._ended, row.token, row.uid)
            if row.uid not in self._inventory.rows:  # the leader learns its token
                self._watcher.created(row._replace(state=VmState.DELETING) if code == Code.OK else row)
        self._watcher.look_soon()  # so that the room is free early
