"""The checks of a host: what flintlockd and its agent need."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from http.client import GONE

from picows import WSHandshakeError, WSListener

from billet.adapters.containerd import Containerd
from billet.adapters.flintlock import GrpcFlintlock
from billet.adapters.machine import KVM, MachineProbe
from billet.adapters.thinpool import pool_free_mib
from billet.config_agent import AgentConfig
from billet.core.errors import Code, ConfigError
from billet.core.plural import counted
from billet.doctor.checks import CONNECT_S, Check, Level, certificates, clock, port, secrets
from billet.link.dial import WebSocketDial
from billet.node_agent import host_of
from billet.reloading import Kept
from billet.settings import secret_files
from billet.wire import flintlock, newer, tls

NOBODY = "billet-doctor"  # a namespace: an empty list is all that is wanted


async def check_host(config: AgentConfig) -> AsyncIterator[Check]:
    """All checks, one after the other."""
    yield clock()
    yield _kvm()
    for check in _machine(config):
        yield check
    files = {
        "--link-ca": config.link_ca, "--link-cert": config.link_cert,
        "--flintlock-tls-ca": config.flintlock_tls_ca, "--flintlock-tls-cert": config.flintlock_tls_cert,
    }  # fmt: skip
    for check in [*certificates(files.items()), *secrets(secret_files(config))]:
        yield check
    async for check in _flintlockd(config):
        yield check
    yield await _containerd(config)
    yield await _thin_pool(config)
    if config.metrics_endpoint:
        yield port("--metrics-endpoint", config.metrics_endpoint)
    async for check in _servers(config):
        yield check


def _kvm() -> Check:
    if not KVM.exists():
        cure = (
            "enable virtualisation in the firmware (nested, if this is a virtual machine), and modprobe kvm_intel or"
        )
        return Check("KVM", Level.FAILED, f"{KVM} does not exist", f"{cure} kvm_amd")
    try:
        KVM.open("r+b", buffering=0).close()
    except OSError as error:
        cure = "flintlockd's user must be able to: add it to the group of /dev/kvm"
        return Check("KVM", Level.WARNING, f"this user cannot open {KVM}: {error.strerror}", cure)
    return Check("KVM", Level.OK, f"{KVM} can be opened")


def _machine(config: AgentConfig) -> list[Check]:
    machine = MachineProbe(config.state_dir)
    found = machine.describe().providers or ()
    if config.provider and config.provider not in found:
        cure = "install it where flintlockd finds it, or correct --provider"
        vmm = Check("VMM", Level.WARNING, f"{config.provider} is not on the PATH", cure)
    elif not found:
        cure = "install one where flintlockd finds it"
        vmm = Check("VMM", Level.WARNING, "neither firecracker nor cloud-hypervisor is on the PATH", cure)
    else:
        vmm = Check("VMM", Level.OK, ", ".join(found))
    if machine.stands_in:
        cure = "set --state-dir to that of flintlockd"
        disk = Check("state folder", Level.WARNING, f"flintlockd's {config.state_dir} does not exist", cure)
    else:
        disk = Check("state folder", Level.OK, config.state_dir)
    try:
        offer = host_of(config, machine.capacity(config.max_vms)).allocatable
    except ConfigError as error:
        return [vmm, disk, Check("capacity", Level.FAILED, error.text, "see `billet agent --help`, Capacity")]
    text = f"offers {offer.vcpu} vCPU, {offer.memory_mib} MiB memory, {offer.disk_mib} MiB disk"
    return [vmm, disk, Check("capacity", Level.OK, text)]


async def _flintlockd(config: AgentConfig) -> AsyncIterator[Check]:
    files = tls.ClientTls(config.flintlock_tls_ca, config.flintlock_tls_cert, config.flintlock_tls_key)
    try:
        daemon = GrpcFlintlock(config.flintlock, files if any(files) else None, config.flintlock_token)
    except ConfigError as error:
        yield Check("flintlockd", Level.FAILED, error.text, "correct --flintlock-tls-ca, -cert and -key")
        return
    try:
        reply = await daemon.call(flintlock.LIST, flintlock.list_request(NOBODY), CONNECT_S)
        if reply.code == Code.UNAUTHENTICATED:
            cure = "set --flintlock-token-file to flintlockd's --basic-auth-token"
            yield Check("flintlockd", Level.FAILED, f"{config.flintlock} refuses the token", cure)
        elif reply.code != Code.OK:
            cure = "start flintlockd, or set --flintlock to its --grpc-endpoint; with TLS, --flintlock-tls-ca"
            found = reply.text if config.flintlock in reply.text else f"{config.flintlock}: {reply.text}"
            yield Check("flintlockd", Level.FAILED, found, cure)
        else:
            yield Check("flintlockd", Level.OK, f"{config.flintlock} answers")
            yield await _version(daemon)
    finally:
        await daemon.close()


async def _version(daemon: GrpcFlintlock) -> Check:
    reply = await daemon.call(newer.SERVER_INFO, b"", CONNECT_S)
    version = newer.version_of(reply.payload) if reply.code == Code.OK else newer.UNKNOWN_VERSION
    if version == newer.UNKNOWN_VERSION:
        found = "older than 0.15, which does not say more; battery needs 0.15.2"
        return Check("flintlockd version", Level.WARNING, found, "upgrade flintlockd if your clients need that")
    return Check("flintlockd version", Level.OK, ".".join(map(str, version.numbers)))


async def _containerd(config: AgentConfig) -> Check:
    if not config.containerd:
        return Check("containerd", Level.SKIPPED, "--containerd is empty")
    snapshotters = config.containerd_volume_ss, config.containerd_kernel_ss
    containerd = Containerd(config.containerd, *snapshotters, config.containerd_namespace)
    try:
        images = len(await containerd.unpacked())
    except OSError as error:
        cure = "start containerd, set --containerd to its socket, and run the agent as a user who may open it"
        return Check("containerd", Level.FAILED, str(error), cure)
    finally:
        await containerd.close()
    return Check("containerd", Level.OK, f"{counted(images, 'unpacked image')} in {config.containerd_namespace}")


async def _thin_pool(config: AgentConfig) -> Check:
    if not config.thin_pool:
        return Check("thin pool", Level.SKIPPED, "--thin-pool is empty; the disk of --state-dir is measured instead")
    try:
        free_mib = await pool_free_mib(config.thin_pool)
    except OSError as error:
        cure = "run this as root, install dmsetup, and set --thin-pool to a pool that `dmsetup ls` shows"
        return Check("thin pool", Level.FAILED, f"{config.thin_pool}: {error}", cure)
    if free_mib < config.reserve_disk_mib:
        cure = "extend the pool, or delete microVMs and images"
        return Check("thin pool", Level.FAILED, f"{config.thin_pool} has only {free_mib} MiB free", cure)
    return Check("thin pool", Level.OK, f"{config.thin_pool} has {free_mib} MiB free")


async def _servers(config: AgentConfig) -> AsyncIterator[Check]:
    """Whether each server takes this agent's link token, and shows a certificate of --link-ca."""
    context: Kept[ssl.SSLContext] | None = None
    if not config.link_insecure:
        try:
            context = tls.kept_client(config.link_ca, config.link_cert, config.link_key)
        except ConfigError as error:
            yield Check("servers", Level.FAILED, error.text, "correct --link-ca, --link-cert and --link-key")
            return
    dial = WebSocketDial(config.link_token, context)
    for check in await asyncio.gather(*(_server(dial, server) for server in config.servers)):
        yield check


async def _server(dial: WebSocketDial, server: str) -> Check:
    try:
        async with asyncio.timeout(CONNECT_S):
            await dial(server, "/stream/doctor", WSListener())
    except TimeoutError:
        return Check(f"server {server}", Level.FAILED, f"does not answer within {CONNECT_S:g} s",
                     "check the network and the firewall between this host and the server's link port")  # fmt: skip
    except OSError as error:
        cause = error.__cause__
        if isinstance(cause, WSHandshakeError) and cause.response and cause.response.status == GONE:
            return Check(f"server {server}", Level.OK, "accepts this host's link token")  # there is no such stream
        found, _, cure = str(error).partition(": ")
        return Check(f"server {server}", Level.FAILED, found, cure or "set --server to a server's --link-endpoint")
    return Check(f"server {server}", Level.OK, "accepts connections")
