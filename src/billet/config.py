"""WHAT can an operator set on a server? One frozen value, read once at the start and checked as a whole.

Each setting is written down here (an agent's in config_agent.py) and nowhere else: its name carries the unit, its
text says what it means, what its zero means and what it trades. The command line, the environment
(BILLET_SERVER_..., BILLET_AGENT_...) and the TOML file are made from these fields (billet/commands/options.py), so
none of them can drift.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from billet.core.errors import ConfigError
from billet.core.policies import BOOT_FIRST
from billet.core.quotas import Quotas, read_quota
from billet.core.scoring import LONG, Weights
from billet.settings import (
    AUCTION,
    LINK,
    MISC,
    NORTH,
    SCORE,
    STORE,
    check_edge,
    check_fields,
    check_pair,
    setting,
    split_zone,
)

STORE_FIELDS = (  # all that leads to a store
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
    resolve_after_s: float = setting(
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
        Weights().delay, SCORE, "The most that a boot adds, short of a long wait, of which each second adds"
        f" {BOOT_FIRST:g} times this / delay-half-s; under `fast` each second of a boot does."
        " 0 = boots do not matter.",
        low=0, high=10,
    )  # fmt: skip
    delay_half_s: float = setting(
        Weights().delay_half_s, SCORE, "The seconds until CREATED that add half of that. A wait for boots is long"
        f" from {LONG:g} times this; more keeps hosts even in a burst, less has it done sooner.",
        low=0.001, high=3600,
    )  # fmt: skip
    preference_weight: float = setting(
        Weights().preference, SCORE, "What a soft wish of a request (billet.io/spread, near) counts: what a host adds"
        " that has the whole group, or none of it. 0 = nothing; 1 = as much as a full host.", low=0, high=10,
    )  # fmt: skip
    cluster_weight: float = setting(
        Weights().cluster, SCORE, "The same for the machines of one CAPMVM cluster (label cluster-name), which are"
        " spread by themselves; control planes count ten times. 0 = they are not spread.", low=0, high=10,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Fill in what the machine knows, then check everything."""
        object.__setattr__(self, "id", self.id or socket.gethostname())
        check_fields(self)
        check_edge(self.insecure, self.tls_cert, self.tls_key, "insecure", "tls-cert", "tls-key")
        check_edge(
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
        check_pair(self.etcd_tls_cert, self.etcd_tls_key, "etcd-tls-cert", "etcd-tls-key")
        check_pair(self.etcd_user, self.etcd_password, "etcd-user", "etcd-password")

    @property
    def shadow_weights(self) -> Weights | None:
        """Those of the policy in the shadow, which has the other settings of the real one."""
        return self.weights._replace(policy=self.shadow) if self.shadow else None

    @property
    def weights(self) -> Weights:
        """The settings of the score, as the core wants them."""
        return Weights(
            self.pressure_weight, self.delay_weight, self.delay_half_s, self.policy, self.shape_weight,
            self.preference_weight, self.cluster_weight,
        )  # fmt: skip

    @property
    def quota_of(self) -> Quotas:
        """The quotas, as the core wants them."""
        return {namespace: read_quota(text) for namespace, text in self.quotas.items()}

    @property
    def zones(self) -> list[tuple[str, str]]:
        """The addresses that stand for a zone: the zone, and where to listen."""
        return [split_zone(text) for text in self.zone_endpoints]
