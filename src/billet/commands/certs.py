"""`billet certs`: what TLS needs, for a first day."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import click

from billet.commands.options import output_option
from billet.core.errors import ConfigError


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME|ADDRESS",
    help="A name or address that clients and agents dial; repeat. Default: localhost, 127.0.0.1, this host.",
)  # fmt: skip
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="How long they are valid.")
@output_option
def certs(folder: Path, hosts: tuple[str, ...], days: int, output: str) -> None:
    """Make a CA, a server certificate and a client certificate in DIR.

    Good for a first day and for tests. In production use your own CA: ca.key here can sign anything.
    """
    from billet.adapters.pki import write_pki

    if not all(hosts):
        raise ConfigError("--host is ''; give a name or an address that is dialled")
    names = hosts or ("localhost", "127.0.0.1", socket.gethostname())
    files = write_pki(folder, names, days)
    if output == "json":
        click.echo(json.dumps({key: str(path) for key, path in files._asdict().items()}, indent=2))
        return
    click.echo(f"""\
Written to {folder}, valid {days} days, for {", ".join(names)}:

  billet server --tls-cert {files.server_cert} --tls-key {files.server_key} \\
                --link-tls-cert {files.server_cert} --link-tls-key {files.server_key} --link-token-file FILE
  billet agent  --server HOST:9095 --link-ca {files.ca} --link-token-file FILE
  billet hosts  --tls-ca {files.ca}

With certificates on both sides:

  billet server ... --tls-client-validate --tls-client-ca {files.ca}
  billet hosts  --tls-ca {files.ca} --tls-cert {files.client_cert} --tls-key {files.client_key}""")
