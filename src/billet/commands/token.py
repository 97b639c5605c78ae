"""`billet token`: the credentials of callers. A new token is made here; the servers get its hash only."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

import click

from billet.commands.durations import Duration
from billet.commands.lists import as_dicts
from billet.commands.options import client_options, console, output_option
from billet.core.access import Role

if TYPE_CHECKING:
    from billet.client import Address

TOKEN_BYTES = 32


@click.group()
def token() -> None:
    """Create, list and revoke credentials: names of callers, and what they may do.

    \b
    First, an operator:  billet token create NAME --role operator
    A controller:        billet token create capmvm --role user -n 'prod-*'
    A dashboard:         billet token create grafana --role viewer
    From then on callers show their token (--token-file, or BILLET_TOKEN_FILE).

    \b
    viewer    sees hosts, placements, auctions and metrics
    user      also creates, reads and deletes microVMs in its namespaces
    operator  also changes hosts and credentials, in all namespaces
    """


@token.command()
@click.argument("name", metavar="NAME")
@click.option("--role", type=click.Choice([str(role) for role in Role]), required=True, help="What it may do.")
@click.option(
    "-n", "--namespace", "namespaces", multiple=True, metavar="PATTERN",
    help="Namespace in which it has its rights, or the beginning of some with * at its end: ci-*. Repeatable."
    " Required for role user; default for the others: all.",
)  # fmt: skip
@click.option("--exec", "may_exec", is_flag=True, help="It may also run commands in the microVMs there (exec, SSH).")
@click.option(
    "--expires-in", "expires_in_s", type=Duration(), default=0.0, metavar="DURATION",
    help="Time after which it is refused: a number and m, h, d or w, for example 30d.  [default: never]",
)  # fmt: skip
@click.option(
    "--certificate", default="", metavar="NAME",
    help="Make no token: the caller is known by this name in its client certificate, a URI (spiffe://...), a DNS"
    " name or the common name. The servers need --tls-client-validate.",
)  # fmt: skip
@client_options
@output_option
def create(
    address: Address, output: str, name: str, role: str, namespaces: tuple[str, ...],
    may_exec: bool, expires_in_s: float, certificate: str,
) -> None:  # fmt: skip
    """Create a credential, and print its token. It is shown only once: the servers keep a hash of it.

    The token alone goes to standard output: (umask 077; billet token create NAME ... > FILE).
    """
    from billet.client import Client
    from billet.wire.auth import hash_of
    from billet.wire.pb.fleet_pb2 import CreateCredentialReply, CreateCredentialRequest
    from billet.wire.pb.fleet_pb2 import Role as RoleNumber

    secret = "" if certificate else secrets.token_urlsafe(TOKEN_BYTES)
    request = CreateCredentialRequest(
        name=name, role=RoleNumber.Value(role.upper()), namespaces=namespaces, exec=may_exec,
        token_sha256=hash_of(secret) if secret else "", certificate=certificate, expires_in_s=expires_in_s,
    )  # fmt: skip
    with Client(address) as client:
        made = as_dicts(client.fleet("CreateCredential", request, CreateCredentialReply))["credential"]
    if output == "json":
        click.echo(json.dumps({**made, "token": secret}, indent=2))
        return
    if secret:
        click.echo(secret)
    proof = "Keep its token: it is not shown again" if secret else f"It is proven by certificate name {certificate}"
    click.echo(f"Created {_sentence(made)}. {proof}.", err=bool(secret))


@token.command("list")
@client_options
@output_option
def list_(address: Address, output: str) -> None:
    """List the credentials. Tokens are not shown: the servers do not have them."""
    from billet.client import Client
    from billet.show.tables import credentials_table
    from billet.wire.pb.fleet_pb2 import CredentialsReply, CredentialsRequest

    with Client(address) as client:
        rows = as_dicts(client.fleet("Credentials", CredentialsRequest(), CredentialsReply))["credentials"]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
    elif not rows:
        click.echo("There are no credentials. Create an operator's first: billet token create NAME --role operator")
    else:
        console().print(credentials_table(rows, time.time()))


@token.command()
@click.argument("name", metavar="NAME")
@client_options
@output_option
def revoke(address: Address, output: str, name: str) -> None:
    """Remove a credential. All servers refuse it within a few seconds."""
    from billet.client import Client
    from billet.wire.pb.fleet_pb2 import RevokeCredentialReply, RevokeCredentialRequest

    with Client(address) as client:
        client.fleet("RevokeCredential", RevokeCredentialRequest(name=name), RevokeCredentialReply)
    click.echo(json.dumps({"revoked": name}, indent=2) if output == "json" else f"{name} is revoked.")


def _sentence(made: dict[str, Any]) -> str:
    where = "all namespaces" if "*" in made["namespaces"] else ", ".join(made["namespaces"])
    rights = f"role {made['role'].lower()} in {where}" + (", with exec" if made["exec"] else "")
    until = "never expires"
    if made["expires_at_s"]:
        until = f"expires {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(made['expires_at_s']))}"
    return f"{made['name']}: {rights}, {until}"
