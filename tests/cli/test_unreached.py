"""A server that cannot be reached: one line with the cause and the remedy."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from click.testing import CliRunner

from billet.adapters.pki import Files, write_pki
from billet.cli import main


class Ports(NamedTuple):
    """Ports of test servers. `picky` requires a client certificate; that of `elsewhere` is for another name."""

    plain: int
    picky: int
    elsewhere: int
    http: int


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  # the library's name
        pass


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_pki(tmp_path_factory.mktemp("pki"), ["127.0.0.1"], days=1)


@pytest.fixture(scope="module")
def other_pki(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_pki(tmp_path_factory.mktemp("pki"), ["elsewhere"], days=1)


@pytest.fixture(scope="module")
def ports(pki: Files, other_pki: Files) -> Iterator[Ports]:
    ca = Path(pki.ca).read_bytes()
    picky = grpc.ssl_server_credentials([pair(pki)], ca, require_client_auth=True)
    elsewhere = grpc.ssl_server_credentials([pair(other_pki)])
    web = http.server.HTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with grpc_server(None) as a, grpc_server(picky) as b, grpc_server(elsewhere) as c:
        yield Ports(a, b, c, web.server_port)
    web.shutdown()


def pair(files: Files) -> tuple[bytes, bytes]:
    return Path(files.server_key).read_bytes(), Path(files.server_cert).read_bytes()


@contextmanager
def grpc_server(credentials: grpc.ServerCredentials | None) -> Iterator[int]:
    server = grpc.server(ThreadPoolExecutor(1))
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    yield port
    server.stop(None)


def error_line(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["hosts", *arguments])
    assert done.exit_code in (1, 2)
    assert "not found" not in done.stderr
    line, end, more = done.stderr.partition("\n")
    assert (end, more) == ("\n", ""), "one line"
    for inside in ("ipv4:", "SSL", "TSI", "UNKNOWN", "last error"):
        assert inside not in line
    return line


def test_an_address_without_a_port() -> None:
    assert error_line("--server", "localhost") == (
        "billet: --server is 'localhost'; write HOST:PORT, for example localhost:9090"
    )


def test_a_name_that_does_not_resolve() -> None:
    assert error_line("--server", "nowhere.invalid:9090") == (
        "billet: cannot reach nowhere.invalid:9090: the host name does not resolve; check --server (or BILLET_SERVER)"
    )


def test_a_closed_port() -> None:
    assert "127.0.0.1:1: connection refused; check --server" in error_line("--server", "127.0.0.1:1")


def test_an_http_port(ports: Ports) -> None:
    assert "it is not a gRPC port, perhaps HTTP" in error_line("--server", f"127.0.0.1:{ports.http}")


def test_tls_to_a_plain_port_and_the_reverse(ports: Ports, pki: Files) -> None:
    assert "it does not use TLS; remove --tls-ca" in error_line(
        "-s", f"127.0.0.1:{ports.plain}", "--tls-ca", str(pki.ca)
    )
    assert "if it uses TLS, set --tls-ca" in error_line("-s", f"127.0.0.1:{ports.picky}")


def test_certificates_that_do_not_fit(ports: Ports, pki: Files, other_pki: Files) -> None:
    picky, elsewhere = f"127.0.0.1:{ports.picky}", f"127.0.0.1:{ports.elsewhere}"
    assert "not signed by the CA in --tls-ca" in error_line("-s", picky, "--tls-ca", str(other_pki.ca))
    assert "its certificate is for other names" in error_line("-s", elsewhere, "--tls-ca", str(other_pki.ca))
    assert "give --tls-cert and --tls-key" in error_line("-s", picky, "--tls-ca", str(pki.ca))
    assert "contains no CA certificate in PEM" in error_line("-s", picky, "--tls-ca", __file__)
