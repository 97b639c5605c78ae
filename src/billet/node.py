"""HOW it is put together: the only place that builds objects. One function for each process."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from ulid import ULID

from billet.adapters.containerd import Containerd
from billet.adapters.flintlock import GrpcFlintlock
from billet.adapters.forward import LeaderForward
from billet.adapters.link_agent import AgentDialler
from billet.adapters.link_server import LinkServer, Reign
from billet.adapters.machine import Machine
from billet.adapters.records import AuctionLog
from billet.adapters.seldom import handshakes_fail_in_one_line
from billet.adapters.stores import open_store
from billet.adapters.thinpool import pool_free_mib
from billet.api.edge import Edge
from billet.api.front import Front
from billet.api.http import http_app
from billet.api.metrics import exposition
from billet.api.service import FlintlockService
from billet.api.stale import StaleReads
from billet.config import AgentConfig, ServerConfig, split_endpoint
from billet.control.agent import Agent
from billet.control.auctioneer import Auctioneer, Rules
from billet.control.auditor import Auditor
from billet.control.ledger import Ledger, elected
from billet.control.office import Office
from billet.control.reconciler import Reconciler
from billet.control.reign import next_reign, until_over
from billet.control.story import Story
from billet.core.audit import Outcome
from billet.core.errors import BilletError, Code, ConfigError, StoreAway, StoreError
from billet.core.model import Host, Placement, Resources
from billet.core.record import Gone
from billet.ports import Leader, Store
from billet.wire import auction_records, auth, flintlock, tls
from billet.wire.headers import FORWARDED, proof, token_of

log = structlog.get_logger()

GRACE_S = 30.0  # how long SIGTERM waits for what is in flight
LOOK_EVERY_S = 5.0  # how often containerd and the thin pool are asked
AUDITED = 2000  # outcomes that a new leader takes up from its own records
KEEP_LOST_S = 24 * 3600.0  # how long a LOST microVM is shown


class SystemClock:
    """ports.Clock of the real world."""

    def now_s(self) -> float:
        """See ports.Clock."""
        return time.time()

    def monotonic_s(self) -> float:
        """See ports.Clock."""
        return time.monotonic()


# A server.


async def run_server(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT. Raises BilletError, with one line, when it cannot start or go on."""
    logging_to_stderr()
    server = Server(config)
    try:
        await server.start()
        if config.json_ready:
            print(json.dumps(server.endpoints()), flush=True)
        await until_stopped(server.run(), server.finish)
    except* BilletError as errors:
        raise errors.exceptions[0] from None
    finally:
        await server.close()


class Server:
    """One `billet server`: it serves clients and agents, and leads when it is elected."""

    def __init__(self, config: ServerConfig) -> None:
        self.leader = Leader(config.id, "", "")
        self.http = ""
        self.zones: list[tuple[str, str]] = []  # the zones that have an address of their own, and where
        self._config = config
        self._clock = SystemClock()
        self._store: Store = open_store(
            config.store, config.data_dir, config.etcd_tls_ca, config.etcd_tls_cert, config.etcd_tls_key,
            config.etcd_user, config.etcd_password,
        )  # fmt: skip
        self._log = AuctionLog(Path(config.data_dir) / "auctions.db", keep=config.record_auctions)
        self._link = LinkServer(config.link_token, config.bid_wait_ms / 1e3, config.bid_wait_max_ms / 1e3)
        self._proof = proof(config.link_token)
        self._front = Front(lambda request, metadata: token_of(request, metadata, new_id), config.hold_s)
        # The first is for all zones, the others stand for one each.
        self._edges = [
            Edge(self._front, config.basic_auth_token, self._proof, zone)
            for zone in ("", *(zone for zone, _ in config.zones))
        ]
        self._tls = tls.TlsSettings(
            config.insecure, config.tls_cert, config.tls_key, config.tls_client_validate, config.tls_client_ca
        )
        self._store_open = False
        self._ledger: Ledger | None = None  # while this server leads
        self._service: FlintlockService | None = None
        self._office: Office | None = None
        self._forward: LeaderForward | None = None  # while another one does
        self._last: LeaderForward | None = None  # to the last one, while nobody does
        self.stopping = False
        self._web: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open everything that this server listens on and needs."""
        config = self._config
        with suppress(StoreAway):  # it may come later; `_lead` says what it waits for
            await self._open_store()
        grpc_port = await listening(self._edges[0].listen(config.grpc_endpoint, self._tls), config.grpc_endpoint)
        for edge, (zone, endpoint) in zip(self._edges[1:], config.zones, strict=True):
            port = await listening(edge.listen(endpoint, self._tls), endpoint)
            self.zones.append((zone, self._reachable(endpoint, port)))
        link_host, link_port = split_endpoint(config.link_endpoint)
        context = tls.server_context(config.link_tls_cert, config.link_tls_key) if not config.link_insecure else None
        link_port = await listening(self._link.listen(link_host, link_port, context), config.link_endpoint)
        self.leader = Leader(
            config.id,
            self._reachable(config.grpc_endpoint, grpc_port),
            self._reachable(config.link_endpoint, link_port),
        )
        if config.http_endpoint:
            self.http = await self._serve_http(config.http_endpoint)
        log.info("server ready", store=config.store, **self.endpoints())

    def endpoints(self) -> dict[str, Any]:
        """Where this server listens."""
        zones = {"zones": self.zones} if self.zones else {}
        return {"grpc": self.leader.grpc, "http": self.http, "link": self.leader.link, **zones}

    async def run(self) -> None:
        """Lead when elected, and follow whoever does."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead())
            group.create_task(self._follow())

    async def _open_store(self) -> None:
        if not self._store_open:
            await self._store.open()
            self._store_open = True

    async def elected(self) -> Ledger:
        """See control.reign.Candidate."""
        await self._open_store()
        return await elected(self._store, self.leader, self._link.seen_term)

    def trouble(self, error: StoreError) -> None:
        """See control.reign.Candidate."""
        log.error("cannot lead: the store is in trouble; trying again", error=error.text)
        self._front.trouble(f"no server leads: {error.text}")

    async def _lead(self) -> None:
        """Campaign, lead, and campaign again, until this server stops."""
        with suppress(StoreError):
            # Should our address lead already, that is the process before this one, which was killed.
            await self._store.depose(self.leader)
        while ledger := await next_reign(self):
            office = self._open_office(ledger)
            service = FlintlockService(office, self._log, self._config.id)
            self._office = office
            self._ledger, self._service = ledger, service
            self._link.begin(
                Reign(ledger.term.number, self._config.weights, office.auditor, office.rules.arrive_s, ledger.end)
            )
            await self._face()
            state = ledger.state
            log.info("leading", term=ledger.term.number, hosts=len(state.hosts), microvms=len(state.placements))
            try:
                await until_over(self._store, ledger, office.reconciler)
            finally:
                self._ledger = self._service = self._office = None
                self._front.stale = self._front.own_stale = StaleReads(
                    service, self._clock.monotonic_s(), self._clock.monotonic_s
                )
                self._front.trouble(f"no server leads: {ledger.why}")
                await self._face()
                self._link.end("the term has ended")
                with suppress(BilletError):
                    await self._store.resign(ledger.term)
            log.warning("no longer leading", why=ledger.why)

    async def finish(self) -> None:
        """Take nothing new, and let what is in flight come to its end.

        Where another server waits to lead, it takes over at once, and our clients' calls with it; else we lead on
        until they are answered.
        """
        self.stopping = True
        service, ledger = self._service, self._ledger
        await self._serving(False)
        with suppress(StoreError):
            if ledger and await self._store.contested(ledger.term):
                ledger.end("this server is stopping")
        await self._stop_serving(GRACE_S)
        if service:
            await service.drain()

    async def close(self) -> None:
        """Let go of everything."""
        await self._stop_serving(0.0)
        if self._web:
            self._web.should_exit = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._link.close()
        for forward in (self._forward, self._last):
            if forward:
                await forward.close()
        await self._store.close()
        self._log.close()

    def _open_office(self, ledger: Ledger) -> Office:
        config = self._config
        ledger.gone = self._gone
        rules = Rules(
            config.weights,
            config.ask_hosts,
            config.ask_random,
            config.create_timeout_s,
            config.call_timeout_s,
            config.shadow_weights,
            quotas=config.quota_of,
        )
        reconciler = Reconciler(
            ledger, self._clock, config.settle_after_s, KEEP_LOST_S, self._delete, config.fence_after_s
        )
        auditor = Auditor(ledger.state, self._clock, reconciler, self._judged)
        auditor.restore(auction_records.decode_outcomes(self._log.judged(AUDITED)))
        auctioneer = Auctioneer(ledger, self._link, reconciler.ready, rules, self._clock, self._record, auditor)
        return Office(ledger, auctioneer, reconciler, self._link, rules, auditor)

    async def _delete(self, host_id: str, uid: str) -> bool:
        request, timeout_s = flintlock.with_uid(uid), self._config.call_timeout_s
        return (await self._link.call(host_id, flintlock.DELETE, request, timeout_s)).code == Code.OK

    async def _face(self) -> None:
        """Whom our clients meet from now on."""
        self._front.turn(self._service or self._forward, leads=self._service is not None)
        await self._serving(self._front.serving and not self.stopping)

    async def _serving(self, yes: bool) -> None:
        for edge in self._edges:
            await edge.serving(yes)

    async def _stop_serving(self, grace_s: float) -> None:
        await asyncio.gather(*(edge.stop(grace_s) for edge in self._edges))

    async def _follow(self) -> None:
        """Know who leads, to pass clients on to it and to see when it dies."""
        bury: asyncio.Task[None] | None = None
        async for leader in self._store.leaders():
            if bury:
                bury.cancel()
            before, self._forward, bury = self._forward, None, None
            if leader and leader != self.leader:
                self._forward = LeaderForward(leader, self._tls, self._config.servers_ca, ((FORWARDED, self._proof),))
                bury = asyncio.create_task(self._bury(self._forward))
            elif leader is None and before:
                if self._last:
                    await self._last.close()
                self._last = self._front.stale = before  # the last leader knows best what was there
            self._link.follow(leader)
            await self._face()
            if before and before is not self._last:
                await before.close()

    async def _bury(self, forward: LeaderForward) -> None:
        """End a dead leader's term, rather than wait for its lease to run out."""
        await forward.dead()
        log.warning("the leader is dead", leader=forward.leader.id)
        with suppress(StoreError):
            await self._store.depose(forward.leader)

    def _record(self, story: Story) -> None:
        record = story.record
        name = f"{record.auction.namespace}/{record.auction.name}"
        names = [name, record.auction.name, *([record.uid] if record.uid else [])]
        self._log.append(record.auction.id, names, auction_records.encode(record))

    def _judged(self, outcome: Outcome) -> None:
        self._log.append_judged(auction_records.encode_outcome(outcome))

    def _gone(self, placement: Placement) -> None:
        gone = Gone(placement.id, placement.host, placement.demand, self._clock.now_s())
        self._log.append_gone(auction_records.encode_gone(gone))

    def _reachable(self, endpoint: str, port: int) -> str:
        host, _ = split_endpoint(endpoint)
        if self._config.advertise_host:
            host = self._config.advertise_host
        elif host in ("", "0.0.0.0", "::"):
            host = socket.gethostname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _serve_http(self, endpoint: str) -> str:
        host, port = split_endpoint(endpoint)
        config = self._config
        settings = uvicorn.Config(
            http_app(self._front, config.basic_auth_token, lambda: exposition(self._office)),
            host=host or "0.0.0.0",
            port=port,
            log_level="error",
            lifespan="off",
            ssl_certfile=config.tls_cert or None,
            ssl_keyfile=config.tls_key or None,
            ssl_ca_certs=config.tls_client_ca or None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if config.tls_client_validate else ssl.CERT_NONE,
        )
        settings.load()
        if settings.ssl:
            settings.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host or "0.0.0.0", port))
        except OSError as error:
            listener.close()
            raise occupied(endpoint, error) from None
        self._web = uvicorn.Server(settings)
        self._web.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # signals are until_stopped's
        self._tasks.append(asyncio.create_task(self._web.serve(sockets=[listener])))
        return self._reachable(endpoint, listener.getsockname()[1])


# An agent.


async def run_agent(config: AgentConfig) -> None:
    """Run an agent until SIGTERM or SIGINT."""
    logging_to_stderr()
    agent, dialler, daemon, machine = build_agent(config)
    handshakes_fail_in_one_line()
    containerd = Containerd(config.containerd, config.containerd_volume_ss, config.containerd_kernel_ss)

    async def work() -> None:
        if config.containerd:
            await look_at_images(agent, containerd)  # before the first bid
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            group.create_task(dialler.run())
            group.create_task(keep_looking(config, agent, containerd, machine))
            group.create_task(announce_ready(config, agent))

    try:
        await until_stopped(work(), lambda: agent.finish(GRACE_S))
    except* BilletError as errors:
        raise errors.exceptions[0] from None
    finally:
        await daemon.close()
        await containerd.close()


async def keep_looking(config: AgentConfig, agent: Agent, containerd: Containerd, machine: Machine) -> None:
    """Facts that others have to be asked for, again and again. One that cannot be had is said, and never made up."""
    if not config.containerd:
        agent.cannot_tell("containerd", "images that are unpacked: --containerd is empty; those seen booted count")
    while True:
        if config.thin_pool:
            await look_at_pool(agent, machine, config.thin_pool)
        await asyncio.sleep(LOOK_EVERY_S)
        if config.containerd:
            await look_at_images(agent, containerd)


async def look_at_images(agent: Agent, containerd: Containerd) -> None:
    """What containerd has unpacked."""
    try:
        agent.room.unpacked(await containerd.unpacked())
        agent.cannot_tell("containerd", "")
    except OSError as error:
        agent.room.unpacked(None)
        agent.cannot_tell("containerd", f"images that are unpacked: {error}; those seen booted count")


async def look_at_pool(agent: Agent, machine: Machine, pool: str) -> None:
    """The room that the thin pool has."""
    try:
        machine.pool_free_mib = await pool_free_mib(pool)
        agent.cannot_tell("pool", "")
    except OSError as error:
        machine.pool_free_mib = None
        agent.cannot_tell("pool", f"room for volumes in the thin pool {pool}: {error}")


def build_agent(config: AgentConfig) -> tuple[Agent, AgentDialler, GrpcFlintlock, Machine]:
    """One agent, not yet running."""
    credentials = None
    if config.flintlock_tls_ca or config.flintlock_tls_cert:
        credentials = tls.channel_credentials(
            config.flintlock_tls_ca, config.flintlock_tls_cert, config.flintlock_tls_key
        )
    authorization = auth.basic_header(config.flintlock_token) if config.flintlock_token else ""
    daemon = GrpcFlintlock(config.flintlock, credentials, authorization)
    machine = Machine(config.state_dir)
    host = host_of(config, machine.capacity(config.max_vms))
    machine.is_said_to_have(memory=config.memory_mib > 0, disk=config.disk_mib > 0)
    machine.has_pool = bool(config.thin_pool)
    known = machine.describe()
    for lack in known.lacks:
        log.warning("a fact cannot be had on this host", fact=lack)
    agent = Agent(
        host,
        daemon,
        flintlock,
        machine.measure,
        SystemClock(),
        config.report_interval_s,
        instance=secrets.token_hex(8),
        machine=known,
    )
    context = None if config.link_insecure else tls.client_context(config.link_ca)
    dialler = AgentDialler(agent, daemon, config.servers, config.link_token, context, version("billet"))
    return agent, dialler, daemon, machine


def host_of(config: AgentConfig, measured: Resources) -> Host:
    """This host: what was measured, what the operator says instead, and how much of it may be promised."""
    capacity = Resources(
        config.vcpu or measured.vcpu,
        config.memory_mib or measured.memory_mib,
        config.disk_mib or measured.disk_mib,
        config.max_vms,
    )
    allocatable = Resources(
        int((capacity.vcpu - config.reserve_vcpu) * config.cpu_ratio),
        int((capacity.memory_mib - config.reserve_memory_mib) * config.memory_ratio),
        int((capacity.disk_mib - config.reserve_disk_mib) * config.disk_ratio),
        capacity.vms,
    )
    if min(allocatable) < 1:
        left = ", ".join(f"{amount} {name}" for name, amount in allocatable._asdict().items())
        raise ConfigError(f"nothing of this host is left to offer ({left}): lower the --reserve-… settings")
    return Host(config.id, capacity, allocatable, config.zone, dict(config.labels), config.provider)


async def announce_ready(config: AgentConfig, agent: Agent) -> None:
    """Print the line that scripts wait for, once a server has let this agent in."""
    await agent.joined.wait()
    if config.json_ready:
        print(json.dumps({"host": config.id, "flintlock": config.flintlock}), flush=True)


# Both.


def new_id() -> str:
    """An id that no other has, in the form of flintlockd's own."""
    return str(ULID())


async def until_stopped(work: Coroutine[Any, Any, None], finish: Callable[[], Awaitable[None]]) -> None:
    """Do the work until it fails or a signal asks to stop; then finish what is in flight, and end it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
    log.info("stopping")
    await finish()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


async def listening(opening: Awaitable[int], endpoint: str) -> int:
    """The port that was opened, or a line that a person understands."""
    try:
        return await opening
    except (OSError, RuntimeError) as error:
        raise occupied(endpoint, error) from None


def occupied(endpoint: str, error: Exception) -> ConfigError:
    """A port that cannot be had."""
    number = error.errno if isinstance(error, OSError) else None
    why = os.strerror(number) if number else "it is in use, or not ours to use"
    return ConfigError(f"cannot listen on {endpoint}: {why}; stop what uses it, or choose another endpoint")


def logging_to_stderr() -> None:
    """Logs go to standard error; standard output is for what was asked for.

    A traceback shows no local variables: among them are clients' requests and headers, which hold secrets.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.set_exc_info,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S.%f", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
