"""The settings of a fake flintlockd."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from billet.core.errors import ConfigError
from billet.wire.tls import TlsSettings

PROVIDERS = ("firecracker", "cloudhypervisor")

EXEC_SINCE = (0, 13)
SERVER_INFO_SINCE = (0, 15)


@dataclass(frozen=True, slots=True)
class FakeConfig:
    """Settings of one fake. Endpoints are "host:port"; port 0: a free port."""

    grpc_endpoint: str = "localhost:9090"
    http_endpoint: str = "localhost:8090"
    enable_http: bool = False
    # Faults and statistics, plain HTTP. "" = no control port (FakeFlintlockd.faults and .stats still work).
    control_endpoint: str = "127.0.0.1:0"
    default_provider: str = "firecracker"
    tls: TlsSettings = field(default_factory=lambda: TlsSettings(insecure=True))
    basic_auth_token: str = ""  # "" = no authentication
    flintlock_version: str = "0.11.0"  # from 0.13 on exec and SSH exist, from 0.15 on ServerInfo

    # Means of lognormal distributions; 0 takes no time. A larger sigma means a longer tail.
    boot_mean_s: float = 0.5
    pull_mean_s: float = 2.0  # the first boot that needs an image pays this, once for each image
    delete_mean_s: float = 0.05
    create_mean_s: float = 0.0  # of a create's answer; real ones take 0.01 to 0.02
    sigma: float = 0.3
    seed: int = 0
    time_scale: float = 1.0  # the waits between retries are n times 20 s times this
    boot_failure_share: float = 0.0  # 0 to 1: how many boot attempts fail

    state_dir: str = ""  # flintlockd's own: a folder for each microVM, with the VMM's pid file; "" = none
    state_file: str = ""  # SQLite file that keeps microVMs over a restart, as containerd does; "" = memory
    json_ready: bool = False  # print one JSON line with the addresses on stdout when ready

    def check(self) -> None:
        """Raise ConfigError for an invalid setting."""
        self.tls.check()
        if self.default_provider not in PROVIDERS:
            raise ConfigError(f"--default-provider {self.default_provider}: must be one of {', '.join(PROVIDERS)}")
        for flag, seconds in (
            ("--boot-mean-s", self.boot_mean_s),
            ("--pull-mean-s", self.pull_mean_s),
            ("--delete-mean-s", self.delete_mean_s),
            ("--create-mean-s", self.create_mean_s),
            ("--sigma", self.sigma),
            ("--time-scale", self.time_scale),
        ):
            if seconds < 0:
                raise ConfigError(f"{flag} {seconds}: must not be negative")
            if not isfinite(seconds):
                raise ConfigError(f"{flag} {seconds}: must be a finite number")
        if not 0 <= self.boot_failure_share <= 1:
            raise ConfigError(f"--boot-failure-share {self.boot_failure_share}: must be from 0 to 1")
        for flag, endpoint in (
            ("--grpc-endpoint", self.grpc_endpoint),
            ("--http-endpoint", self.http_endpoint),
            ("--control-endpoint", self.control_endpoint or "127.0.0.1:0"),
        ):
            host, _, port = endpoint.rpartition(":")
            if not host or not port.isdecimal():
                raise ConfigError(f"{flag} {endpoint!r}: must be host:port, for example localhost:9090")
        self.version()

    def version(self) -> tuple[int, int]:
        """The major and minor number of the release to imitate."""
        parts = self.flintlock_version.removeprefix("v").split(".")
        if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            raise ConfigError(f"--flintlock-version {self.flintlock_version!r}: must be like 0.11.0")
        return int(parts[0]), int(parts[1])
