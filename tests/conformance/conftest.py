from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from billet.core.errors import ConfigError
from billet.wire.auth import basic_header
from billet.wire.tls import TlsSettings

from .calls import Client, Gateway, http, spec
from .external import OPTIONS, ExternalTarget, external_target
from .pki import Pki
from .targets import NEVER_S, TARGETS, Options, Service, Target

EXTERNAL = pytest.StashKey[ExternalTarget]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "conformance checks of an endpoint that runs already")
    group.addoption("--target", default="", metavar="HOST:PORT", help="check this Flintlock endpoint")
    for flag, text, default, metavar in OPTIONS:
        group.addoption(f"--target-{flag[2:]}", default=default, metavar=metavar, help=text)


def pytest_configure(config: pytest.Config) -> None:
    try:
        if external := external_target(config):
            external.connect()
            config.stash[EXTERNAL] = external
    except (ConfigError, ValueError) as error:
        pytest.exit(str(error), returncode=4)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each check on the targets that it starts itself, or on the one that the command line names."""
    if "target" in metafunc.fixturenames:
        external = metafunc.config.stash.get(EXTERNAL, None)
        targets = [external] if external else TARGETS
        names = ["external"] if external else [target.name for target in TARGETS]
        metafunc.parametrize("target", targets, ids=names, indirect=True, scope="session")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if external := config.stash.get(EXTERNAL, None):
        count = {name: len(terminalreporter.getreports(name)) for name in ("passed", "failed", "error", "skipped")}
        terminalreporter.write_line(
            f"conformance of {external.name}: {count['passed']} checks held, {count['failed']} failed, "
            f"{count['error']} errors, {count['skipped']} skipped"
        )


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    return request.param


@pytest.fixture(autouse=True)
def clean(target: Target) -> Iterator[None]:
    """Leave nothing behind on a target that is not ours."""
    yield
    if isinstance(target, ExternalTarget):
        target.remove_ours()


@pytest.fixture
def cluster(target: Target) -> Target:
    """For checks that need several hosts, or Billet's own answers."""
    if not target.is_cluster:
        pytest.skip("needs a cluster: a single flintlockd is one host and has none of Billet's own answers")
    return target


@pytest.fixture
def start(target: Target, tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start a service with these Options, for this test alone."""
    running: list[Service] = []

    def run(**options: object) -> Service:
        directory = tmp_path / f"service-{len(running)}"
        directory.mkdir()
        running.append(target.start(Options(**options), directory))
        return running[-1]

    yield run
    for service in running:
        service.stop()


@pytest.fixture(scope="session")
def service(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service for all checks without special needs: boots take no time, HTTP is on."""
    if isinstance(target, ExternalTarget):
        yield target.service
        return
    running = target.start(Options(http=True), tmp_path_factory.mktemp("service"))
    yield running
    running.stop()


@pytest.fixture
def inside(service: Service) -> Service:
    """The service, for checks that look into the hosts or prepare them."""
    if not service.hosts:
        pytest.skip("looks into the hosts, which needs more than an address")
    return service


@pytest.fixture
def gateway(service: Service) -> Gateway:
    """Verb, path and optional body of a call to the HTTP gateway -> status and body of the reply."""
    if not service.http_address:
        pytest.skip("needs the address of the HTTP gateway: give --http")
    header = {"Authorization": basic_header(service.token)} if service.token else {}
    return partial(http, service.http_address, **header)


@pytest.fixture
def guarded(request: pytest.FixtureRequest, target: Target) -> Service:
    """A service that demands a token."""
    if isinstance(target, ExternalTarget):
        if not target.token:
            pytest.skip("needs a target that demands a token: give --token")
        return target.service
    service: Service = request.getfixturevalue("start")(token="s3cret")
    return service


@pytest.fixture
def secured(request: pytest.FixtureRequest, target: Target, pki: Pki) -> Service:
    """A service with TLS."""
    if isinstance(target, ExternalTarget):
        if not target.ca:
            pytest.skip("needs a target with TLS: give --ca")
        return target.service
    service: Service = request.getfixturevalue("start")(tls=TlsSettings(cert=pki.server_cert, key=pki.server_key))
    service.credentials = pki.credentials()
    return service


@pytest.fixture
def mutual(request: pytest.FixtureRequest, target: Target, pki: Pki) -> Service:
    """A service that demands client certificates."""
    if isinstance(target, ExternalTarget):
        if not target.cert:
            pytest.skip("needs a target that demands client certificates: give --cert and --key")
        return target.service
    tls = TlsSettings(cert=pki.server_cert, key=pki.server_key, client_validate=True, client_ca=pki.ca)
    service: Service = request.getfixturevalue("start")(tls=tls)
    service.credentials = pki.credentials(client=True)
    return service


@pytest.fixture(scope="session")
def slow(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose first boot never ends: everything after it stays PENDING or DELETING."""
    running = target.start(Options(boot_mean_s=NEVER_S), tmp_path_factory.mktemp("slow"))
    yield running
    running.stop()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    client = service.client()
    yield client
    client.close()


@pytest.fixture
def slow_client(slow: Service) -> Iterator[Client]:
    client = Client(slow.address)
    client.create(spec())  # keeps the worker busy, unless an earlier one does
    yield client
    client.close()


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))
