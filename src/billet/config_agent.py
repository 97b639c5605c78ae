"""WHAT can an operator set on an agent? See config.py, which has the server's."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from billet.core.errors import ConfigError
from billet.settings import LINK, MACHINE, MISC, SOUTH, check_fields, check_pair, setting


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that can be set on a `billet agent`, one beside each flintlockd."""

    id: str = setting("", MISC, "This host's name in the fleet; never reuse one. Empty = the host name.")
    zone: str = setting(
        "",
        MISC,
        "Failure domain of this host: requests may wish for it, and groups are spread over"
        " them. Empty = a failure domain of its own.",
    )
    labels: Mapping[str, str] = setting(
        {},
        MISC,
        "Label KEY=VALUE of this host, free to choose; requests may require or avoid it. May be given again.",
    )
    json_ready: bool = setting(False, MISC, "Print one JSON line once a server has let this agent in.")

    servers: tuple[str, ...] = setting(
        ("localhost:9095",), LINK, "A server's link HOST:PORT. Give each server; repeat, or use commas.",
        kind="endpoints",
    )  # fmt: skip
    link_token: str = setting("", LINK, "The servers' --link-token.", kind="secret")
    link_ca: str = setting("", LINK, "PEM file: the CA of the servers' link certificates.", kind="file")
    link_insecure: bool = setting(False, LINK, "No TLS on the link, as on the servers.")
    report_interval_s: float = setting(
        2.0, LINK, "Seconds between two reports; changes are reported at once. Less = fresher pressure, more work.",
        low=0.1, high=60,
    )  # fmt: skip

    flintlock: str = setting("localhost:9090", SOUTH, "flintlockd's gRPC endpoint.", kind="endpoint")
    flintlock_tls_ca: str = setting(
        "", SOUTH, "PEM file: CA of flintlockd's certificate. Empty = no TLS.", kind="file"
    )
    flintlock_tls_cert: str = setting("", SOUTH, "PEM file: client certificate for flintlockd (mTLS).", kind="file")
    flintlock_tls_key: str = setting("", SOUTH, "PEM file: its private key.", kind="file")
    flintlock_token: str = setting("", SOUTH, "flintlockd's --basic-auth-token. Empty = none.", kind="secret")
    provider: str = setting(
        "", SOUTH, "flintlockd's --default-provider. Empty = not said: flintlockd itself decides, and may refuse"
        " a macvtap or virtiofs microVM that another host would have taken.",
    )  # fmt: skip
    state_dir: str = setting(
        "/var/lib/flintlock/vm", SOUTH, "flintlockd's --state-dir; its file system is the disk that is measured."
    )

    containerd: str = setting(
        "/run/containerd/containerd.sock", SOUTH, "flintlockd's --containerd-socket: which images are unpacked is"
        " asked there. Empty = not asked: only images that this agent has seen booted count as there.",
    )  # fmt: skip
    containerd_volume_ss: str = setting("devmapper", SOUTH, "The snapshotter into which volumes are unpacked.")
    containerd_kernel_ss: str = setting(
        "native", SOUTH, "flintlockd's --containerd-kernel-ss, into which kernels are unpacked."
    )
    thin_pool: str = setting(
        "", SOUTH, "Name of the thin pool of containerd's devmapper snapshotter; its free room is measured (with"
        " dmsetup, which needs root). Empty = the file system of --state-dir is measured instead.",
    )  # fmt: skip

    vcpu: int = setting(0, MACHINE, "vCPUs of this host. 0 = its CPUs, measured.", low=0, high=65_536)
    memory_mib: int = setting(
        0, MACHINE, "Memory. 0 = all, measured, and what is truly free of it presses on bids.", low=0
    )
    disk_mib: int = setting(
        0, MACHINE, "Disk for microVMs. 0 = the file system of --state-dir, measured as memory is.", low=0
    )
    max_vms: int = setting(
        1000, MACHINE, "Most microVMs on this host. One flintlockd boots them one after another, so that a high"
        " number is no use on a host that is to come back quickly.", low=1, high=100_000,
    )  # fmt: skip
    reserve_vcpu: int = setting(0, MACHINE, "vCPUs kept for the machine itself. 0 = none.", low=0)
    reserve_memory_mib: int = setting(1024, MACHINE, "Memory kept for the machine itself. 0 = none.", low=0)
    reserve_disk_mib: int = setting(1024, MACHINE, "Disk kept for the machine itself. 0 = none.", low=0)
    cpu_ratio: float = setting(
        1.0, MACHINE, "vCPUs promised for each CPU. 1 = none twice, so that the numbers on screen are the machine's;"
        " 4 is usual where guests are mostly idle, and slows them all when they are not.", low=0.01, high=100,
    )  # fmt: skip
    memory_ratio: float = setting(
        1.0, MACHINE, "Memory promised for each MiB. Above 1, guests that touch it all get the host's OOM killer.",
        low=0.01, high=100,
    )  # fmt: skip
    disk_ratio: float = setting(
        1.0, MACHINE, "Disk promised for each MiB. Above 1, volumes that fill up stop every guest on the host.",
        low=0.01, high=100,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Fill in what the machine knows, then check everything."""
        object.__setattr__(self, "id", self.id or socket.gethostname())
        check_fields(self)
        check_pair(self.flintlock_tls_cert, self.flintlock_tls_key, "flintlock-tls-cert", "flintlock-tls-key")
        if self.link_insecure and self.link_ca:
            raise ConfigError("--link-insecure and --link-ca contradict each other; drop one of them")
        if not self.link_insecure and not self.link_ca:
            raise ConfigError("--link-ca is not set; give the CA of the servers' certificates, or --link-insecure")
        if not self.link_insecure and not self.link_token:
            raise ConfigError("--link-token is not set; give the servers' secret (or --link-token-file)")
