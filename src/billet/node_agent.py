"""Builds the objects of an agent and runs them. Nothing else constructs them."""

from __future__ import annotations

import asyncio
import json
import secrets
from base64 import b64encode
from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from billet.adapters.containerd import Containerd
from billet.adapters.flintlock import GrpcFlintlock
from billet.adapters.identity import StateFolder
from billet.adapters.listener import DaemonSocket
from billet.adapters.machine import MachineProbe
from billet.adapters.thinpool import pool_free_mib
from billet.adapters.tls_errors import throttle_tls_errors
from billet.adapters.vmm import VmmProbe
from billet.at_rest import exposed
from billet.config_agent import AgentConfig
from billet.core.errors import ConfigError
from billet.core.identity import fingerprint
from billet.core.model import Host, Resources
from billet.host.agent import Agent
from billet.link.agent import AgentDialler
from billet.link.dial import WebSocketDial
from billet.logs import log_to_stderr
from billet.ports import Identity
from billet.process import GRACE_S, SystemClock, until_stopped
from billet.settings import secret_files, split_endpoint
from billet.wire import flintlock, tls

if TYPE_CHECKING:
    from billet.api.http_server import HttpServer

log = structlog.get_logger()

FALLBACK = "counting the images that this agent has seen booted"
POLL_EVERY_S = 5.0  # how often containerd and the thin pool are asked


async def run_agent(config: AgentConfig) -> None:
    """Run an agent until SIGTERM or SIGINT, then finish the orders in hand."""
    log_to_stderr(config.log_format, config.log_level)
    state = StateFolder(config.state)
    identity = state.identity(config.id, config.flintlock)
    key = fingerprint(b64encode(identity.public_key).decode())
    log.info("agent starts", host=config.id, key=key, state=str(state.path))
    for line in exposed([*secret_files(config), *state.path.glob("*.key")]):
        log.warning("file open to others", problem=line)
    agent, dialler, daemon, machine = build_agent(config, identity)
    throttle_tls_errors()
    snapshotters = config.containerd_volume_ss, config.containerd_kernel_ss
    containerd = Containerd(config.containerd, *snapshotters, config.containerd_namespace)

    port = await serve_metrics(config, agent) if config.metrics_endpoint else None

    async def work() -> None:
        if config.containerd:
            await update_images(agent, containerd)  # before the first bid
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            group.create_task(dialler.run())
            group.create_task(poll_host(config, agent, containerd, machine))
            group.create_task(announce_ready(config, agent))

    try:
        await until_stopped(work(), lambda: agent.finish(GRACE_S))
    finally:
        if port:
            await port.close()
        await daemon.close()
        await containerd.close()
        state.close()


async def serve_metrics(config: AgentConfig, agent: Agent) -> HttpServer:
    """Serve the agent's HTTP port. Raises ConfigError."""
    from billet.api.agent_metrics import agent_app  # late: most agents serve none
    from billet.api.http_server import HttpServer

    server = HttpServer(agent_app(agent, config.metrics_token, version("billet")), tls.TlsSettings(insecure=True))
    host, port = split_endpoint(config.metrics_endpoint)
    try:
        port = await server.listen(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.metrics_endpoint}: {error.strerror}") from None
    log.info("metrics are served", endpoint=f"{host}:{port}")
    return server


async def poll_host(config: AgentConfig, agent: Agent, containerd: Containerd, machine: MachineProbe) -> None:
    """Poll containerd and the thin pool. A metric that is unavailable is reported as such, and never estimated."""
    if not config.containerd:
        agent.set_unavailable("containerd", f"unpacked images: --containerd is empty; {FALLBACK}")
    while True:
        if config.thin_pool:
            await update_pool(agent, machine, config.thin_pool)
        await asyncio.sleep(POLL_EVERY_S)
        if config.containerd:
            await update_images(agent, containerd)


async def update_images(agent: Agent, containerd: Containerd) -> None:
    """Read from containerd which images are unpacked."""
    try:
        agent.boot_queue.unpacked(await containerd.unpacked())
        agent.set_unavailable("containerd", "")
    except OSError as error:
        agent.boot_queue.unpacked(None)
        agent.set_unavailable("containerd", f"unpacked images: {error}; {FALLBACK}")


async def update_pool(agent: Agent, machine: MachineProbe, pool: str) -> None:
    """Read the free space of the thin pool."""
    try:
        machine.pool_free_mib = await pool_free_mib(pool)
        agent.set_unavailable("pool", "")
    except OSError as error:
        machine.pool_free_mib = None
        agent.set_unavailable("pool", f"free space of the thin pool {pool}: {error}")


def build_agent(config: AgentConfig, identity: Identity) -> tuple[Agent, AgentDialler, GrpcFlintlock, MachineProbe]:
    """Construct one agent without starting it."""
    files = tls.ClientTls(config.flintlock_tls_ca, config.flintlock_tls_cert, config.flintlock_tls_key)
    daemon = GrpcFlintlock(config.flintlock, files if any(files) else None, config.flintlock_token)
    machine = MachineProbe(config.state_dir)
    host = host_of(config, machine.capacity(config.max_vms))
    if machine.stands_in and not config.disk_mib:
        log.warning(
            "--state-dir does not exist; measuring the file system of the nearest parent folder",
            state_dir=config.state_dir,
            measured=str(machine.stands_in),
        )
    machine.is_said_to_have(memory=config.memory_mib > 0, disk=config.disk_mib > 0)
    machine.has_pool = bool(config.thin_pool)
    known = machine.describe()
    for lack in known.lacks:
        log.warning("metric unavailable on this host", host=host.id, metric=lack)
    agent = Agent(
        host,
        daemon,
        flintlock,
        machine.measure,
        SystemClock(),
        config.report_interval_s,
        instance=secrets.token_hex(8),
        machine=known,
        daemon_id=DaemonSocket(*split_endpoint(config.flintlock)),
        namespace=config.containerd_namespace,
        look=VmmProbe(config.state_dir).look,
    )
    files = tls.ClientTls(config.link_ca, config.link_cert, config.link_key)
    dial = WebSocketDial(config.link_token, None if config.link_insecure else tls.kept_client(*files))
    dialler = AgentDialler(agent, daemon, config.servers, dial, version("billet"), identity)
    return agent, dialler, daemon, machine


def host_of(config: AgentConfig, measured: Resources) -> Host:
    """This host's record: its capacity, measured or set, and the share that may be allocated.

    Raises ConfigError if nothing is left after the reserves.
    """
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
        rest = ", ".join(f"{amount} {name}" for name, amount in allocatable._asdict().items())
        raise ConfigError(f"this host has nothing left to offer ({rest}); lower the --reserve-… settings")
    return Host(config.id, capacity, allocatable, config.zone, dict(config.labels), config.provider)


async def announce_ready(config: AgentConfig, agent: Agent) -> None:
    """Print the --json-ready line once a server has accepted this agent."""
    await agent.joined.wait()
    if config.json_ready:
        print(json.dumps({"host": config.id, "flintlock": config.flintlock}), flush=True)
