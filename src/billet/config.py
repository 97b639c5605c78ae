"""Settings of `billet server`: one frozen value, read at start-up and checked as a whole.

Each setting is defined here (an agent's in config_agent.py) and nowhere else. Its name carries the unit; its text
says what it sets, what 0 or empty means and what it trades. Command line, environment (BILLET_SERVER_...,
BILLET_AGENT_...) and TOML file are generated from these fields (billet/commands/options.py), so they cannot drift.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from billet.core.errors import ConfigError
from billet.core.fair_queue import DEFAULT_BOUNDS, Bounds
from billet.core.quotas import Quotas, read_quota
from billet.core.scoring import SLACK, Weights
from billet.settings import (
    AUCTION,
    CLIENT_API,
    LINK,
    MISC,
    SCORE,
    STORE,
    check_fields,
    check_listener_tls,
    check_pair,
    log_format,
    log_level,
    setting,
    split_zone,
)

STORE_FIELDS = (  # the settings that are needed to open the store
    "store",
    "data_dir",
    "etcd_tls_ca",
    "etcd_tls_cert",
    "etcd_tls_key",
    "etcd_user",
    "etcd_password",
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All settings of one `billet server`. The constructor checks them and raises ConfigError."""

    id: str = setting("", MISC, "Name of this server, unique among the servers. Empty = the machine's host name.")
    data_dir: str = setting(
        ".", MISC, "Folder for the server's files. Relative store paths start here.", kind="folder"
    )
    json_ready: bool = setting(
        False, MISC, "Print one JSON line with the actual endpoints once ready, for scripts and tests."
    )

    log_format: str = log_format()
    log_level: str = log_level()
    audit_log: str = setting(
        "", MISC, "File to which a JSON line is appended for each change: who, from where, what, on which microVM or"
        " host, the outcome; also for refused calls. Made with mode 0600, and anew after a rotation. Relative paths"
        " start at --data-dir. - = standard output; empty = none.",
    )  # fmt: skip

    grpc_endpoint: str = setting(
        "localhost:9090", CLIENT_API, "Address that serves Flintlock's gRPC API. Port 0 = any free port.",
        kind="endpoint",
    )  # fmt: skip
    zone_endpoints: tuple[str, ...] = setting(
        (), CLIENT_API, "Additional gRPC address for one zone: microVMs created through it go to hosts in that zone."
        " Repeatable; none by default.", kind="zones",
    )  # fmt: skip
    http_endpoint: str = setting(
        "localhost:8090", CLIENT_API, "Address that serves Flintlock's HTTP gateway, /healthz, /readyz,"
        " /metrics and /version; Prometheus must reach it. Empty = off.", kind="endpoint?",
    )  # fmt: skip
    advertise_host: str = setting(
        "", CLIENT_API, "Name or IP address at which the other servers and the agents reach this server."
        " Empty = the host part of the endpoint, or the machine's host name if it listens on 0.0.0.0.",
    )  # fmt: skip
    insecure: bool = setting(
        False, CLIENT_API, "Serve clients without TLS. Anyone on the network path can read and change requests."
    )
    tls_cert: str = setting(
        "", CLIENT_API, "PEM file: certificate presented to clients (TLS 1.3). Required without --insecure.",
        kind="file",
    )  # fmt: skip
    tls_key: str = setting("", CLIENT_API, "PEM file: private key of --tls-cert.", kind="file")
    tls_client_validate: bool = setting(
        False, CLIENT_API, "Require client certificates signed by --tls-client-ca (mTLS)."
    )
    tls_client_ca: str = setting("", CLIENT_API, "PEM file: CA that signs the clients' certificates.", kind="file")
    basic_auth_token: str = setting(
        "", CLIENT_API, "Token that clients must send as flintlockd's `Basic` authorization."
        " Empty = no authentication.", kind="secret",
    )  # fmt: skip

    deletes_per_minute: int = setting(
        0, CLIENT_API, "Most microVMs that one caller may delete within a minute, against tools that believe they"
        " talk to a single host. Does not apply to operators, and to nobody while there are no credentials"
        " (`billet token`). 0 = no limit.", low=0,
    )  # fmt: skip

    servers_ca: str = setting(
        "", CLIENT_API, "PEM file: CA of the other servers' certificates, for calls that are forwarded to the leader."
        " Empty = --tls-client-ca, or else this server's own certificate.", kind="file",
    )  # fmt: skip

    link_endpoint: str = setting(
        "0.0.0.0:9095", LINK, "Address on which agents connect. Port 0 = any free port.", kind="endpoint"
    )
    link_token: str = setting(
        "", LINK, "Secret that agents and servers present to each other; the same on all of them."
        " Required without --link-insecure.", kind="secret",
    )  # fmt: skip
    link_tls_cert: str = setting(
        "", LINK, "PEM file: certificate presented to agents. Required without --link-insecure.", kind="file"
    )
    link_tls_key: str = setting("", LINK, "PEM file: private key of --link-tls-cert.", kind="file")
    link_insecure: bool = setting(
        False, LINK, "Use no TLS on the link. Specs, which contain secrets, are then sent unencrypted."
    )

    link_client_ca: str = setting(
        "", LINK, "PEM file: CA of the agents' certificates. Every agent must then present one, and the name in it is"
        " its host's name (`billet certs host NAME`). Empty = agents need none.", kind="file",
    )  # fmt: skip
    join: str = setting(
        "open", LINK, "Whether a new host joins at once (open) or waits for `billet host admit` (approve).",
        kind="join",
    )  # fmt: skip

    store: str = setting(
        "sqlite:///billet.db", STORE, "sqlite:///PATH (one server), or etcd://H1:2379,H2:2379,H3:2379 (several"
        " servers).", kind="store",
    )  # fmt: skip
    etcd_tls_ca: str = setting("", STORE, "PEM file: CA of etcd's certificates. Empty = no TLS.", kind="file")
    etcd_tls_cert: str = setting(
        "", STORE, "PEM file: client certificate presented to etcd. Empty = none.", kind="file"
    )
    etcd_tls_key: str = setting("", STORE, "PEM file: private key of --etcd-tls-cert.", kind="file")
    etcd_user: str = setting("", STORE, "etcd user name. Empty = no authentication.")
    etcd_password: str = setting("", STORE, "Password of --etcd-user.", kind="secret")

    bid_wait_ms: int = setting(
        50, AUCTION, "Milliseconds to wait for slower bids after the first one. 0 = the first bid wins. Higher finds"
        " better hosts, but delays every create while a host does not respond.", low=0, high=60_000,
    )  # fmt: skip
    bid_wait_max_ms: int = setting(
        2000, AUCTION, "Milliseconds to wait for the first bid. 0 = no longer than --bid-wait-ms.",
        low=0, high=600_000,
    )  # fmt: skip
    call_for_bids: bool = setting(
        False, AUCTION, "Ask hosts for a bid before each award, instead of awarding by their standing bids, which are"
        " their last reports. A create costs more, and decides by facts that are up to a report interval newer.",
    )  # fmt: skip
    ask_hosts: int = setting(
        3, AUCTION, "Number of hosts asked for a bid: the best by their standing bids. The others take part with"
        " these. 0 = all are asked. Without --call-for-bids: asked only where no standing bid can win.", low=0,
    )  # fmt: skip
    ask_random: int = setting(
        1, AUCTION, "Number of additional hosts that take part, chosen by a hash of the auction's id. 0 = none."
        " They find hosts that are worth pulling an image, or have improved since their last report.", low=0,
    )  # fmt: skip
    create_timeout_s: float = setting(
        30.0, AUCTION, "Maximum seconds for one create, from the call to flintlockd's reply.", low=0.1, high=3600
    )
    call_timeout_s: float = setting(
        10.0, AUCTION, "Maximum seconds for any other call to one host. A host that takes longer is treated as"
        " unavailable.", low=0.1, high=3600,
    )  # fmt: skip
    hold_s: float = setting(
        30.0, AUCTION, "Seconds that a client's call waits while no server leads. 0 = it fails at once. Higher"
        " survives longer store outages; lower reports them sooner.", low=0, high=3600,
    )  # fmt: skip
    resolve_after_s: float = setting(
        60.0, AUCTION, "Seconds that the room of a create with an unknown outcome stays reserved while Billet asks"
        " its host. 0 = released at once. Higher is safer on slow hosts, but holds the room longer.",
        low=0, high=86_400,
    )  # fmt: skip
    fence_after_s: float = setting(
        0.0, AUCTION, "Seconds after which a host that is away is fenced automatically: its microVMs are declared"
        " gone and recreated on other hosts, and it deletes them if it comes back. 0 = never; an operator decides."
        " Lower restores microVMs sooner, but is more likely to fence a host that is alive. Never before 5 s,"
        " and never while more than half of the hosts are away.", low=0, high=604_800,
    )  # fmt: skip
    max_suspect_percent: float = setting(
        25.0, AUCTION, "Most per cent of the connected hosts that may be suspect at once and get no microVMs, because"
        " creates or boots have failed on them; one host always may. 0 = never more than one. Higher wastes fewer"
        " creates when much is broken; lower keeps more hosts in use when Billet is wrong about them.",
        low=0, high=100,
    )  # fmt: skip
    create_slots: int = setting(
        DEFAULT_BOUNDS.in_work, AUCTION, "Number of creates that the leader works on at a time; others wait in fair"
        " order, by identity and namespace; while several create, none has more than half of those that are free. 0 ="
        " no limit. Lower delays others less beside a crowd; higher places more per second when hosts answer slowly.",
        low=0,
    )  # fmt: skip
    create_queue: int = setting(
        DEFAULT_BOUNDS.waiting, AUCTION, "Number of creates of one identity and namespace that may wait; further ones"
        " are refused with UNAVAILABLE. 0 = no limit.", low=0,
    )  # fmt: skip
    create_wait_s: float = setting(
        DEFAULT_BOUNDS.wait_s, AUCTION, "Seconds that a create may wait for its turn before it is refused with"
        " UNAVAILABLE. 0 = no limit. Higher rides out longer bursts; lower tells clients sooner.", low=0, high=3600,
    )  # fmt: skip
    create_memory_mib: int = setting(
        DEFAULT_BOUNDS.held_bytes >> 20, AUCTION, "MiB of memory for creates that wait or are worked on; one identity"
        " and namespace alone gets half. 0 = no limit. Further ones are refused with UNAVAILABLE.", low=0,
    )  # fmt: skip
    record_auctions: int = setting(
        10_000, AUCTION, "Number of auctions that each server keeps for `billet explain`, about 5 KiB each, and ten"
        " times as many events. 0 = none.", low=0,
    )  # fmt: skip

    quotas: Mapping[str, str] = setting(
        {}, AUCTION, "Maximum that one namespace may use of the fleet, as vcpu:64,memory_mib:131072,disk_mib:0,vms:20"
        " or some of these; what is left out is unlimited. Namespace * = every namespace without its own quota."
        " Repeatable; none by default.", kind="quotas",
    )  # fmt: skip

    policy: str = setting(
        Weights().policy, SCORE, "How hosts are chosen: spread (evenly full), pack (fewest hosts in use) or fast"
        " (soonest booted). See docs/scheduling.md.", kind="policy",
    )  # fmt: skip
    shadow: str = setting(
        "", SCORE, "Second policy that is evaluated but only recorded; `billet explain` and `billet replay --shadow`"
        " compare it with the real one. Empty = none. Costs about 0.01 ms per bid.", kind="policy?",
    )  # fmt: skip
    shape_weight: float = setting(
        Weights().shape, SCORE, "Weight of the shape of a host's free room. 0 = only how full the host is counts,"
        " which fits more small microVMs into an almost full fleet. Higher keeps large hosts for large microVMs.",
        low=0, high=2,
    )  # fmt: skip
    pressure_weight: float = setting(
        Weights().pressure, SCORE, "Score added for a host whose tasks wait all the time."
        " 0 = measured pressure is ignored.", low=0, high=10,
    )  # fmt: skip
    delay_weight: float = setting(
        Weights().delay, SCORE, "Price of a second: score added for each second by which the boot would begin later"
        f" than {SLACK:g} times the shortest wait of all hosts; under policy `fast`, for each second until CREATED."
        " Lower keeps unequal hosts more even in a burst, higher finishes the burst sooner. 0 = waits are ignored.",
        low=0, high=10,
    )  # fmt: skip
    preference_weight: float = setting(
        Weights().preference, SCORE, "Weight of the label billet.io/near: score added for a zone that has none of the"
        " group; 1 = as much as a full host. 0 = billet.io/near and billet.io/spread are ignored.", low=0, high=10,
    )  # fmt: skip
    cluster_weight: float = setting(
        Weights().cluster, SCORE, "Score added for a host that has all machines of a CAPMVM cluster (label"
        " cluster-name). 0 = neither these machines nor their control planes are spread.", low=0, high=10,
    )  # fmt: skip

    scarcity_weight: float = setting(
        Weights().scarcity, SCORE, "Score added, for microVMs that do not ask for it, to a host with a label that few"
        " hosts have (a GPU): this x (2 x share of the hosts without it - 1). 0 = such hosts are filled like others.",
        low=0, high=100,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Replace an empty id by the host name, then check all settings."""
        object.__setattr__(self, "id", self.id or socket.gethostname())
        check_fields(self)
        check_listener_tls(self.insecure, self.tls_cert, self.tls_key, "insecure", "tls-cert", "tls-key")
        check_listener_tls(
            self.link_insecure, self.link_tls_cert, self.link_tls_key,
            "link-insecure", "link-tls-cert", "link-tls-key",
        )  # fmt: skip
        if self.link_client_ca and self.link_insecure:
            raise ConfigError("--link-client-ca needs TLS on the link: give --link-tls-cert and --link-tls-key")
        if self.tls_client_validate and not self.tls_client_ca:
            raise ConfigError("--tls-client-validate needs --tls-client-ca, the CA of the clients' certificates")
        if not self.link_token and not self.link_insecure:
            raise ConfigError(
                "--link-token is not set; give the secret of the agents (or --link-token-file), "
                "or --link-insecure on a network where every machine may join"
            )
        check_pair(self.etcd_tls_cert, self.etcd_tls_key, "etcd-tls-cert", "etcd-tls-key")
        check_pair(self.etcd_user, self.etcd_password, "etcd-user", "etcd-password")

    @property
    def shadow_weights(self) -> Weights | None:
        """The weights of the shadow policy: those of the real policy under the shadow's name. None = no shadow."""
        return self.weights._replace(policy=self.shadow) if self.shadow else None

    @property
    def weights(self) -> Weights:
        """The score's settings in the form that the core takes."""
        return Weights(
            self.pressure_weight, self.delay_weight, self.policy, self.shape_weight,
            self.preference_weight, self.cluster_weight, self.scarcity_weight,
        )  # fmt: skip

    @property
    def creates(self) -> Bounds:
        """The bounds on creates in the form that the core takes."""
        return DEFAULT_BOUNDS._replace(
            in_work=self.create_slots, waiting=self.create_queue, wait_s=self.create_wait_s,
            held_bytes=self.create_memory_mib << 20,
        )  # fmt: skip

    @property
    def quota_of(self) -> Quotas:
        """The quotas by namespace, parsed."""
        return {namespace: read_quota(text) for namespace, text in self.quotas.items()}

    @property
    def audit_path(self) -> str:
        """Where the audit log is: an absolute path or one from here, "-" for standard output, or "" for none."""
        return self.audit_log if self.audit_log in ("", "-") else str(Path(self.data_dir) / self.audit_log)

    @property
    def zones(self) -> list[tuple[str, str]]:
        """The zone addresses as (zone, "HOST:PORT")."""
        return [split_zone(text) for text in self.zone_endpoints]
