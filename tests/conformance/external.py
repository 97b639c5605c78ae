"""A target that runs already: any Flintlock endpoint, known only by its address.

The run must leave nothing behind and touch nothing else. All its microVMs have a random suffix in their names and
namespaces, and only names with that suffix are deleted, after every check.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import grpc
import pytest

from billet.api import fleet_service as fleet
from billet.core.errors import ConfigError
from billet.wire.tls import channel_credentials

from . import calls
from .calls import CREATED, DELETING, FAILED, GONE, PENDING, Client, Refusal, attempt
from .targets import Options, Service

PAUSE_S = 0.1  # between two looks at what is being removed
UNLIMITED = [("grpc.max_receive_message_length", -1)]


class Option(NamedTuple):
    """A setting of a run against an address."""

    flag: str
    help: str
    default: str = ""
    metavar: str = "FILE"


OPTIONS = (
    Option("--token", "token of --basic-auth-token; better: the variable CONFORMANCE_TOKEN", metavar="TOKEN"),
    Option("--ca", "PEM file with the CA of the target, or 'system' for those of this machine; without it: no TLS"),
    Option("--cert", "PEM file with the client certificate that the target demands"),
    Option("--key", "PEM file with the key of that certificate"),
    Option("--http", "address of the HTTP gateway, to check it too", metavar="HOST:PORT"),
    Option("--kernel-image", "kernel image that the hosts can pull", calls.scope.kernel_image, "IMAGE"),
    Option("--kernel-filename", "the kernel's file in that image", calls.scope.kernel_filename, "PATH"),
    Option("--root-image", "root volume image that the hosts can pull", calls.scope.root_image, "IMAGE"),
    Option("--timeout-s", "seconds that a boot or a removal may take", "300", "SECONDS"),
)


@dataclass
class ExternalService(Service):
    """A running endpoint whose hosts cannot be reached: what is on them is read through the API."""

    def creates(self) -> int:
        """Number of microVMs of this run."""
        return len(ours(self.list()))

    def on_hosts(self, name: str) -> list[str]:
        """The uids of the microVMs with this name."""
        return [vm.spec.uid for vm in self.list() if vm.spec.id == name]

    def list(self) -> list[calls.types.MicroVM]:
        """Everything on the target. Repeats a List that ran into a Delete, which is normal on a real flintlockd."""
        client = self.client(options=UNLIMITED)
        try:
            return list(calls.eventually(lambda: _listed(client)).vms)
        finally:
            client.close()


class _Listed(NamedTuple):
    vms: list[calls.types.MicroVM]


def _listed(client: Client) -> _Listed | None:
    got = attempt(client.list)
    return None if isinstance(got, Refusal) else _Listed(got)


def ours(vms: Iterable[calls.types.MicroVM]) -> list[calls.types.MicroVM]:
    """The microVMs that this run created."""
    return [vm for vm in vms if vm.spec.id.endswith(calls.scope.suffix)]


@dataclass
class ExternalTarget:
    """The endpoint at an address. `is_cluster` is true if it serves Billet's own API."""

    name: str
    token: str
    ca: str
    cert: str
    key: str
    http: str
    is_cluster: bool = False
    service: Service = field(init=False)

    def __post_init__(self) -> None:
        credentials = self.credentials(self.cert, self.key) if self.ca else None
        self.service = ExternalService(self.name, self.http, [self.name], [], lambda: None, self.token, credentials)

    def credentials(self, cert: str = "", key: str = "") -> grpc.ChannelCredentials:
        """Credentials that trust the target's CA, with or without a client certificate."""
        return channel_credentials("" if self.ca == "system" else self.ca, cert, key)

    def start(self, options: Options, directory: Path) -> Service:
        """Nothing can be started here: skips the check."""
        pytest.skip("needs a service that the check starts itself, with settings or faults of its own")

    def connect(self) -> None:
        """Find out whether it is a cluster. Raises ConfigError if the target does not answer a List."""
        client = self.service.client(options=UNLIMITED)
        got = attempt(client.list)
        hosts = attempt(client.call, fleet.HOSTS, b"")
        client.close()
        if isinstance(got, Refusal):
            raise ConfigError(
                f"{self.name} does not answer: {got.code.name}: {got.text}. "
                "Check the address and the options --token, --ca, --cert and --key"
            )
        self.is_cluster = not isinstance(hosts, Refusal)

    def remove_ours(self) -> None:
        """Delete what this run created, and wait until it is gone. Fails the check if something stays.

        A real flintlockd may lose a Delete during a boot, and spins after a second Delete of the same microVM. So
        each microVM is deleted after its boot, and again only if its state is not DELETING.
        """
        client = self.service.client()
        left = {vm.spec.uid for vm in ours(self.service.list())}
        give_up_s = time.monotonic() + 2 * calls.scope.timeout_s
        boots_until_s = time.monotonic() + calls.scope.timeout_s
        while left and time.monotonic() < give_up_s:
            for uid in sorted(left):
                if _removed(client, uid, time.monotonic() < boots_until_s):
                    left.remove(uid)
            if left:
                time.sleep(PAUSE_S)
        client.close()
        assert not left, f"cannot remove {', '.join(sorted(left))} from {self.name}: delete them yourself"


def _removed(client: Client, uid: str, may_boot: bool) -> bool:
    """Whether a microVM is gone; deletes it if it has booted, or may not boot any longer."""
    got = attempt(client.get, uid)
    if isinstance(got, Refusal):
        return GONE in got.text
    state = got.status.state
    if state in (CREATED, FAILED) or (state == PENDING and not may_boot):
        attempt(client.delete, uid)  # a refusal shows in the next Get
    else:
        assert state in (PENDING, DELETING), f"{uid} has the unknown state {state}"
    return False


def external_target(config: pytest.Config) -> ExternalTarget | None:
    """The target that the command line names, with the scope set for it. None if it names none."""
    address = config.getoption("--target", "")
    if not address:
        return None

    def value(flag: str) -> str:
        return str(config.getoption(f"--target-{flag}"))

    calls.scope.suffix = f"-conformance-{uuid4().hex[:12]}"
    calls.scope.kernel_image = value("kernel-image")
    calls.scope.kernel_filename = value("kernel-filename")
    calls.scope.root_image = value("root-image")
    calls.scope.timeout_s = float(value("timeout-s"))
    return ExternalTarget(address, *(value(flag) for flag in ("token", "ca", "cert", "key", "http")))
