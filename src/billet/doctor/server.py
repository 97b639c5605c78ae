"""The checks of a server: its ports, its certificates, its store, and the other servers."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from billet.at_rest import server_files
from billet.config import ServerConfig
from billet.core.errors import BilletError, ConfigError
from billet.doctor.checks import Check, Level, certificates, clock, connects, port, secrets
from billet.ports import Leader
from billet.settings import secret_files, split_endpoint
from billet.store.open import open_store
from billet.store_watch import Health, Member
from billet.wire import tls

STORE_S = 10.0
FREE_MIB = 256  # below that, a store and its records soon have no room


async def check_server(config: ServerConfig) -> AsyncIterator[Check]:
    """All checks, one after the other."""
    yield clock()
    yield _data_dir(config.data_dir)
    for option, endpoint in _endpoints(config):
        yield port(option, endpoint)
    yield _name(config)
    for check in [*_tls(config), *secrets([*secret_files(config), *server_files(config.store, config.data_dir)])]:
        yield check
    if config.store.startswith("sqlite"):
        yield Check("store", Level.OK, f"{config.store}: one server, in the data folder")
        return
    async for check in _etcd(config):
        yield check


def _data_dir(folder: str) -> Check:
    if not os.access(folder, os.W_OK | os.X_OK):
        cure = f"run as the user of `billet server`, or chown {folder}"
        return Check("data folder", Level.FAILED, f"this user cannot write to {folder}", cure)
    free_mib = shutil.disk_usage(folder).free >> 20
    if free_mib < FREE_MIB:
        return Check("data folder", Level.FAILED, f"{folder} has only {free_mib} MiB free", "free space on its disk")
    return Check("data folder", Level.OK, f"{folder} has {free_mib} MiB free")


def _endpoints(config: ServerConfig) -> Iterator[tuple[str, str]]:
    """(option, endpoint) of each fixed port."""
    found = [("--grpc-endpoint", config.grpc_endpoint), ("--link-endpoint", config.link_endpoint)]
    found += [("--http-endpoint", config.http_endpoint)] if config.http_endpoint else []
    found += [("--endpoint", endpoint) for _, endpoint in config.zones]
    return ((option, endpoint) for option, endpoint in found if split_endpoint(endpoint)[1])


def _advertised(config: ServerConfig) -> str:
    """The name at which others reach this server (node.reachable)."""
    host = split_endpoint(config.link_endpoint)[0]
    return config.advertise_host or (socket.gethostname() if host in ("", "0.0.0.0", "::") else host)


def _name(config: ServerConfig) -> Check:
    name = _advertised(config)
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        cure = "set --advertise-host to a name or address at which agents and other servers reach this server"
        return Check("name", Level.FAILED, f"{name} does not resolve", cure)
    return Check("name", Level.OK, f"others reach this server at {name}")


def _tls(config: ServerConfig) -> Iterator[Check]:
    """Whether each certificate fits its key, names this server, and how long it is valid."""
    files = {
        "--tls-cert": config.tls_cert, "--tls-client-ca": config.tls_client_ca, "--servers-ca": config.servers_ca,
        "--link-tls-cert": config.link_tls_cert, "--link-client-ca": config.link_client_ca,
        "--etcd-tls-ca": config.etcd_tls_ca, "--etcd-tls-cert": config.etcd_tls_cert,
    }  # fmt: skip
    yield from certificates(files.items())
    pairs: list[tuple[str, str, Callable[[], ssl.SSLContext]]] = [
        ("--tls-cert", config.tls_cert, lambda: tls.server_context(config.tls_cert, config.tls_key)),
        ("--link-tls-cert", config.link_tls_cert,
         lambda: tls.server_context(config.link_tls_cert, config.link_tls_key)),
    ]  # fmt: skip
    for option, path, load in pairs:
        if path:
            yield _pair(option, path, load, _advertised(config))


def _pair(option: str, path: str, load: Callable[[], ssl.SSLContext], name: str) -> Check:
    try:
        load()
    except ConfigError as error:
        return Check(f"key {option}", Level.FAILED, error.text, f"give {option} and its key from the same issue")
    names = _names(path)
    if not any(covers(one, name) for one in names):
        cure = f"issue the certificate for {name}, or set --advertise-host to one of its names"
        found = f"the certificate is for {', '.join(names) or 'no name'}; others dial {name}"
        return Check(f"key {option}", Level.WARNING, found, cure)
    return Check(f"key {option}", Level.OK, f"fits the certificate, which names {name}")


def _names(path: str) -> list[str]:
    """The names in a certificate."""
    from cryptography import x509  # takes long to import

    certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def covers(pattern: str, name: str) -> bool:
    """Whether a name in a certificate, perhaps with a star as its first label, is that of a machine."""
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return pattern.lower() == name.lower().rstrip(".")


async def _etcd(config: ServerConfig) -> AsyncIterator[Check]:
    """etcd: whether it serves, each member, and the servers that stand for election in it."""
    cure = "start etcd, and check --store, --etcd-tls-ca, --etcd-user and the network; docs/store.md has each failure"
    try:
        store = open_store(
            config.store, config.data_dir, config.etcd_tls_ca, config.etcd_tls_cert, config.etcd_tls_key,
            config.etcd_user, config.etcd_password,
        )  # fmt: skip
    except BilletError as error:
        yield Check("etcd", Level.FAILED, error.text, cure)
        return
    try:
        async with asyncio.timeout(STORE_S):
            await store.open()
            health = await store.health()
    except (BilletError, TimeoutError) as error:
        health = Health(error.text if isinstance(error, BilletError) else f"no answer in {STORE_S:g} s", ())
    finally:
        await store.close()
    if health.why:
        yield Check("etcd", Level.FAILED, health.why, cure)
    for check in (*map(_member, health.members), *(Check("etcd", Level.WARNING, one) for one in health.troubles)):
        yield check
    others = [server for server in health.servers if server.id != config.id]
    for check in await asyncio.gather(*map(_other, others)):
        yield check


def _member(member: Member) -> Check:
    name = f"etcd {member.name}"
    if not member.answers:
        return Check(name, Level.FAILED, "does not answer", "start it, or remove it from --store if it is gone")
    return Check(name, Level.OK, f"version {member.version}" + (", leads" if member.leads else ""))


async def _other(server: Leader) -> Check:
    return await connects(f"server {server.id}", server.grpc, "open the path to its gRPC port, or start it again")
