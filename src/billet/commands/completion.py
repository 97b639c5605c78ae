"""Names for the shell's completion: hosts, microVMs, namespaces, zones, as the servers know them at the moment.

README has the line that switches it on. Whatever fails here, the shell completes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from billet.core.errors import BilletError

if TYPE_CHECKING:
    from billet.client import Client
    from billet.wire.pb.fleet_pb2 import HostView, PlacementView

TIMEOUT_S = 3.0  # a person waits
SAFE = re.compile("[A-Za-z0-9._/:@-]+").fullmatch  # the shell would carry out `$(...)` in a name
MOST = 200  # a shell asks whether to show more than a hundred

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def live(names: Callable[[Client, click.Context], Iterable[str]]) -> Complete:
    """A completion by what a server says."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from billet.client import Client
        from billet.commands.options import address_of

        with suppress(BilletError, OSError), Client(address_of(ctx.params), TIMEOUT_S) as client:
            return sorted({name for name in names(client, ctx) if name.startswith(incomplete) and SAFE(name)})[:MOST]
        return []

    return complete


def _hosts(client: Client) -> Iterable[HostView]:
    from billet.wire.pb.fleet_pb2 import HostsReply, HostsRequest

    return client.fleet("Hosts", HostsRequest(), HostsReply).hosts


def _placements(client: Client, namespace: str = "") -> Iterable[PlacementView]:
    from billet.wire.pb.fleet_pb2 import PlacementsReply, PlacementsRequest

    return client.fleet("Placements", PlacementsRequest(namespace=namespace), PlacementsReply).placements


def _names(client: Client, ctx: click.Context) -> Iterable[str]:
    namespace = ctx.params.get("namespace") or ""
    for one in _placements(client, namespace):
        yield one.name if namespace else f"{one.namespace}/{one.name}"
        yield one.uid


hosts = live(lambda client, ctx: (one.id for one in _hosts(client)))
zones = live(lambda client, ctx: (one.zone for one in _hosts(client)))
namespaces = live(lambda client, ctx: (one.namespace for one in _placements(client)))
microvms = live(_names)
