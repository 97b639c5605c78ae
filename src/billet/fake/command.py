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
from billet.wire.tls import TlsSettings

_TLS_FLAGS = ("insecure", "cert", "key", "client_validate", "client_ca")


@click.command("fake-flintlockd", context_settings={"show_default": True, "max_content_width": 100})
@click.option("--grpc-endpoint", default="localhost:9090", help="Where the API listens; port 0 takes a free one.")
@click.option("--enable-http", is_flag=True, help="Serve the HTTP gateway too. It works only with --insecure.")
@click.option("--http-endpoint", default="localhost:8090", help="Where the HTTP gateway listens.")
@click.option("--control-endpoint", default="127.0.0.1:0", help="Where faults are ordered; '' for no control port.")
@click.option("--default-provider", type=click.Choice(PROVIDERS), default=PROVIDERS[0], help="For specs without one.")
@click.option("--insecure", is_flag=True, help="No TLS. Either this, or a certificate and its key.")
@click.option(
    "--tls-cert", "cert", default="", show_default=False, help="The server's certificate, PEM. TLS 1.3 only."
)
@click.option("--tls-key", "key", default="", show_default=False, help="Its key, PEM.")
@click.option("--tls-client-validate", "client_validate", is_flag=True, help="Ask clients for a certificate.")
@click.option(
    "--tls-client-ca",
    "client_ca",
    default="",
    show_default=False,
    help="The CA that signed the clients' certificates, PEM.",
)
@click.option("--basic-auth-token", default="", show_default=False, help="Ask for this token; '' lets everybody in.")
@click.option("--flintlock-version", default="0.11.0", help="Imitate it: exec from 0.13 on, ServerInfo from 0.15 on.")
@click.option("--boot-mean-s", default=0.5, help="Seconds that a boot takes on average. One boots at a time.")
@click.option("--pull-mean-s", default=2.0, help="Seconds more for the first use of each image.")
@click.option("--delete-mean-s", default=0.05, help="Seconds that a deletion takes.")
@click.option("--sigma", default=0.3, help="Spread of these times (lognormal); 0 for none.")
@click.option("--seed", default=0, help="Of the random times, so that a run can be repeated.")
@click.option("--time-scale", default=1.0, help="Retry n of a failed boot waits n * 20 s * this.")
@click.option("--boot-failure-share", default=0.0, help="Share of boot attempts that fail, 0 to 1.")
@click.option(
    "--state", "state_file", default="", show_default=False, help="Keep microVMs in this file over a restart."
)
@click.option("--json-ready", is_flag=True, help="Print one JSON line with the addresses when ready.")
def fake_flintlockd(**options: Any) -> None:
    """Run a flintlockd without a hypervisor.

    It answers as flintlockd 0.11 does, to the letter of its error texts, boots one microVM at a time, crashes where
    flintlockd crashes, and fails on command through its control port.
    """
    tls = TlsSettings(**{name: options.pop(name) for name in _TLS_FLAGS})
    try:
        uvloop.run(serve(FakeConfig(tls=tls, **options)))
    except ConfigError as error:
        print(f"fake-flintlockd: {error.text}", file=sys.stderr)
        sys.exit(2)
    except PortTaken as error:
        print(f"fake-flintlockd: {error}", file=sys.stderr)
        sys.exit(1)
