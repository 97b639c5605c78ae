"""The life of a server: campaign, lead, follow another leader, route client calls, finish.

`billet server` (node.py) and the simulator (sim/servers.py) run this class; they differ in the parts they give it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from billet.core.errors import BilletError, StoreCorrupt, StoreError
from billet.leader.leadership import Leadership, LinkTerm
from billet.leader.ledger import Ledger, elected
from billet.log_throttle import LogThrottle
from billet.ports import Backend, Clock, Leader, Store

log = structlog.get_logger()

RETRY_S = 1.0  # pause after the store failed
OVERTIME_S = 5.0  # after the grace, to commit what has become of creates whose clients were answered


class Link(Protocol):
    """The connections to all agents, as a server directs them (link/server.py)."""

    def begin(self, term: LinkTerm) -> None:
        """This server leads."""

    def end(self, why: str) -> None:
        """This server no longer leads."""

    def follow(self, leader: Leader | None) -> None:
        """Another server leads, or nobody does."""

    async def close(self) -> None:
        """Disconnect all agents."""


class Service(Backend, Protocol):
    """Answers client calls while this server leads (api/flintlock_service.py)."""

    async def drain(self) -> None:
        """Wait for the creates in flight."""

    def knows(self, uid: str) -> bool:
        """Whether this microVM has a placement."""


class Forward(Backend, Protocol):
    """A connection to the leader (adapters/forward.py)."""

    leader: Leader

    async def dead(self) -> None:
        """Return when the leader's process has surely ended."""

    async def close(self) -> None:
        """Close the connection."""


class Proxy(Protocol):
    """Receives client calls and passes them to whoever leads (api/leader_proxy.py)."""

    stale: Backend | None  # answers reads while nobody leads
    own_stale: Backend | None  # the same from this server's own memory, for other servers

    def route(self, backend: Backend | None, leads: bool = False) -> None:
        """Pass calls to this backend from now on."""

    def trouble(self, why: str) -> None:
        """Nobody leads, and why."""


class Listeners(Protocol):
    """The ports on which clients reach this server."""

    async def serving(self, yes: bool) -> None:
        """Tell health checks whether calls are answered."""

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls; wait up to `grace_s` for those in flight."""


@dataclass(frozen=True, slots=True)
class Factories:
    """How to build what one term, or one leader, needs."""

    leadership: Callable[[Ledger], Leadership]
    service: Callable[[Leadership], Service]
    stale_reads: Callable[[Service, float], Backend]  # the second argument: when the term ended, monotonic seconds
    forward: Callable[[Leader], Forward]


class Server:
    """One server of a cluster. It leads when elected, else it passes client calls to the leader.

    `leadership` is set while it leads. `stopping` is set once it has been asked to stop; it then campaigns no more.
    """

    def __init__(
        self, me: Leader, store: Store, link: Link, proxy: Proxy, listeners: Listeners, clock: Clock, build: Factories
    ) -> None:
        self.me = me
        self.leadership: Leadership | None = None
        self.stopping = False
        self._store = store
        self._store_open = False
        self._link = link
        self._proxy = proxy
        self._listeners = listeners
        self._clock = clock
        self._build = build
        self._throttle = LogThrottle()
        self._above = 0  # the next term is greater: the hosts have obeyed this one
        self._service: Service | None = None  # while this server leads
        self._forward: Forward | None = None  # while another server leads
        self._last_forward: Forward | None = None  # to the last leader, while nobody leads

    async def open_store(self) -> None:
        """Open the store unless it is open. Raises StoreError."""
        if not self._store_open:
            await self._store.open()
            self._store_open = True

    async def run(self) -> None:
        """Lead when elected, and follow other leaders, until stopped. Raises StoreCorrupt."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._campaign())
            group.create_task(self._follow())

    async def finish(self, grace_s: float) -> None:
        """Accept no new calls, and complete those in flight.

        If another server waits to lead, hand over at once: clients' calls move to it. Otherwise lead until all calls
        are answered. A create that takes longer than that is left to the next leader, which asks its host for it.
        """
        self.stopping = True
        until_s = asyncio.get_running_loop().time() + grace_s + OVERTIME_S
        service, leadership = self._service, self.leadership
        await self._listeners.serving(False)
        with suppress(StoreError):
            if leadership and await self._store.contested(leadership.ledger.term):
                leadership.ledger.end("this server is stopping")
        await self._listeners.stop(grace_s)
        if service:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await service.drain()

    async def close(self) -> None:
        """Close all connections and the store."""
        await self._listeners.stop(0.0)
        await self._link.close()
        for forward in (self._forward, self._last_forward):
            if forward:
                await forward.close()
        await self._store.close()

    # Campaign and lead.

    async def _campaign(self) -> None:
        """Stand for election, lead, and stand again, until this server stops."""
        with suppress(StoreError):
            # If this address leads already, the leader is this server's previous process, which was killed.
            await self._store.depose(self.me)
        while ledger := await self._next_term():
            await self._lead(ledger)

    async def _next_term(self) -> Ledger | None:
        """Wait until elected; return the new term's ledger, None when stopping. Raises StoreCorrupt."""
        while not self.stopping:
            try:
                await self.open_store()
                ledger = await elected(self._store, self.me, self._above)
                self._throttle.recovered("store")
                return ledger
            except StoreCorrupt:
                raise
            except StoreError as error:
                if self._throttle.should_log("store", error.text, self._clock.monotonic_s()):
                    log.error("cannot lead: store unavailable; retrying", error=error.text)
                self._proxy.trouble(f"no server leads: {error.text}")
                await asyncio.sleep(RETRY_S)
        return None

    async def _lead(self, ledger: Ledger) -> None:
        """Lead until the term ends, then resign it."""
        leadership = self.leadership = self._build.leadership(ledger)
        service = self._service = self._build.service(leadership)
        rules = leadership.rules
        self._link.begin(
            LinkTerm(ledger.term.number, rules.weights, leadership.admission, ledger.state.fleet, rules.arrive_s)
        )
        await self._route()
        state = ledger.state
        log.info("leading", term=ledger.term.number, hosts=len(state.hosts), placements=len(state.placements))
        try:
            await _until_over(self._store, leadership)
        finally:
            self.leadership = self._service = None
            self._proxy.stale = self._proxy.own_stale = self._build.stale_reads(service, self._clock.monotonic_s())
            self._proxy.trouble(f"no server leads: {ledger.why}")
            await self._route()
            self._link.end("the term has ended")
            self._above = max(self._above, leadership.admission.trusted_term)
            with suppress(BilletError):
                await self._store.resign(ledger.term)
        log.warning("lost leadership", term=ledger.term.number, why=ledger.why)

    # Follow.

    async def _follow(self) -> None:
        """Track who leads: route client calls there, and notice when that server dies."""
        watching: asyncio.Task[None] | None = None
        async for leader in self._store.leaders():
            if watching:
                watching.cancel()
            before, self._forward, watching = self._forward, None, None
            if leader and leader != self.me:
                self._forward = self._build.forward(leader)
                watching = asyncio.create_task(self._watch(self._forward))
            elif leader is None and before:
                if self._last_forward:
                    await self._last_forward.close()
                self._last_forward = self._proxy.stale = before  # the last leader's memory is the newest
            self._link.follow(leader)
            await self._route()
            if before and before is not self._last_forward:
                await before.close()

    async def _watch(self, forward: Forward) -> None:
        """End a dead leader's term at once instead of waiting for its lease to expire."""
        await forward.dead()
        log.warning("leader is dead; ending its term", leader=forward.leader.id)
        with suppress(StoreError):
            await self._store.depose(forward.leader)

    # Route client calls.

    async def _route(self) -> None:
        """Pass client calls to this server's own service while it leads, else to the leader, if there is one."""
        backend = self._service or self._forward
        self._proxy.route(backend, leads=self._service is not None)
        await self._listeners.serving(backend is not None and not self.stopping)


async def _until_over(store: Store, leadership: Leadership) -> None:
    """Reconcile until the term ends: its lease is lost, or the outcome of a commit is unknown."""
    ledger = leadership.ledger
    telling = asyncio.create_task(leadership.chronicle.run())  # the term does not depend on it
    work = [
        asyncio.create_task(leadership.reconciler.run()),
        asyncio.create_task(store.ended(ledger.term)),
        asyncio.create_task(ledger.over.wait()),
    ]
    try:
        await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        ledger.end("the term has ended")
        for task in work:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
    finally:
        ledger.end("the server is stopping")
        for task in (*work, telling):
            task.cancel()
        await asyncio.gather(*work, telling, return_exceptions=True)
