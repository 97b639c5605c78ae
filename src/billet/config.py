"""WHAT can an operator set? Two frozen values, read once at the start and checked as a whole.

Each setting is written down here and nowhere else: its name carries the unit, its text says what it means, what
its zero means and what it trades. The command line, the environment (BILLET_SERVER_..., BILLET_AGENT_...) and the
TOML file are made from these fields (billet/commands/options.py), so none of them can drift.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from billet.core.errors import ConfigError
from billet.core.policies import POLICIES
from billet.core.quotas import Quotas, read_quota
from billet.core.scoring import Weights

STORE_FIELDS = (  # all that leads to a store
    "store",
    "data_dir",
    "etcd_tls_ca",
    "etcd_tls_cert",
    "etcd_tls_key",
    "etcd_user",
    "etcd_password",
)
STORE_SCHEMES = ("sqlite:///", "etcd://", "etcds://")


class About(NamedTuple):
    """What is known about one setting besides its name, type and default."""

    section: str
    text: str
    low: float | None = None
    high: float | None = None
    kind: str = ""  # one of those in FORMS and _check_kind, or "secret"; those with a "?" may be empty


def setting(default: Any, section: str, text: str, **limits: Any) -> Any:
    """A field with its meaning. Secrets stay out of `repr`, and so out of logs."""
    about = About(section, text, **limits)
    shown = about.kind != "secret"
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"about": about}, repr=shown)
    return field(default=default, metadata={"about": about}, repr=shown)


NORTH = "What clients dial"
LINK = "The agents' link"
STORE = "The store"
AUCTION = "Auctions"
SCORE = "The score"
SOUTH = "This host's flintlockd"
MACHINE = "What this host offers"
MISC = "Other"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that can be set on a `billet server`. Building one checks it: a wrong one cannot exist."""

    id: str = setting("", MISC, "This server's name among the servers. Empty = the machine's host name.")
    data_dir: str = setting(
        ".", MISC, "Folder for what a server keeps; relative store paths start here.", kind="folder"
    )
    json_ready: bool = setting(
        False, MISC, "Print one JSON line with the real endpoints when ready, for scripts and tests."
    )

    grpc_endpoint: str = setting(
        "localhost:9090", NORTH, "Where Flintlock's gRPC is served. Port 0 = any free one.", kind="endpoint"
    )
    zone_endpoints: tuple[str, ...] = setting(
        (), NORTH, "Serve Flintlock's gRPC at one more address, which stands for one zone: what is created through it"
        " goes to hosts of that zone. As zone=a,listen=HOST:PORT. May be given again.", kind="zones",
    )  # fmt: skip
    http_endpoint: str = setting(
        "localhost:8090", NORTH, "Where Flintlock's HTTP gateway is served. Empty = off.", kind="endpoint?"
    )
    advertise_host: str = setting(
        "",
        NORTH,
        "Name or address by which the other servers and the agents reach this one. Empty = the endpoint's"
        " own, or this machine's name where it listens on 0.0.0.0.",
    )
    insecure: bool = setting(False, NORTH, "Serve clients without TLS. Anyone on the way can read and write.")
    tls_cert: str = setting("", NORTH, "PEM file: certificate shown to clients (TLS 1.3).", kind="file")
    tls_key: str = setting("", NORTH, "PEM file: its private key.", kind="file")
    tls_client_validate: bool = setting(False, NORTH, "Let in only clients with a certificate (mTLS).")
    tls_client_ca: str = setting("", NORTH, "PEM file: the CA that signs clients' certificates.", kind="file")
    basic_auth_token: str = setting(
        "", NORTH, "Token that clients send as flintlockd's `Basic` authorization. Empty = none asked.", kind="secret"
    )

    servers_ca: str = setting(
        "", NORTH, "PEM file: the CA of the other servers' certificates, for the calls that are passed on to the"
        " leader. Empty = --tls-client-ca, or this server's own certificate.", kind="file",
    )  # fmt: skip

    link_endpoint: str = setting("0.0.0.0:9095", LINK, "Where agents dial in.", kind="endpoint")
    link_token: str = setting(
        "", LINK, "Secret that agents, and the other servers, must show; the same on all of them.", kind="secret"
    )
    link_tls_cert: str = setting("", LINK, "PEM file: certificate shown to agents.", kind="file")
    link_tls_key: str = setting("", LINK, "PEM file: its private key.", kind="file")
    link_insecure: bool = setting(
        False, LINK, "No TLS on the link. Specs, which hold secrets, then travel in the clear."
    )

    store: str = setting(
        "sqlite:///billet.db",
        STORE,
        "sqlite:///PATH (one server) or etcd://H1:2379,H2:2379,H3:2379 (several).",
        kind="store",
    )
    etcd_tls_ca: str = setting("", STORE, "PEM file: the CA of etcd's certificates. Empty = no TLS.", kind="file")
    etcd_tls_cert: str = setting("", STORE, "PEM file: certificate shown to etcd. Empty = none.", kind="file")
    etcd_tls_key: str = setting("", STORE, "PEM file: its private key.", kind="file")
    etcd_user: str = setting("", STORE, "As whom to log in to etcd. Empty = it asks for no password.")
    etcd_password: str = setting("", STORE, "The password of that user.", kind="secret")

    bid_wait_ms: int = setting(
        50, AUCTION, "How long an auction waits for the slower bids once it has one. 0 = the first bid wins;"
        " more finds better hosts and makes every create with a silent host wait longer.", low=0, high=60_000,
    )  # fmt: skip
    bid_wait_max_ms: int = setting(
        2000, AUCTION, "How long it waits when nobody has bid yet. 0 = not beyond --bid-wait-ms.", low=0, high=600_000
    )
    ask_hosts: int = setting(
        32,
        AUCTION,
        "How many of the emptiest hosts (pack: the fullest) are asked. 0 = all; fewer make auctions cheaper.",
        low=0,
    )
    ask_random: int = setting(
        4, AUCTION, "How many hosts drawn by the auction's hash are asked besides. 0 = none; they find hosts"
        " whose pressure or boot queue has got better than the ledger knows.", low=0,
    )  # fmt: skip
    create_timeout_s: float = setting(
        30.0, AUCTION, "Longest time for one create, from the call to flintlockd's reply.", low=0.1, high=3600
    )
    call_timeout_s: float = setting(
        10.0, AUCTION, "Longest time for any other call to one host. A host that takes longer counts as away.",
        low=0.1, high=3600,
    )  # fmt: skip
    hold_s: float = setting(
        30.0, AUCTION, "How long a client's call waits while no server leads. 0 = it fails at once; more rides out"
        " longer troubles of the store.", low=0, high=3600,
    )  # fmt: skip
    settle_after_s: float = setting(
        60.0, AUCTION, "How long the room of a create with unknown outcome is held while its host is asked for it."
        " 0 = given back at once; more is safer on slow hosts, and holds room longer.", low=0, high=86_400,
    )  # fmt: skip
    fence_after_s: float = setting(
        0.0, AUCTION, "Fence a host by itself once it has been away so long: its microVMs are declared gone and made"
        " again elsewhere, and it deletes them if it comes back. 0 = never, an operator decides; less brings"
        " microVMs back sooner and takes more living hosts for dead. Never sooner than after 5 s,"
        " nor while over half of the hosts are away.",
        low=0, high=604_800,
    )  # fmt: skip
    record_auctions: int = setting(
        10_000, AUCTION, "How many auctions `billet explain` remembers; about 5 KiB each. 0 = none.", low=0
    )

    quotas: Mapping[str, str] = setting(
        {}, AUCTION, "The most that a namespace may take of the fleet, as vcpu:64,memory_mib:131072,disk_mib:0,vms:20"
        " or some of these. * is each namespace without a quota of its own. May be given again.", kind="quotas",
    )  # fmt: skip

    policy: str = setting(
        Weights().policy, SCORE, "How hosts are chosen: spread (evenly full), pack (few hosts in use), fast"
        " (soonest booted). docs/scheduling.md helps to choose.", kind="policy",
    )  # fmt: skip
    shadow: str = setting(
        "", SCORE, "A policy that decides beside the real one, for the record only: `billet explain` and"
        " `billet replay --shadow` compare them. Empty = none; takes about 0.01 ms for each bid.", kind="policy?",
    )  # fmt: skip
    shape_weight: float = setting(
        Weights().shape, SCORE, "How much the shape of the free room counts. 0 = only how full a host is, which takes"
        " more small microVMs at the very end; more keeps large hosts for large microVMs.", low=0, high=2,
    )  # fmt: skip
    pressure_weight: float = setting(
        Weights().pressure, SCORE, "What a host whose tasks wait all the time adds to its score."
        " 0 = measured pressure does not matter.", low=0, high=10,
    )  # fmt: skip
    delay_weight: float = setting(
        Weights().delay, SCORE, "The most that a boot adds, short of a long wait, of which each second adds 20 times"
        " this / delay-half-s; under `fast` each second of a boot does. 0 = boots do not matter.", low=0, high=10,
    )  # fmt: skip
    delay_half_s: float = setting(
        Weights().delay_half_s, SCORE, "The seconds until CREATED that add half of that. A wait for boots is long"
        " from 2.5 times this; more keeps hosts even in a burst, less has it done sooner.", low=0.001, high=3600,
    )  # fmt: skip
    wish_weight: float = setting(
        Weights().wish, SCORE, "What a soft wish of a request (billet.io/spread, near) counts: what a host adds"
        " that has the whole group, or none of it. 0 = nothing; 1 = as much as a full host.", low=0, high=10,
    )  # fmt: skip
    cluster_weight: float = setting(
        Weights().cluster, SCORE, "The same for the machines of one CAPMVM cluster (label cluster-name), which are"
        " spread by themselves; control planes count ten times. 0 = they are not spread.", low=0, high=10,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Fill in what the machine knows, then check everything."""
        object.__setattr__(self, "id", self.id or socket.gethostname())
        _check_fields(self)
        _check_edge(self.insecure, self.tls_cert, self.tls_key, "insecure", "tls-cert", "tls-key")
        _check_edge(
            self.link_insecure, self.link_tls_cert, self.link_tls_key,
            "link-insecure", "link-tls-cert", "link-tls-key",
        )  # fmt: skip
        if self.tls_client_validate and not self.tls_client_ca:
            raise ConfigError("--tls-client-validate needs --tls-client-ca, the CA of the clients' certificates")
        if not self.link_token and not self.link_insecure:
            raise ConfigError(
                "--link-token is not set; give the agents' secret (or --link-token-file), "
                "or --link-insecure on a network where everyone may join"
            )
        _check_pair(self.etcd_tls_cert, self.etcd_tls_key, "etcd-tls-cert", "etcd-tls-key")
        _check_pair(self.etcd_user, self.etcd_password, "etcd-user", "etcd-password")

    @property
    def shadow_weights(self) -> Weights | None:
        """Those of the policy in the shadow, which has the other settings of the real one."""
        return self.weights._replace(policy=self.shadow) if self.shadow else None

    @property
    def weights(self) -> Weights:
        """The settings of the score, as the core wants them."""
        return Weights(
            self.pressure_weight, self.delay_weight, self.delay_half_s, self.policy, self.shape_weight,
            self.wish_weight, self.cluster_weight,
        )  # fmt: skip

    @property
    def quota_of(self) -> Quotas:
        """The quotas, as the core wants them."""
        return {namespace: read_quota(text) for namespace, text in self.quotas.items()}

    @property
    def zones(self) -> list[tuple[str, str]]:
        """The addresses that stand for a zone: the zone, and where to listen."""
        return [split_zone(text) for text in self.zone_endpoints]


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
        _check_fields(self)
        _check_pair(self.flintlock_tls_cert, self.flintlock_tls_key, "flintlock-tls-cert", "flintlock-tls-key")
        if self.link_insecure and self.link_ca:
            raise ConfigError("--link-insecure and --link-ca contradict each other; drop one of them")
        if not self.link_insecure and not self.link_ca:
            raise ConfigError("--link-ca is not set; give the CA of the servers' certificates, or --link-insecure")
        if not self.link_insecure and not self.link_token:
            raise ConfigError("--link-token is not set; give the servers' secret (or --link-token-file)")


ONE_OF = {"labels": "label", "servers": "server", "quotas": "quota", "zone_endpoints": "endpoint"}


def flag(name: str) -> str:
    """A setting's name as a person types it; of one that may be given again, one at a time."""
    return "--" + ONE_OF.get(name, name).replace("_", "-")


def split_endpoint(text: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"; ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(text)
    return host.strip("[]"), int(port)


def split_zone(text: str) -> tuple[str, str]:
    """("a", "HOST:PORT") of "zone=a,listen=HOST:PORT"; ValueError when it is not that."""
    pairs = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if set(pairs) != {"zone", "listen"} or not pairs["zone"]:
        raise ValueError(text)
    split_endpoint(pairs["listen"])
    return pairs["zone"], pairs["listen"]


def _check_fields(config: ServerConfig | AgentConfig) -> None:
    for item in fields(config):
        about: About = item.metadata["about"]
        value = getattr(config, item.name)
        if isinstance(value, float) and not isfinite(value):  # TOML has nan and inf, and float() reads them
            raise ConfigError(f"{flag(item.name)} is {value}; give a number")
        if about.low is not None and value < about.low:
            raise ConfigError(f"{flag(item.name)} is {value}; the least is {about.low:g}")
        if about.high is not None and value > about.high:
            raise ConfigError(f"{flag(item.name)} is {value}; the most is {about.high:g}")
        _check_kind(flag(item.name), about.kind, value)


ENDPOINT = (split_endpoint, "HOST:PORT, for example localhost:9090")
FORMS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "endpoint": ENDPOINT,
    "endpoint?": ENDPOINT,  # may be empty
    "endpoints": ENDPOINT,
    "zones": (split_zone, "zone=NAME,listen=HOST:PORT"),
    "quotas": (read_quota, "for example vcpu:64,memory_mib:131072,vms:20"),
}


def _check_kind(name: str, kind: str, value: Any) -> None:
    match kind:
        case _ if kind.endswith("?") and not value:
            pass
        case "endpoints" if not value:
            raise ConfigError(f"{name} is empty; give at least one HOST:PORT")
        case _ if kind in FORMS:
            _check_form(name, value, *FORMS[kind])
        case "file" if value and not Path(value).is_file():
            raise ConfigError(f"{name} is {value!r}, which is not a file that can be read; check the path")
        case "folder" if not Path(value).is_dir():
            raise ConfigError(f"{name} is {value!r}, which is not a folder; make it, or give another")
        case "policy" | "policy?" if value not in POLICIES:
            raise ConfigError(f"{name} is {value!r}; there are {', '.join(POLICIES)}")
        case "store" if not value.startswith(STORE_SCHEMES):
            raise ConfigError(f"{name} is {value!r}; write sqlite:///PATH or etcd://HOST:PORT,HOST:PORT")


def check_endpoint(name: str, value: str) -> None:
    """ConfigError, with the name of the setting, unless it is HOST:PORT."""
    _check_form(name, value, *ENDPOINT)


def _check_form(name: str, value: Any, read: Callable[[str], Any], form: str) -> None:
    """Each text that a setting consists of has to be readable."""
    if isinstance(value, Mapping):
        texts = [(f"{name} of {key}", text) for key, text in value.items()]
    else:
        texts = [(name, text) for text in ((value,) if isinstance(value, str) else value)]
    for what, text in texts:
        try:
            read(text)
        except ValueError:
            raise ConfigError(f"{what} is {text!r}; write {form}") from None


def _check_pair(cert: str, key: str, cert_name: str, key_name: str) -> None:
    if bool(cert) != bool(key):
        given, missing = (cert_name, key_name) if cert else (key_name, cert_name)
        raise ConfigError(f"--{given} is set and --{missing} is not; give both or neither")


def _check_edge(insecure: bool, cert: str, key: str, flag_name: str, cert_name: str, key_name: str) -> None:
    """One listening edge: TLS with both files, or plainly without."""
    _check_pair(cert, key, cert_name, key_name)
    if insecure and cert:
        raise ConfigError(f"--{flag_name} and --{cert_name} contradict each other; drop one of them")
    if not insecure and not cert:
        raise ConfigError(f"give --{cert_name} and --{key_name}, or --{flag_name} to do without TLS")
