"""`billet certs`: creates a CA and certificates for a first setup."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import click

from billet.commands.options import output_option
from billet.core.errors import ConfigError


class _FolderByDefault(click.Group):
    """A group whose first argument may be a folder: then it runs the command `new`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["new", *args]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        return super().get_command(ctx, cmd_name) or self.commands["new"]


@click.group(cls=_FolderByDefault)
def certs() -> None:
    """Create a CA and certificates for a first setup and for tests.

    \b
    billet certs DIR            a CA, a server's and a client's certificate
    billet certs host NAME DIR  a certificate for the agent of host NAME
    """


@certs.command("host")
@click.argument("name", metavar="NAME")
@click.argument("folder", metavar="[DIR]", default="pki", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days until the certificate expires."
)
@output_option
def for_host(name: str, folder: Path, days: int, output: str) -> None:
    """Create a certificate for the agent of host NAME, signed by the CA in DIR (default: pki).

    Servers with --link-client-ca accept an agent only under the name in its certificate.
    """
    from billet.adapters.pki import write_host

    cert, key = write_host(folder, name, days)
    if output == "json":
        click.echo(json.dumps({"cert": str(cert), "key": str(key)}, indent=2))
        return
    click.echo(f"""\
Created for host {name}, valid for {days} days:

  billet agent  --id {name} --link-cert {cert} --link-key {key} ...
  billet server --link-client-ca {folder / "ca.crt"} ...""")


@certs.command("new")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME|ADDRESS",
    help="Host name or IP address that clients and agents connect to. Repeatable.  [default: localhost,"
    " 127.0.0.1, this host's name]",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="Days until the certificates expire."
)
@output_option
def new(folder: Path, hosts: tuple[str, ...], days: int, output: str) -> None:
    """Create a CA, a server certificate and a client certificate in DIR.

    For a first setup and for tests. In production use your own CA: whoever has DIR/ca.key can sign certificates.
    """
    from billet.adapters.pki import write_pki

    if not all(hosts):
        raise ConfigError("--host is ''; give a host name or an IP address")
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

To require client certificates too:

  billet server ... --tls-client-validate --tls-client-ca {files.ca}
  billet hosts  --tls-ca {files.ca} --tls-cert {files.client_cert} --tls-key {files.client_key}""")
