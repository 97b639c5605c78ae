"""TLS 1.3 only, from flintlockd's own settings, for gRPC and for asyncio.

gRPC's Python has no setting for the lowest TLS version. The only lever is GRPC_SSL_CIPHER_SUITES, the list of suites
for TLS 1.2 (TLS 1.3 has its own suites). With a suite that needs a pre-shared key, which nobody has, no TLS 1.2
handshake can succeed, and TLS 1.3 is unaffected. gRPC reads the variable once, during `import grpc`; set later, it is
silently ignored. So billet/__init__.py sets it, and if gRPC was imported before that, this module refuses to make
credentials instead of making weak ones.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from billet import CIPHERS_VARIABLE, NO_TLS_1_2
from billet.core.errors import ConfigError
from billet.reloading import Kept

_IN_TIME = os.environ.get(CIPHERS_VARIABLE) == NO_TLS_1_2


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """A server's five TLS settings, named like flintlockd's flags. Paths of PEM files; "" = not set."""

    insecure: bool = False
    cert: str = ""
    key: str = ""
    client_validate: bool = False
    client_ca: str = ""

    def check(self) -> None:
        """Raise ConfigError for settings that contradict each other. Reads no file."""
        if self.insecure and (self.cert or self.key or self.client_validate or self.client_ca):
            raise ConfigError("insecure and TLS settings exclude each other: drop --insecure, or the --tls- flags")
        if self.insecure:
            return
        if not self.cert and not self.key:
            raise ConfigError("no TLS certificate: give --tls-cert and --tls-key, or --insecure for none")
        if not self.cert or not self.key:
            given, missing = ("--tls-cert", "--tls-key") if self.cert else ("--tls-key", "--tls-cert")
            raise ConfigError(f"{given} without {missing}: a certificate and its key go together")
        if self.client_validate and not self.client_ca:
            raise ConfigError(
                "--tls-client-validate needs --tls-client-ca: the CA that signed the clients' certificates"
            )


class ClientTls(NamedTuple):
    """A client's TLS files: PEM paths. `ca` "" = the system's CAs; `cert` and `key` are for mutual TLS."""

    ca: str = ""
    cert: str = ""
    key: str = ""


def server_ssl(settings: TlsSettings, *protocols: str) -> Kept[ssl.SSLContext] | None:
    """A server's SSL context for each new connection, None for plain text. `protocols` are ALPN's.

    Raises ConfigError.
    """
    settings.check()
    if settings.insecure:
        return None
    return kept_server(settings.cert, settings.key, settings.client_ca if settings.client_validate else "", protocols)


def server_credentials(settings: TlsSettings) -> grpc.ServerCredentials | None:
    """A gRPC server's credentials, None for plain text. Raises ConfigError."""
    settings.check()
    if settings.insecure:
        return None
    _require_tls_1_3()
    server_context(settings.cert, settings.key, settings.client_ca if settings.client_validate else "")
    client_ca = _read(settings.client_ca, "client CA") if settings.client_validate else None
    pair = (_read(settings.key, "key"), _read(settings.cert, "certificate"))
    return grpc.ssl_server_credentials([pair], client_ca, require_client_auth=settings.client_validate)


def channel_credentials(ca: str = "", cert: str = "", key: str = "") -> grpc.ChannelCredentials:
    """A gRPC client's credentials. `ca` "" = the system's CAs; `cert` and `key` are for mutual TLS."""
    _require_tls_1_3()
    client_context(ca, cert, key)
    return grpc.ssl_channel_credentials(
        _read(ca, "CA") if ca else None,
        _read(key, "key") if key else None,
        _read(cert, "certificate") if cert else None,
    )


def kept_server(cert: str, key: str, client_ca: str = "", protocols: Sequence[str] = ()) -> Kept[ssl.SSLContext]:
    """A server_context that follows its files. Raises ConfigError."""
    return Kept(lambda: server_context(cert, key, client_ca, protocols), (cert, key, client_ca), (cert, client_ca))


def kept_client(ca: str = "", cert: str = "", key: str = "", protocols: Sequence[str] = ()) -> Kept[ssl.SSLContext]:
    """A client_context that follows its files. Raises ConfigError."""
    return Kept(lambda: client_context(ca, cert, key, protocols), (ca, cert, key), (ca, cert))


def kept_credentials(
    ca: str, cert: str, key: str, changed: Callable[[grpc.ChannelCredentials], Awaitable[None]]
) -> Kept[grpc.ChannelCredentials]:
    """channel_credentials that follow their files. Raises ConfigError."""
    return Kept(lambda: channel_credentials(ca, cert, key), (ca, cert, key), (ca, cert), changed)


def server_context(cert: str, key: str, client_ca: str = "", protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """An SSL context for asyncio servers. With `client_ca`, clients need a certificate signed by it."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, protocols)
    _load_pair(context, cert, key)
    if client_ca:
        _load_ca(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str = "", cert: str = "", key: str = "", protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """An SSL context for asyncio clients. `ca` "" = the system's CAs; `cert` and `key` are for mutual TLS."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, protocols)
    if ca:
        _load_ca(context, ca)
    else:
        context.load_default_certs()
    if cert or key:
        if not cert or not key:
            raise ConfigError("a client certificate and its key go together: give both, or neither")
        _load_pair(context, cert, key)
    return context


def peer_expiry_s(transport: Any) -> float:
    """Until when the certificate is valid that a connection's peer has shown, in seconds since 1970; 0 = none."""
    ends = _peer_certificate(transport).get("notAfter")
    return float(ssl.cert_time_to_seconds(ends)) if ends else 0.0


def _peer_certificate(transport: Any) -> dict[str, Any]:
    ssl_object = transport.get_extra_info("ssl_object") if transport else None
    return (ssl_object.getpeercert() if ssl_object else None) or {}


def peer_names(transport: Any) -> frozenset[str]:
    """The names in the certificate that a connection's peer has shown: common names and DNS names."""
    shown = _peer_certificate(transport)
    common = [value for part in shown.get("subject", ()) for kind, value in part if kind == "commonName"]
    return frozenset(common + [value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS"])


def _context(protocol: int, alpn: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    _read(cert, "certificate")
    _read(key, "key")
    try:
        context.load_cert_chain(cert, key, partial(_passphrase, key))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{cert} and {key} are not a certificate and its key in PEM: {error}") from error


def _passphrase(key: str) -> str:
    """There is none: OpenSSL would ask for it on the terminal, and the process would wait."""
    raise ConfigError(f"the key {key} is encrypted: give one without a passphrase, in a file with mode 0600")


def _load_ca(context: ssl.SSLContext, ca: str) -> None:
    _read(ca, "CA")
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise ConfigError(f"{ca} contains no CA certificate in PEM") from error


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error


def _require_tls_1_3() -> None:
    if not _IN_TIME:
        raise ConfigError(
            "gRPC was loaded before billet.wire.tls, so it would still speak TLS 1.2: "
            f"set {CIPHERS_VARIABLE}={NO_TLS_1_2} in the environment, or import billet.wire.tls first"
        )
