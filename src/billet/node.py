"""HOW a server is put together: the only place that builds its objects."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from ulid import ULID

from billet.adapters.forward import LeaderForward
from billet.api.flintlock_service import FlintlockService
from billet.api.grpc_server import GrpcServer
from billet.api.http import http_app
from billet.api.leader_proxy import LeaderProxy
from billet.api.metrics import exposition
from billet.api.stale_reads import StaleReads
from billet.config import ServerConfig
from billet.core.accuracy import Outcome
from billet.core.errors import BilletError, Code, ConfigError, StoreError, StoreUnreachable
from billet.core.model import Placement
from billet.core.questions.record import Gone
from billet.leader.accuracy import AccuracyTracker, taken_up
from billet.leader.auctioneer import Auctioneer, Rules
from billet.leader.election_loop import next_term, until_over
from billet.leader.leadership import Leadership
from billet.leader.ledger import Ledger, elected
from billet.leader.reconciler import Reconciler
from billet.leader.recorder import AuctionRecorder
from billet.link.server import LinkServer, LinkTerm
from billet.ports import Leader, Store
from billet.process import GRACE_S, SystemClock, logging_to_stderr, until_stopped
from billet.settings import split_endpoint
from billet.store.auction_log import AuctionLog
from billet.store.open import open_store
from billet.wire import auction_records, flintlock, tls
from billet.wire.headers import FORWARDED, proof, token_of

log = structlog.get_logger()

KEEP_LOST_S = 24 * 3600.0  # how long a LOST microVM is shown


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
        self._proxy = LeaderProxy(lambda request, metadata: token_of(request, metadata, new_id), config.hold_s)
        # The first is for all zones, the others stand for one each.
        self._grpc_servers = [
            GrpcServer(self._proxy, config.basic_auth_token, self._proof, zone)
            for zone in ("", *(zone for zone, _ in config.zones))
        ]
        self._tls = tls.TlsSettings(
            config.insecure, config.tls_cert, config.tls_key, config.tls_client_validate, config.tls_client_ca
        )
        self._store_open = False
        self._ledger: Ledger | None = None  # while this server leads
        self._service: FlintlockService | None = None
        self._leadership: Leadership | None = None
        self._forward: LeaderForward | None = None  # while another one does
        self._last: LeaderForward | None = None  # to the last one, while nobody does
        self.stopping = False
        self._web: uvicorn.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open everything that this server listens on and needs."""
        config = self._config
        with suppress(StoreUnreachable):  # it may come later; `_lead` says what it waits for
            await self._open_store()
        grpc_port = await listening(
            self._grpc_servers[0].listen(config.grpc_endpoint, self._tls), config.grpc_endpoint
        )
        for grpc_server, (zone, endpoint) in zip(self._grpc_servers[1:], config.zones, strict=True):
            port = await listening(grpc_server.listen(endpoint, self._tls), endpoint)
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
        self._proxy.trouble(f"no server leads: {error.text}")

    async def _lead(self) -> None:
        """Campaign, lead, and campaign again, until this server stops."""
        with suppress(StoreError):
            # Should our address lead already, that is the process before this one, which was killed.
            await self._store.depose(self.leader)
        while ledger := await next_term(self):
            leadership = self._open_leadership(ledger)
            service = FlintlockService(leadership, self._log, self._config.id)
            self._leadership = leadership
            self._ledger, self._service = ledger, service
            self._link.begin(
                LinkTerm(
                    ledger.term.number,
                    self._config.weights,
                    leadership.accuracy,
                    leadership.rules.arrive_s,
                    ledger.end,
                )
            )
            await self._route()
            state = ledger.state
            log.info("leading", term=ledger.term.number, hosts=len(state.hosts), microvms=len(state.placements))
            try:
                await until_over(self._store, ledger, leadership.reconciler)
            finally:
                self._ledger = self._service = self._leadership = None
                self._proxy.stale = self._proxy.own_stale = StaleReads(
                    service, self._clock.monotonic_s(), self._clock.monotonic_s
                )
                self._proxy.trouble(f"no server leads: {ledger.why}")
                await self._route()
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

    def _open_leadership(self, ledger: Ledger) -> Leadership:
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
            ledger, self._clock, config.resolve_after_s, KEEP_LOST_S, self._delete, config.fence_after_s
        )
        accuracy = AccuracyTracker(ledger.state, self._clock, reconciler, self._judged)
        each = taken_up(len(ledger.state.hosts))
        for host_id in ledger.state.hosts:
            accuracy.restore(host_id, auction_records.decode_outcomes(self._log.judged(host_id, each)))
        auctioneer = Auctioneer(ledger, self._link, reconciler.ready, rules, self._clock, self._record, accuracy)
        return Leadership(ledger, auctioneer, reconciler, self._link, rules, accuracy)

    async def _delete(self, host_id: str, uid: str) -> bool:
        request, timeout_s = flintlock.with_uid(uid), self._config.call_timeout_s
        return (await self._link.call(host_id, flintlock.DELETE, request, timeout_s)).code == Code.OK

    async def _route(self) -> None:
        """Whom our clients meet from now on."""
        self._proxy.route(self._service or self._forward, leads=self._service is not None)
        await self._serving(self._proxy.serving and not self.stopping)

    async def _serving(self, yes: bool) -> None:
        for grpc_server in self._grpc_servers:
            await grpc_server.serving(yes)

    async def _stop_serving(self, grace_s: float) -> None:
        await asyncio.gather(*(grpc_server.stop(grace_s) for grpc_server in self._grpc_servers))

    async def _follow(self) -> None:
        """Know who leads, to pass clients on to it and to see when it dies."""
        watching: asyncio.Task[None] | None = None
        async for leader in self._store.leaders():
            if watching:
                watching.cancel()
            before, self._forward, watching = self._forward, None, None
            if leader and leader != self.leader:
                self._forward = LeaderForward(leader, self._tls, self._config.servers_ca, ((FORWARDED, self._proof),))
                watching = asyncio.create_task(self._watch_leader(self._forward))
            elif leader is None and before:
                if self._last:
                    await self._last.close()
                self._last = self._proxy.stale = before  # the last leader knows best what was there
            self._link.follow(leader)
            await self._route()
            if before and before is not self._last:
                await before.close()

    async def _watch_leader(self, forward: LeaderForward) -> None:
        """End a dead leader's term, rather than wait for its lease to run out."""
        await forward.dead()
        log.warning("the leader is dead", leader=forward.leader.id)
        with suppress(StoreError):
            await self._store.depose(forward.leader)

    def _record(self, recorder: AuctionRecorder) -> None:
        record = recorder.record
        name = f"{record.auction.namespace}/{record.auction.name}"
        names = [name, record.auction.name, *([record.uid] if record.uid else [])]
        self._log.append(record.auction.id, names, auction_records.encode(record))

    def _judged(self, outcome: Outcome) -> None:
        self._log.append_judged(outcome.host, auction_records.encode_outcome(outcome))

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
            http_app(self._proxy, config.basic_auth_token, lambda: exposition(self._leadership)),
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


def new_id() -> str:
    """An id that no other has, in the form of flintlockd's own."""
    return str(ULID())


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
