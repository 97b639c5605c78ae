"""HOW an agent is put together: the only place that builds its objects."""

from __future__ import annotations

import asyncio
import json
import secrets
from importlib.metadata import version

import structlog

from billet.adapters.containerd import Containerd
from billet.adapters.flintlock import GrpcFlintlock
from billet.adapters.log_throttle import throttle_tls_errors
from billet.adapters.machine import MachineProbe
from billet.adapters.thinpool import pool_free_mib
from billet.config_agent import AgentConfig
from billet.core.errors import BilletError, ConfigError
from billet.core.model import Host, Resources
from billet.host.agent import Agent
from billet.link.agent import AgentDialler
from billet.link.dial import WebSocketDial
from billet.process import GRACE_S, SystemClock, logging_to_stderr, until_stopped
from billet.wire import auth, flintlock, tls

log = structlog.get_logger()

LOOK_EVERY_S = 5.0  # how often containerd and the thin pool are asked


async def run_agent(config: AgentConfig) -> None:
    """Run an agent until SIGTERM or SIGINT."""
    logging_to_stderr()
    agent, dialler, daemon, machine = build_agent(config)
    throttle_tls_errors()
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


async def keep_looking(config: AgentConfig, agent: Agent, containerd: Containerd, machine: MachineProbe) -> None:
    """Poll containerd and the thin pool. A metric that is unavailable is reported as such, never estimated."""
    if not config.containerd:
        agent.set_unavailable(
            "containerd", "images that are unpacked: --containerd is empty; those seen booted count"
        )
    while True:
        if config.thin_pool:
            await look_at_pool(agent, machine, config.thin_pool)
        await asyncio.sleep(LOOK_EVERY_S)
        if config.containerd:
            await look_at_images(agent, containerd)


async def look_at_images(agent: Agent, containerd: Containerd) -> None:
    """What containerd has unpacked."""
    try:
        agent.boot_queue.unpacked(await containerd.unpacked())
        agent.set_unavailable("containerd", "")
    except OSError as error:
        agent.boot_queue.unpacked(None)
        agent.set_unavailable("containerd", f"images that are unpacked: {error}; those seen booted count")


async def look_at_pool(agent: Agent, machine: MachineProbe, pool: str) -> None:
    """The room that the thin pool has."""
    try:
        machine.pool_free_mib = await pool_free_mib(pool)
        agent.set_unavailable("pool", "")
    except OSError as error:
        machine.pool_free_mib = None
        agent.set_unavailable("pool", f"room for volumes in the thin pool {pool}: {error}")


def build_agent(config: AgentConfig) -> tuple[Agent, AgentDialler, GrpcFlintlock, MachineProbe]:
    """One agent, not yet running."""
    credentials = None
    if config.flintlock_tls_ca or config.flintlock_tls_cert:
        credentials = tls.channel_credentials(
            config.flintlock_tls_ca, config.flintlock_tls_cert, config.flintlock_tls_key
        )
    authorization = auth.basic_header(config.flintlock_token) if config.flintlock_token else ""
    daemon = GrpcFlintlock(config.flintlock, credentials, authorization)
    machine = MachineProbe(config.state_dir)
    host = host_of(config, machine.capacity(config.max_vms))
    if machine.stands_in and not config.disk_mib:
        log.warning(
            "--state-dir is not there; the disk is measured on the file system of the nearest folder above it",
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
    )
    context = None if config.link_insecure else tls.client_context(config.link_ca)
    dial = WebSocketDial(config.link_token, context)
    dialler = AgentDialler(agent, daemon, config.servers, dial, version("billet"))
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
