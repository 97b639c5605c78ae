"""Chooses the implementation of gRPC. BILLET_GRPC_ENGINE: "ngh2" (Billet's own, the default) or "grpcio"."""

from __future__ import annotations

import os

from billet.core.errors import ConfigError
from billet.grpc import client as own_client
from billet.grpc import server as own_server
from billet.grpc.client import CLIENT_LIMITS
from billet.grpc.dial import Address
from billet.grpc.interface import Channel, Routes, Server
from billet.grpc.limits import Limits

VARIABLE = "BILLET_GRPC_ENGINE"
OWN, GRPCIO = "ngh2", "grpcio"


def chosen() -> str:
    """The engine's name. Raises ConfigError."""
    name = os.environ.get(VARIABLE) or OWN
    if name not in (OWN, GRPCIO):
        raise ConfigError(f"{VARIABLE} is {name!r}; choose {OWN} or {GRPCIO}")
    return name


def new_server(routes: Routes, limits: Limits | None = None) -> Server:
    """A server that does not listen yet."""
    if chosen() == OWN:
        return own_server.Server(routes, limits)
    from billet.grpc.grpcio import AioServer  # takes 100 ms to import

    return AioServer(routes, limits or Limits())


def new_channel(address: Address, limits: Limits = CLIENT_LIMITS) -> Channel:
    """A channel that does not connect yet. Raises ConfigError for TLS files that cannot be used."""
    if chosen() == OWN:
        return own_client.Channel(address, limits)
    from billet.grpc.grpcio import AioChannel  # takes 100 ms to import

    return AioChannel(address, limits)
