"""`billet fake-flintlockd`: the command."""

from __future__ import annotations

import sys
from typing import Any

import click
import uvloop

from billet.core.errors import ConfigError
from billet.fake.http import PortTaken
from billet.fake.server import serve
from billet.fake.settings import PROVIDERS, FakeConfig
from billet.wire.secret import FileText, read_secret
from billet.wire.tls import TlsSettings

_TLS_FLAGS = ("insecure", "cert", "key", "client_validate", "client_ca")


@click.command("fake-flintlockd", context_settings={"show_default": True, "max_content_width": 100})
@click.option(
    "--grpc-endpoint", default="localhost:9090", metavar="HOST:PORT", help="Address of the API. Port 0 = a free port."
)
@click.option("--enable-http", is_flag=True, help="Serve the HTTP gateway too. Requires --insecure.")
@click.option("--http-endpoint", default="localhost:8090", metavar="HOST:PORT", help="Address of the HTTP gateway.")
@click.option(
    "--control-endpoint",
    default="127.0.0.1:0",
    metavar="HOST:PORT",
    help="Address of the control port for faults. Empty = none.",
)
@click.option(
    "--default-provider", type=click.Choice(PROVIDERS), default=PROVIDERS[0], help="Provider of specs that name none."
)
@click.option("--insecure", is_flag=True, help="Disable TLS. Required unless a certificate and key are given.")
@click.option(
    "--tls-cert",
    "cert",
    default="",
    show_default=False,
    metavar="FILE",
    help="PEM file of the server's certificate. TLS 1.3 only.",
)
@click.option(
    "--tls-key", "key", default="", show_default=False, metavar="FILE", help="PEM file of the certificate's key."
)
@click.option("--tls-client-validate", "client_validate", is_flag=True, help="Require client certificates.")
@click.option(
    "--tls-client-ca",
    "client_ca",
    default="",
    metavar="FILE",
    show_default=False,
    help="PEM file of the CA of client certificates.",
)
@click.option(
    "--basic-auth-token",
    default="",
    show_default=False,
    help="Token that clients must send. Empty = no authentication.",
)
@click.option(
    "--basic-auth-token-file",
    default="",
    show_default=False,
    metavar="FILE",
    help="File of that token. It is read again when it changes, as are the TLS files; flintlockd must be restarted.",
)
@click.option(
    "--flintlock-version",
    default="0.11.0",
    help="Flintlock release to imitate. 0.13 and later have exec and ssh, 0.15 and later ServerInfo.",
)
@click.option("--boot-mean-s", default=0.5, help="Mean seconds of a boot. Boots run one after another.")
@click.option("--pull-mean-s", default=2.0, help="Mean seconds of a pull, at the first use of each image.")
@click.option("--delete-mean-s", default=0.05, help="Mean seconds of a deletion.")
@click.option("--create-mean-s", default=0.0, help="Mean seconds until a create is answered.")
@click.option(
    "--sigma",
    default=0.3,
    help="Variation of these times (sigma of a lognormal distribution). 0.3 = about 30 %, 0 = none.",
)
@click.option("--seed", default=0, help="Seed of the random times.")
@click.option(
    "--time-scale",
    default=1.0,
    help="Factor for the pauses before retries: the n-th retry of a failed boot waits n x 20 s x this.",
)
@click.option("--boot-failure-share", default=0.0, help="Share of boot attempts that fail, 0 to 1.")
@click.option(
    "--state-dir",
    default="",
    show_default=False,
    metavar="FOLDER",
    help="Folder for the pid files of VMMs, as flintlockd has. Empty = none.",
)
@click.option(
    "--state",
    "state_file",
    default="",
    show_default=False,
    metavar="FILE",
    help="SQLite file that keeps microVMs over restarts.",
)
@click.option("--json-ready", is_flag=True, help="Print one JSON line with the addresses when ready.")
def fake_flintlockd(basic_auth_token_file: str, **options: Any) -> None:
    """Run a flintlockd without a hypervisor.

    It answers as flintlockd 0.11 does, to the letter of its error texts, boots one microVM at a time, crashes where
    flintlockd crashes, and fails on command through its control port.
    """
    tls = TlsSettings(**{name: options.pop(name) for name in _TLS_FLAGS})
    try:
        if basic_auth_token_file:
            options["basic_auth_token"] = FileText(read_secret(basic_auth_token_file), basic_auth_token_file)
        uvloop.run(serve(FakeConfig(tls=tls, **options)))
    except ConfigError as error:
        print(f"fake-flintlockd: {error.text}", file=sys.stderr)
        sys.exit(2)
    except PortTaken as error:
        print(f"fake-flintlockd: {error}", file=sys.stderr)
        sys.exit(1)
