"""HOW is a server put together? The only place that builds its objects."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from ulid import ULID

from billet.accepting import raise_descriptor_limit
from billet.adapters.audit_file import AuditFile
from billet.adapters.forward import LeaderForward
from billet.api import audit_log
from billet.api.authentication import Authenticator
from billet.api.authorization import Authorized
from billet.api.flintlock_service import FlintlockService
from billet.api.grpc_server import GrpcServer, Refused
from billet.api.http import http_app
from billet.api.http_server import HttpServer
from billet.api.leader_proxy import LeaderProxy
from billet.api.meters import MeteredArchive, Meters
from billet.api.metrics import exposition
from billet.api.record_exchange import Exchanging, RecordCopier, RecordExchange
from billet.api.recorded import Growth
from billet.api.server_metrics import server_collectors
from billet.api.servers import Secrets
from billet.api.stale_reads import StaleReads
from billet.api.status import WithStatus
from billet.at_rest import RECORDS, exposed, server_files
from billet.config import ServerConfig
from billet.core.errors import ConfigError, StoreUnreachable
from billet.leader.delete_guard import DeleteGuard
from billet.leader.leadership import LeaderSettings, Leadership, open_leadership
from billet.leader.ledger import Ledger
from billet.leader.rules import Rules
from billet.leader.server import Factories, Server, Service
from billet.link.server import LinkServer
from billet.logs import log_to_stderr
from billet.ports import Backend, Leader
from billet.process import GRACE_S, SystemClock, until_stopped
from billet.settings import secret_files, split_endpoint
from billet.store.archive import LogArchive
from billet.store.auction_log import AuctionLog
from billet.store.open import open_store
from billet.store_watch import StoreWatch
from billet.wire import tls
from billet.wire.headers import FORWARDED, token_of

log = structlog.get_logger()

VERSION = version("billet")


async def run_server(config: ServerConfig) -> None:
    """Run a server until SIGTERM or SIGINT. Raises BilletError, with one line, when it cannot start or continue."""
    log_to_stderr(config.log_format, config.log_level)
    raise_descriptor_limit()
    node = Node(config)
    try:
        await node.start()
        if config.json_ready:
            print(json.dumps(node.endpoints()), flush=True)
        await until_stopped(node.run(), node.finish)
    finally:
        await node.close()


class Node:
    """One `billet server`: the ports it listens on, its store and link, and the Server that they belong to."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._clock = SystemClock()
        self._store = open_store(
            config.store, config.data_dir, config.etcd_tls_ca, config.etcd_tls_cert, config.etcd_tls_key,
            config.etcd_user, config.etcd_password,
        )  # fmt: skip
        self._log = AuctionLog(Path(config.data_dir) / RECORDS, keep=config.record_auctions)
        self._growth = Growth()
        exchange = RecordExchange(self._log, self._growth)
        self._copier = RecordCopier(exchange, self._connect)
        self._meters = Meters()
        self._store.group.heard = self._meters.transacted
        self._link = LinkServer(
            config.link_token, config.bid_wait_ms / 1e3, config.bid_wait_max_ms / 1e3, bool(config.link_client_ca)
        )
        self._secrets = Secrets(config.link_token, self._clock.monotonic_s)
        token = partial(token_of, new_id=new_id)
        self._proxy = LeaderProxy(token, config.hold_s, config.creates)
        loss = partial(audit_log.lost, config.id, self._clock)
        path = config.audit_path
        self._audit_file = AuditFile(path, loss) if path else None
        self._trail = audit_log.Trail(config.id, self._audit_file.append if self._audit_file else None, self._clock)
        audited = audit_log.Audited(Exchanging(self._proxy, exchange), self._trail, token)
        self._tls = tls.TlsSettings(
            config.insecure, config.tls_cert, config.tls_key, config.tls_client_validate, config.tls_client_ca
        )
        self._callers = Authenticator(self._store.credentials, config.basic_auth_token, self._clock)
        self._reading: list[asyncio.Task[None]] = []  # of the store, for as long as this server runs
        refused = self._trail.refused
        self._watch = StoreWatch(self._store, self._clock)
        calls = WithStatus(audited, self._watch, config.id, VERSION)
        self._listeners = GrpcListeners(config, calls, self._callers, self._secrets.accepts, self._tls, refused)
        app = http_app(calls, self._callers, self._metrics, refused, self._watch.unready, VERSION)
        self._http = HttpServer(app, self._tls)
        # Its own address follows in `start`: a port of 0 is known only once it is bound.
        factories = Factories(self._leadership, self._service, self._stale_reads, self._forward)
        self._server = Server(
            Leader(config.id, "", ""), self._store, self._link, self._proxy, self._listeners, self._clock, factories
        )
        self._endpoints: dict[str, Any] = {}

    async def start(self) -> None:
        """Bind every port, and open the store if it can be reached. Raises ConfigError, StoreError."""
        config = self._config
        with suppress(StoreUnreachable):  # the server opens it when it can be reached
            await self._server.open_store()
            await self._callers.read()
        self._reading = [asyncio.create_task(self._callers.run()), asyncio.create_task(self._watch.run())]
        loop = asyncio.get_running_loop()

        def grown() -> None:
            loop.call_soon_threadsafe(self._growth.send)

        self._log.wrote = grown
        grpc_ports = await self._listeners.listen()
        link_host, link_port = split_endpoint(config.link_endpoint)
        context = None
        if not config.link_insecure:
            self._link_tls = tls.kept_server(config.link_tls_cert, config.link_tls_key, config.link_client_ca)
            self._link_tls.changed, context = self._link.renew_tls, self._link_tls.value
        link_port = await listening(self._link.listen(link_host, link_port, context), config.link_endpoint)
        http = await self._listen_http(config.http_endpoint) if config.http_endpoint else ""
        me = self._server.me = Leader(
            config.id,
            reachable(config.grpc_endpoint, grpc_ports[0], config.advertise_host),
            reachable(config.link_endpoint, link_port, config.advertise_host),
            self._secrets.own,
            http,
            VERSION,
        )
        zones = [
            (zone, reachable(endpoint, port, config.advertise_host))
            for (zone, endpoint), port in zip(config.zones, grpc_ports[1:], strict=True)
        ]
        self._endpoints = {"grpc": me.grpc, "http": http, "link": me.link, **({"zones": zones} if zones else {})}
        log.info("server ready", store=config.store, **self._endpoints)
        audit = [Path(config.audit_path)] if config.audit_path else []
        for line in exposed([*server_files(config.store, config.data_dir), *audit, *secret_files(config)]):
            log.warning("file open to others", problem=line)

    def endpoints(self) -> dict[str, Any]:
        """Where this server listens: grpc, http and link as HOST:PORT, and the zones' own gRPC endpoints, if any."""
        return self._endpoints

    @property
    def leads(self) -> bool:
        """Whether this server leads now."""
        return self._server.leadership is not None

    async def run(self) -> None:
        """Lead when elected, and follow other leaders, until stopped."""
        await self._server.run()

    async def finish(self) -> None:
        """Accept no new calls, and complete those in flight."""
        self._growth.stop()
        await self._server.finish(GRACE_S)

    async def close(self) -> None:
        """Close everything that was opened."""
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        await self._http.close()
        await self._copier.close()
        await self._server.close()
        self._log.wrote = lambda: None
        self._log.close()
        self._trail.close()
        if self._audit_file:
            self._audit_file.close()

    async def _listen_http(self, endpoint: str) -> str:
        host, port = split_endpoint(endpoint)
        port = await listening(self._http.listen(host, port), endpoint)
        return reachable(endpoint, port, self._config.advertise_host)

    def _metrics(self) -> bytes:
        leadership, serving = self._server.leadership, self._proxy.serving
        read = server_collectors(self._watch, leadership, serving, VERSION, self._link.connections)
        return exposition(leadership, self._callers.age_s, self._proxy.slots, [*read, self._meters])

    # What one term, or one leader, needs (leader.server.Factories).

    def _leadership(self, ledger: Ledger) -> Leadership:
        self._secrets.leads()
        self._copier.follow(None)
        archive = MeteredArchive(LogArchive(self._log, ledger.term.number), self._meters)
        leadership = open_leadership(ledger, self._link, self._clock, leader_settings(self._config), archive)
        leadership.reconciler.fenced_itself = self._trail.fenced
        leadership.chronicle.store_trouble = lambda: self._watch.trouble
        leadership.reconciler.corrected = self._meters.corrected
        return leadership

    def _service(self, leadership: Leadership) -> Authorized:
        service = FlintlockService(leadership, self._log, self._config.id, self._growth)
        guard = DeleteGuard(self._config.deletes_per_minute, self._clock)
        return Authorized(service, leadership.ledger, self._callers, self._clock, guard)

    def _stale_reads(self, service: Service, ended_s: float) -> StaleReads:
        return StaleReads(service, ended_s, self._clock.monotonic_s)

    def _forward(self, leader: Leader) -> LeaderForward:
        if self._config.record_auctions:
            self._copier.follow(leader)
        return self._connect(leader)

    def _connect(self, leader: Leader) -> LeaderForward:
        return LeaderForward(
            leader, self._tls, self._config.servers_ca, ((FORWARDED, self._secrets.to_show(leader)),)
        )


class GrpcListeners:
    """leader.server.Listeners: the gRPC port for all zones, and one for each zone that has its own endpoint."""

    def __init__(
        self,
        config: ServerConfig,
        backend: Backend,
        callers: Authenticator,
        is_server: Callable[[str], bool],
        settings: tls.TlsSettings,
        refused: Refused,
    ) -> None:
        self._settings = settings
        self._servers = [
            (endpoint, GrpcServer(backend, callers, is_server, zone, refused))
            for zone, endpoint in (("", config.grpc_endpoint), *config.zones)
        ]

    async def listen(self) -> list[int]:
        """Bind all endpoints; returns their ports. Raises ConfigError."""
        return [
            await listening(server.listen(endpoint, self._settings), endpoint) for endpoint, server in self._servers
        ]

    async def serving(self, yes: bool) -> None:
        """See Listeners."""
        for _, server in self._servers:
            server.serving(yes)

    async def stop(self, grace_s: float) -> None:
        """See Listeners."""
        await asyncio.gather(*(server.stop(grace_s) for _, server in self._servers))


def leader_settings(config: ServerConfig) -> LeaderSettings:
    """The settings that apply while this server leads."""
    rules = Rules(
        config.weights,
        config.ask_hosts,
        config.ask_random,
        config.call_for_bids,
        config.create_timeout_s,
        config.call_timeout_s,
        config.shadow_weights,
        quotas=config.quota_of,
        suspect_share=config.max_suspect_percent / 100,
        creates=config.creates,
    )
    return LeaderSettings(rules, config.resolve_after_s, config.fence_after_s, config.join == "approve")


def new_id() -> str:
    """A unique id in the form of flintlockd's own."""
    return str(ULID())


def reachable(endpoint: str, port: int, advertised: str) -> str:
    """HOST:PORT by which others reach an endpoint: the advertised host, else its own, else this machine's name."""
    host, _ = split_endpoint(endpoint)
    if advertised:
        host = advertised
    elif host in ("", "0.0.0.0", "::"):
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def listening(binding: Awaitable[int], endpoint: str) -> int:
    """The port that was bound. Raises ConfigError, with the endpoint and the reason, when it could not be."""
    try:
        return await binding
    except (OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number) if number else "the address is in use or not permitted"
        raise ConfigError(
            f"cannot listen on {endpoint}: {why}; stop the program that uses it, or choose another endpoint"
        ) from None
