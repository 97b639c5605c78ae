"""Settings of `billet agent`. config.py has those of the server and explains how they are used."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from billet.core.errors import ConfigError
from billet.settings import FLINTLOCKD, LINK, MACHINE, MISC, check_fields, check_pair, log_format, log_level, setting


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All settings of one `billet agent`. The constructor checks them and raises ConfigError."""

    id: str = setting(
        "", MISC, "Name of this host in the fleet. Never reuse the name of another host. Empty = the machine's host"
        " name.",
    )  # fmt: skip
    zone: str = setting(
        "", MISC, "Failure domain of this host. Requests may require it, and groups are spread over failure domains."
        " Empty = a failure domain of its own.",
    )  # fmt: skip
    labels: Mapping[str, str] = setting(
        {}, MISC, "Label KEY=VALUE of this host, freely chosen. Requests may require or avoid it. Repeatable; none by"
        " default.",
    )  # fmt: skip
    state: str = setting(
        "", MISC, "Folder for this agent's key, which is its host's identity: keep it. Empty ="
        " /var/lib/billet-agent, or $XDG_STATE_HOME/billet for a user who cannot write that.",
    )  # fmt: skip
    json_ready: bool = setting(
        False, MISC, "Print one JSON line once a server has accepted this agent, for scripts and tests."
    )

    metrics_endpoint: str = setting(
        "", MISC, "Address that serves /metrics for Prometheus, /healthz, /readyz and /version. Empty = none.",
        kind="endpoint?",
    )  # fmt: skip
    metrics_token: str = setting(
        "", MISC, "Token that Prometheus must send for /metrics and /version, as a Bearer or Basic authorization. It"
        " is sent unencrypted. Empty = whoever reaches the address may read them.", kind="secret",
    )  # fmt: skip

    log_format: str = log_format()
    log_level: str = log_level()

    servers: tuple[str, ...] = setting(
        ("localhost:9095",), LINK, "HOST:PORT of a server's link. Name every server: repeat the option or separate"
        " with commas.", kind="endpoints",
    )  # fmt: skip
    link_token: str = setting("", LINK, "The servers' --link-token. Required without --link-insecure.", kind="secret")
    link_ca: str = setting(
        "", LINK, "PEM file: CA of the servers' link certificates. Required without --link-insecure.", kind="file"
    )
    link_cert: str = setting(
        "", LINK, "PEM file: certificate presented to servers that have --link-client-ca. Empty = none.", kind="file"
    )
    link_key: str = setting("", LINK, "PEM file: private key of --link-cert.", kind="file")
    link_insecure: bool = setting(
        False, LINK, "Use no TLS on the link; the servers need the same. Specs, which contain secrets, are then"
        " sent unencrypted.",
    )  # fmt: skip
    report_interval_s: float = setting(
        2.0, LINK, "Seconds between two reports; material changes are reported at once. Lower = fresher pressure, but"
        " more work for the servers.", low=0.1, high=60,
    )  # fmt: skip

    flintlock: str = setting("localhost:9090", FLINTLOCKD, "flintlockd's gRPC endpoint.", kind="endpoint")
    flintlock_tls_ca: str = setting(
        "", FLINTLOCKD, "PEM file: CA of flintlockd's certificate. Empty = no TLS.", kind="file"
    )
    flintlock_tls_cert: str = setting(
        "", FLINTLOCKD, "PEM file: client certificate presented to flintlockd (mTLS). Empty = none.", kind="file"
    )
    flintlock_tls_key: str = setting("", FLINTLOCKD, "PEM file: private key of --flintlock-tls-cert.", kind="file")
    flintlock_token: str = setting(
        "", FLINTLOCKD, "flintlockd's --basic-auth-token. Empty = no authentication.", kind="secret"
    )
    provider: str = setting(
        "", FLINTLOCKD, "flintlockd's --default-provider. Empty = unknown: flintlockd itself decides, and may reject"
        " a macvtap or virtiofs microVM that another host could have taken.",
    )  # fmt: skip
    state_dir: str = setting(
        "/var/lib/flintlock/vm", FLINTLOCKD, "flintlockd's --state-dir. Its file system is measured as the disk."
    )

    containerd: str = setting(
        "/run/containerd/containerd.sock", FLINTLOCKD, "flintlockd's --containerd-socket. The agent asks it which"
        " images are unpacked. Empty = only images that this agent has seen booted count as unpacked.",
    )  # fmt: skip
    containerd_namespace: str = setting(
        "flintlock", FLINTLOCKD, "flintlockd's --containerd-ns: its namespace in containerd."
    )
    containerd_volume_ss: str = setting(
        "devmapper", FLINTLOCKD, "containerd snapshotter into which volumes are unpacked."
    )
    containerd_kernel_ss: str = setting(
        "native", FLINTLOCKD, "flintlockd's --containerd-kernel-ss: the snapshotter into which kernels are unpacked."
    )
    thin_pool: str = setting(
        "", FLINTLOCKD, "Name of the thin pool of containerd's devmapper snapshotter. Its free space is measured with"
        " dmsetup, which needs root. Empty = the file system of --state-dir is measured instead.",
    )  # fmt: skip

    vcpu: int = setting(0, MACHINE, "vCPUs of this host. 0 = the number of CPUs, measured.", low=0, high=65_536)
    memory_mib: int = setting(
        0, MACHINE, "Memory in MiB. 0 = all of it, measured; little available memory then raises the score of this"
        " host's bids.", low=0,
    )  # fmt: skip
    disk_mib: int = setting(
        0, MACHINE, "Disk for microVMs in MiB. 0 = the file system of --state-dir, measured like memory.", low=0
    )
    max_vms: int = setting(
        1000, MACHINE, "Maximum number of microVMs on this host. One flintlockd boots them one after another, so a"
        " host with many takes long to restart them all.", low=1, high=100_000,
    )  # fmt: skip
    reserve_vcpu: int = setting(0, MACHINE, "vCPUs kept for the machine itself. 0 = none.", low=0)
    reserve_memory_mib: int = setting(
        1024, MACHINE, "Memory in MiB kept for the machine itself. 0 = none; the machine may then run out of memory.",
        low=0,
    )  # fmt: skip
    reserve_disk_mib: int = setting(1024, MACHINE, "Disk in MiB kept for the machine itself. 0 = none.", low=0)
    cpu_ratio: float = setting(
        1.0, MACHINE, "vCPUs offered per CPU. 1 = no overcommitment. 4 is common where guests are mostly idle; busy"
        " guests then slow each other down.", low=0.01, high=100,
    )  # fmt: skip
    memory_ratio: float = setting(
        1.0, MACHINE, "Memory offered per MiB of memory. Above 1, guests that use all their memory trigger the host's"
        " OOM killer.", low=0.01, high=100,
    )  # fmt: skip
    disk_ratio: float = setting(
        1.0, MACHINE, "Disk offered per MiB of disk. Above 1, volumes that fill up stop every guest on the host.",
        low=0.01, high=100,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Replace an empty id by the host name, then check all settings."""
        object.__setattr__(self, "id", self.id or socket.gethostname())
        check_fields(self)
        check_pair(self.flintlock_tls_cert, self.flintlock_tls_key, "flintlock-tls-cert", "flintlock-tls-key")
        check_pair(self.link_cert, self.link_key, "link-cert", "link-key")
        if self.link_insecure and self.link_cert:
            raise ConfigError("--link-insecure and --link-cert contradict each other; drop one of them")
        if self.link_insecure and self.link_ca:
            raise ConfigError("--link-insecure and --link-ca contradict each other; drop one of them")
        if not self.link_insecure and not self.link_ca:
            raise ConfigError("--link-ca is not set; give the CA of the servers' certificates, or --link-insecure")
        if not self.link_insecure and not self.link_token:
            raise ConfigError("--link-token is not set; give the servers' --link-token (or --link-token-file)")
